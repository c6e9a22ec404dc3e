// The soft B-tree as differentiable ops: writing is through the live graph, so that gradients of later reads reach the
// encoders that made keys, values and write weights; reading is of a snapshot, so that its backward is of the tree as
// it was read, whatever was written since.
//
// f32 on the CPU. Errors: those of soft_btree.h; kInvalidArgument for shapes, dtypes, and inputs that are not on the
// tape. Threads: the tree's writer.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "ops/ops.h"
#include "ops/tape.h"
#include "replay/soft_btree.h"
#include "tensor/tensor_view.h"

namespace tandem::replay {

// Entries written together, and the tensors that they were written from. Reads give gradients to those as long as the
// entries are in the tree as they were written.
struct WrittenBatch {
  tensor::TensorView keys, values, weights;  // [m], [m,D], [m] or absent: all 1
  std::vector<EntryId> ids;
};

// Inserts a batch; nothing is computed that has a backward, yet with a tape its inputs must be on it.
[[nodiscard]] Result<WrittenBatch> soft_write(ops::Context& context, SoftBTree<float>& tree, tensor::TensorView keys,
                                              tensor::TensorView values, tensor::TensorView weights, ops::Tape* tape);

// queries [m] -> r(queries) [m,D]. Backward: gradients of the queries, and of the tensors of each batch in `written`,
// whose entries must all be in the snapshot; entries that are in none are constants.
[[nodiscard]] Result<tensor::TensorView> soft_read(ops::Context& context, const SoftBTreeSnapshot<float>& snapshot,
                                                   tensor::TensorView queries, std::vector<WrittenBatch> written,
                                                   ops::Tape* tape);

}  // namespace tandem::replay

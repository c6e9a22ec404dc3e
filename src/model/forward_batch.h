// What one forward of the transformer is given: packed tokens of several sequences, and where their keys and values
// live.
//
//   tokens       [T] i32   one sequence after another             positions  [T] i32   absolute, within the sequence
//   found        [F] i32   absent, or on CUDA what a token of -1 - n stands for: found[n], chosen by an earlier step
//   slots        [T] i64   cache slot of each token: block * P + offset
//   query_start  [B+1] i32 rows of sequence b: query_start[b] .. query_start[b+1]-1
//   context_len  [B] i32   tokens of sequence b in the cache after this step, these included
//   block_table  [B,blocks_max] i32
//   logit_rows   [N] i32   the rows of T whose logits are wanted, ascending
//   context_max            no context_len is greater; 0: than the block table has room for. No bit depends on it.
// All on the device of the stream that runs the forward; borrowed for the call.
#pragma once

#include "tensor/tensor_view.h"

namespace tandem::model {

struct ForwardBatch {
  tensor::TensorView tokens, positions, slots, query_start, context_len, block_table, logit_rows;
  std::int64_t context_max = 0;
  tensor::TensorView found = tensor::TensorView();
};

}  // namespace tandem::model

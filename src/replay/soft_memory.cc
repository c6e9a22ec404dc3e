#include "replay/soft_memory.h"

#include <algorithm>
#include <initializer_list>

namespace tandem::replay {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

Status expect_floats(const char* op, const char* name, const TensorView& view,
                     std::initializer_list<std::int64_t> shape) {
  bool fits = view.dtype() == DType::kF32 && view.is_dense() && view.device() == device::Device{} &&
              view.rank() == static_cast<int>(shape.size());
  int axis = 0;
  for (const std::int64_t extent : shape) fits = fits && view.extent(axis++) == extent;
  if (fits) return ok_status();
  return invalid_argument("{}: {} is {} {} on {}; expected {} dense f32 axes on the cpu that agree with the others", op,
                          name, view.shape().to_string(), tensor::dtype_name(view.dtype()),
                          device::to_string(view.device()), shape.size());
}

std::span<const float> floats(const TensorView& view) {
  if (!view) return {};
  return {view.as<const float>(), static_cast<std::size_t>(view.count())};
}

// to[i, :] += from[ids[i], :], rows of `width`; nothing without `to`.
void gather_add(const std::vector<float>& from, const std::vector<EntryId>& ids, std::size_t width, TensorView to) {
  if (!to) return;
  float* const rows = to.as<float>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (std::size_t j = 0; j < width; ++j) rows[i * width + j] += from[ids[i] * width + j];
  }
}

Status backward_of_read(const SoftBTreeSnapshot<float>& snapshot, ops::Tape& tape, TensorView queries,
                        const std::vector<WrittenBatch>& written, TensorView reads) {
  const TensorView d_reads = TD_TRY(tape.grad(reads));
  const TensorView d_queries = TD_TRY(tape.grad_if_wanted(queries));
  struct Gradients {
    TensorView keys, values, weights;
  };
  std::vector<Gradients> of_batches;
  for (const WrittenBatch& batch : written) {
    of_batches.push_back({TD_TRY(tape.grad_if_wanted(batch.keys)), TD_TRY(tape.grad_if_wanted(batch.values)),
                          TD_TRY(tape.grad_if_wanted(batch.weights))});
  }
  if (tape.arena().is_planning()) return ok_status();
  const auto wants = [&](TensorView WrittenBatch::*role) {
    return std::ranges::any_of(written, [&](const WrittenBatch& batch) { return tape.wants(batch.*role); });
  };
  // By entry, for all entries: a batch's own are picked out below.
  const std::size_t ids_end = snapshot.ids_end(), D = static_cast<std::size_t>(snapshot.value_width());
  std::vector<float> keys(wants(&WrittenBatch::keys) ? ids_end : 0);
  std::vector<float> values(wants(&WrittenBatch::values) ? ids_end * D : 0);
  std::vector<float> weights(wants(&WrittenBatch::weights) ? ids_end : 0);
  SoftBTreeGradients<float> gradients{.keys = keys, .values = values, .weights = weights};
  if (d_queries) gradients.queries = {d_queries.as<float>(), static_cast<std::size_t>(d_queries.count())};
  TD_TRY(snapshot.backward(floats(queries), floats(d_reads), {}, gradients));
  for (std::size_t b = 0; b < written.size(); ++b) {
    gather_add(keys, written[b].ids, 1, of_batches[b].keys);
    gather_add(values, written[b].ids, D, of_batches[b].values);
    gather_add(weights, written[b].ids, 1, of_batches[b].weights);
  }
  return ok_status();
}

}  // namespace

Result<WrittenBatch> soft_write(ops::Context& context, SoftBTree<float>& tree, TensorView keys, TensorView values,
                                TensorView weights, ops::Tape* tape) {
  constexpr const char* kOp = "soft_write";
  const std::int64_t m = keys.rank() == 1 ? keys.extent(0) : 0;
  TD_TRY(expect_floats(kOp, "keys", keys, {m}));
  TD_TRY(expect_floats(kOp, "values", values, {m, tree.options().value_width}));
  if (weights) TD_TRY(expect_floats(kOp, "weights", weights, {m}));
  if (tape != nullptr) {
    TD_TRY(tape->expect(kOp, "keys", keys));
    TD_TRY(tape->expect(kOp, "values", values));
    TD_TRY(tape->expect(kOp, "weights", weights));
  }
  WrittenBatch batch{keys, values, weights, {}};
  if (context.arena.is_planning()) return batch;
  batch.ids.resize(static_cast<std::size_t>(m));
  TD_TRY(tree.insert_batch(floats(keys), floats(values), floats(weights), batch.ids));
  return batch;
}

Result<TensorView> soft_read(ops::Context& context, const SoftBTreeSnapshot<float>& snapshot, TensorView queries,
                             std::vector<WrittenBatch> written, ops::Tape* tape) {
  constexpr const char* kOp = "soft_read";
  const std::int64_t m = queries.rank() == 1 ? queries.extent(0) : 0;
  TD_TRY(expect_floats(kOp, "queries", queries, {m}));
  if (tape != nullptr) TD_TRY(tape->expect(kOp, "queries", queries));
  for (const WrittenBatch& batch : written) {
    for (const EntryId id : batch.ids) {
      if (id >= snapshot.ids_end()) return not_found("{}: entry {} was written after the snapshot was taken", kOp, id);
    }
  }
  const TensorView reads = ops::take(context, DType::kF32, Shape{m, snapshot.value_width()});
  if (!context.arena.is_planning()) {
    TD_TRY(snapshot.read(floats(queries), {reads.as<float>(), static_cast<std::size_t>(reads.count())}));
  }
  if (tape == nullptr) return reads;
  TD_TRY(tape->record(kOp, {reads}, [snapshot, tape, queries, written = std::move(written), reads] {
    return backward_of_read(snapshot, *tape, queries, written, reads);
  }));
  return reads;
}

}  // namespace tandem::replay

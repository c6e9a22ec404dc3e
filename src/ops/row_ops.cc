// Ops that take rows or elements one by one, and their backwards: look-ups, gates, caps.
#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/moe/moe.h"
#include "kernels/softmax/softmax.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

// What y[t] = scale * table[ids[t]] adds to the table's gradient, if that is wanted.
Status backward_of_rows(Context& context, Tape& tape, TensorView ids, TensorView table, float scale, TensorView y) {
  const TensorView dtable = TD_TRY(tape.grad_if_wanted(table));
  if (!dtable) return ok_status();
  const TensorView dy = TD_TRY(tape.grad(y));
  if (context.arena.is_planning()) return ok_status();
  const auto run = on_cuda(context) ? kernels::embedding_backward_cuda : kernels::embedding_backward_cpu;
  return run(ids, dy, scale, dtable, context.stream);
}

}  // namespace

Result<TensorView> embedding(Context& context, TensorView ids, TensorView table, float scale, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "embedding", {{"table", table}}));
  const TensorView y = take(context, DType::kF32, Shape{ids.extent(0), table.extent(1)});
  if (!context.arena.is_planning()) {
    TD_TRY(on_cuda(context) ? kernels::embedding_cuda(ids, table, scale, y, context.stream)
                            : kernels::embedding_cpu(ids, table, scale, y, context.stream));
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("embedding", {y},
                        [=]() mutable { return backward_of_rows(context, *tape, ids, table, scale, y); }));
  }
  return y;
}

Result<TokenInputs> token_inputs(Context& context, TensorView ids, TensorView found, TensorView table, float scale,
                                 TensorView positions, std::span<const Frequencies> frequencies, Tape* tape) {
  TokenInputs inputs;
  if (!on_cuda(context) || tape != nullptr || frequencies.size() > kernels::kAngleTablesMax) {
    if (found) return invalid_argument("token_inputs: tokens that a kernel found are for CUDA, without a tape");
    for (const Frequencies& of : frequencies) {
      inputs.tables.push_back(TD_TRY(rope_table(context, positions, of.inv_freq, of.attention_factor)));
    }
    inputs.x = TD_TRY(embedding(context, ids, table, scale, tape));
    return inputs;
  }
  std::vector<kernels::AngleTable> angles;
  for (const Frequencies& of : frequencies) {
    const Shape shape{positions.extent(0), of.inv_freq.extent(0)};
    inputs.tables.push_back({take(context, DType::kF32, shape), take(context, DType::kF32, shape)});
    angles.push_back({of.inv_freq, of.attention_factor, inputs.tables.back().cos, inputs.tables.back().sin});
  }
  inputs.x = take(context, DType::kF32, Shape{ids.extent(0), table.extent(1)});
  if (context.arena.is_planning()) return inputs;
  TD_TRY(kernels::embedding_cuda(ids, table, scale, inputs.x, context.stream, {found, positions, angles}));
  return inputs;
}

Result<TensorView> gather_rows(Context& context, TensorView x, TensorView rows, Tape* tape) {
  return gather_rows_into(context, x, rows, take(context, x.dtype(), Shape{rows.extent(0), x.extent(1)}), tape);
}

Result<TensorView> gather_rows_into(Context& context, TensorView x, TensorView rows, TensorView y, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "gather_rows", {{"x", x}}));
  if (!context.arena.is_planning()) {
    if (on_cuda(context)) {
      TD_TRY(kernels::embedding_cuda(rows, x, 1.0f, y, context.stream));
    } else {
      TD_TRY(kernels::moe_gather_cpu(x, rows, y, context.stream));
    }
  }
  if (tape != nullptr) {
    TD_TRY(
        tape->record("gather_rows", {y}, [=]() mutable { return backward_of_rows(context, *tape, rows, x, 1.0f, y); }));
  }
  return y;
}

Result<TensorView> gate(Context& context, TensorView gate, TensorView up, kernels::Activation activation, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "gate", {{"gate", gate}, {"up", up}}));
  const TensorView y = take(context, product_dtype(context), gate.shape());
  if (!context.arena.is_planning()) {
    const auto run = on_cuda(context) ? kernels::gate_cuda : kernels::gate_cpu;
    TD_TRY(run(gate, up, activation, y, context.stream));
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("gate", {y}, [=]() mutable -> Status {
      const TensorView dy = TD_TRY(tape->grad(y));
      const TensorView dgate = TD_TRY(tape->grad_if_wanted(gate));
      const TensorView dup = TD_TRY(tape->grad_if_wanted(up));
      if (context.arena.is_planning()) return ok_status();
      const auto run = on_cuda(context) ? kernels::gate_backward_cuda : kernels::gate_backward_cpu;
      return run(gate, up, activation, dy, dgate, dup, context.stream);
    }));
  }
  return y;
}

Result<TensorView> softcap(Context& context, TensorView x, float cap, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "softcap", {{"x", x}}));
  const TensorView y = tape == nullptr ? x : take(context, DType::kF32, x.shape());
  if (!context.arena.is_planning()) {
    const auto run = on_cuda(context) ? kernels::softcap_cuda : kernels::softcap_cpu;
    TD_TRY(run(x, cap, y, context.stream));
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("softcap", {y}, [=]() mutable -> Status {
      const TensorView dx = TD_TRY(tape->grad_if_wanted(x));
      if (!dx) return ok_status();
      const TensorView dy = TD_TRY(tape->grad(y));
      if (context.arena.is_planning()) return ok_status();
      const auto run = on_cuda(context) ? kernels::softcap_backward_cuda : kernels::softcap_backward_cpu;
      return run(y, cap, dy, dx, context.stream);
    }));
  }
  return y;
}

}  // namespace tandem::ops

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
    const auto run = on_cuda(context) ? kernels::embedding_cuda : kernels::embedding_cpu;
    TD_TRY(run(ids, table, scale, y, context.stream));
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("embedding", {y},
                        [=]() mutable { return backward_of_rows(context, *tape, ids, table, scale, y); }));
  }
  return y;
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

// Norm and rotation of heads, between the projections of an attention layer and attention.
#include "kernels/rope/qk_norm_rope.h"
#include "kernels/rope/rope.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

// Whether whole rows are normalised: what CUDA does apart from the turning.
bool normalises_rows(TensorView x, const kernels::QkNormRope& params) {
  return params.weight && params.weight.extent(0) != x.extent(2);
}
NormParams norm_of(const kernels::QkNormRope& params) { return {params.eps, params.offset}; }

// Heads next to each other, as one row; absent stays absent.
Result<TensorView> whole_rows(const char* name, TensorView x) {
  if (!x) return x;
  if (x.count() > 0 && !x.is_dense_from(1)) {
    return invalid_argument("norm_rope: {} has gaps between its heads; whole rows are normalised where heads are dense",
                            name);
  }
  return as_rows(x);
}

Status norm_rope_on_cuda(Context& context, TensorView x, kernels::QkNormRope params, TensorView y) {
  if (normalises_rows(x, params)) {
    const TensorView x_rows = TD_TRY(whole_rows("x", x)), y_rows = TD_TRY(whole_rows("y", y));
    TD_TRY(run_rms_norm(context, x_rows, params.weight, norm_of(params), y_rows));
    params.weight = TensorView();
    x = y;
  }
  const kernels::QkNormRopeCall call{x, params, y};
  return kernels::qk_norm_rope_cuda(std::span(&call, 1), context.stream);
}

Status run_norm_rope(Context& context, TensorView x, const kernels::QkNormRope& params, TensorView y) {
  if (context.arena.is_planning()) return ok_status();
  if (on_cuda(context)) return norm_rope_on_cuda(context, x, params, y);
  if (!params.weight && y.data() == x.data()) return kernels::rope_cpu(x, params.cos, params.sin, context.stream);
  return kernels::qk_norm_rope_cpu(x, params, y, context.stream);
}

// Turns dy back, and undoes the norm of heads if there is one: into dx, which is dy or is added to.
Status norm_rope_heads_backward_on_cuda(Context& context, TensorView x, const kernels::QkNormRope& params,
                                        TensorView dy, TensorView dx, TensorView dweight) {
  const device::Arena::Scope scope(context.arena);
  const std::int64_t half = params.cos.extent(1);
  const auto scratch = take_scratch(
      context,
      dweight ? kernels::qk_norm_rope_backward_cuda_scratch_bytes(x.extent(0), x.extent(1), x.extent(2), half) : 0);
  if (context.arena.is_planning()) return ok_status();
  const bool in_place = dx && dx.data() == dy.data();
  const kernels::QkNormRopeBackwardCall call{x, params, dy, dx, dweight};
  return kernels::qk_norm_rope_backward_cuda(std::span(&call, 1),
                                             in_place ? kernels::GradientMode::kWrite : kernels::GradientMode::kAdd,
                                             scratch, context.stream);
}

Status norm_rope_backward_on_cuda(Context& context, Tape& tape, TensorView x, const kernels::QkNormRope& params,
                                  TensorView dy, TensorView dx) {
  kernels::QkNormRope turning = params;
  turning.weight = TensorView();
  if (normalises_rows(x, params)) {
    const TensorView x_rows = TD_TRY(whole_rows("x", x)), dy_rows = TD_TRY(whole_rows("dy", dy)),
                     dx_rows = TD_TRY(whole_rows("dx", dx));
    TD_TRY(norm_rope_heads_backward_on_cuda(context, x, turning, dy, dy, TensorView()));
    return run_rms_norm_backward(context, tape, x_rows, params.weight, norm_of(params), dy_rows, dx_rows);
  }
  if (!params.weight) return norm_rope_heads_backward_on_cuda(context, x, turning, dy, dx ? dx : dy, TensorView());
  const TensorView dweight = TD_TRY(tape.grad_if_wanted(params.weight));
  return norm_rope_heads_backward_on_cuda(context, x, params, dy, dx, dweight);
}

// `dy` may be turned back where it lies; nothing else needs it. `dx` may be absent; then that, if there is no norm.
Status run_norm_rope_backward(Context& context, Tape& tape, TensorView x, const kernels::QkNormRope& params,
                              TensorView dy, TensorView dx) {
  if (on_cuda(context)) return norm_rope_backward_on_cuda(context, tape, x, params, dy, dx);
  const TensorView dweight = TD_TRY(tape.grad_if_wanted(params.weight));
  const device::Arena::Scope scope(context.arena);
  const auto scratch =
      take_scratch(context, kernels::qk_norm_rope_backward_scratch_bytes(x.extent(0), x.extent(1), x.extent(2)));
  if (context.arena.is_planning()) return ok_status();
  return kernels::qk_norm_rope_backward_cpu(x, params, dy, dx, dweight, scratch, context.stream);
}

}  // namespace

Result<RopeTable> rope_table(Context& context, TensorView positions, TensorView inv_freq, float attention_factor) {
  const Shape shape{positions.extent(0), inv_freq.extent(0)};
  const RopeTable table{take(context, DType::kF32, shape), take(context, DType::kF32, shape)};
  if (!context.arena.is_planning()) {
    const auto run = on_cuda(context) ? kernels::rope_table_cuda : kernels::rope_table_cpu;
    TD_TRY(run(positions, inv_freq, attention_factor, table.cos, table.sin, context.stream));
  }
  return table;
}

Result<TensorView> norm_rope(Context& context, TensorView x, TensorView weight, const NormParams& norm,
                             const RopeTable& table, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "norm_rope", {{"x", x}, {"weight", weight}}));
  const kernels::QkNormRope params{weight, norm.eps, norm.offset, table.cos, table.sin};
  const TensorView y = tape == nullptr ? x : take(context, DType::kF32, x.shape());
  TD_TRY(run_norm_rope(context, x, params, y));
  if (tape != nullptr) {
    TD_TRY(tape->record("norm_rope", {y}, [context, tape, x, params, y]() mutable -> Status {
      const TensorView dy = TD_TRY(tape->grad(y));
      const TensorView dx = TD_TRY(tape->grad_if_wanted(x));
      return run_norm_rope_backward(context, *tape, x, params, dy, dx);
    }));
  }
  return y;
}

Result<Projected> norm_rope_heads(Context& context, const Projected& x, const HeadNorm& norm, const RopeTable& table,
                                  Tape* tape) {
  if (norm.q_weight || norm.k_weight) {
    return Projected{TD_TRY(norm_rope(context, x.q, norm.q_weight, norm.params, table, tape)),
                     TD_TRY(norm_rope(context, x.k, norm.k_weight, norm.params, table, tape)), x.v};
  }
  // A rotation's backward needs none of its input, so that it can happen where the heads lie.
  TD_TRY(expect_on_tape(context, tape, "norm_rope_heads", {{"q", x.q}, {"k", x.k}}));
  for (const TensorView& heads : {x.q, x.k}) {
    if (tape != nullptr) TD_TRY(tape->expect_made("norm_rope_heads", heads));
  }
  const kernels::QkNormRope params{TensorView(), 0.0f, 0.0f, table.cos, table.sin};
  for (const TensorView& heads : {x.q, x.k}) {
    TD_TRY(run_norm_rope(context, heads, params, heads));
    if (tape == nullptr) continue;
    TD_TRY(tape->record_in_place("norm_rope_heads", heads, [context, tape, heads, params]() mutable -> Status {
      const TensorView gradient = TD_TRY(tape->grad(heads));
      return run_norm_rope_backward(context, *tape, heads, params, gradient, TensorView());
    }));
  }
  return x;
}

}  // namespace tandem::ops

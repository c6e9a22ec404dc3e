// The ops between the projections of an attention layer that have a backward: norm and rotation of heads, attention.
#include "kernels/rope/qk_norm_rope.h"
#include "kernels/rope/rope.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

Status run_norm_rope(Context& context, TensorView x, const kernels::QkNormRope& params, TensorView y) {
  if (context.arena.is_planning()) return ok_status();
  if (on_cuda(context)) return invalid_argument("norm_rope: no f32 heads on CUDA; attention() turns them itself");
  if (!params.weight && y.data() == x.data()) return kernels::rope_cpu(x, params.cos, params.sin, context.stream);
  return kernels::qk_norm_rope_cpu(x, params, y, context.stream);
}

// `dy` is turned back where it lies; nothing else needs it. `dx` may be absent.
Status run_norm_rope_backward(Context& context, Tape& tape, TensorView x, const kernels::QkNormRope& params,
                              TensorView dy, TensorView dx) {
  const TensorView dweight = TD_TRY(tape.grad_if_wanted(params.weight));
  const device::Arena::Scope scope(context.arena);
  const auto scratch =
      take_scratch(context, kernels::qk_norm_rope_backward_scratch_bytes(x.extent(0), x.extent(1), x.extent(2)));
  if (context.arena.is_planning()) return ok_status();
  return kernels::qk_norm_rope_backward_cpu(x, params, dy, dx, dweight, scratch, context.stream);
}

// Whether some row of q belongs to no segment: attention then leaves its output as it was.
bool has_padding(const kernels::FusedAttentionPlan& plan) {
  std::int64_t queries = 0;
  for (const kernels::AttentionSegment& segment : plan.segments()) queries += segment.query_count;
  return queries < plan.shape().T;
}

// Gradients of attention's inputs. Its kernel writes rather than adds, so it writes into the tape's gradients if they
// are new, hence zero, and lie apart, and into scratch that is then added otherwise.
class AttentionGradients {
 public:
  static Result<AttentionGradients> create(Context& context, Tape& tape, const Projected& inputs, TensorView sinks) {
    AttentionGradients all;
    const auto& [q, k, v] = inputs;
    const bool is_apart = q.data() != k.data() && k.data() != v.data() && v.data() != q.data();
    const bool is_new = is_apart && !tape.has_grad(q) && !tape.has_grad(k) && !tape.has_grad(v);
    all.q_ = TD_TRY(make(context, tape, q, is_new));
    all.k_ = TD_TRY(make(context, tape, k, is_new));
    all.v_ = TD_TRY(make(context, tape, v, is_new));
    if (sinks) all.sinks_ = TD_TRY(make(context, tape, sinks, !tape.has_grad(sinks)));
    return all;
  }
  kernels::FusedAttentionGradients written() const { return {q_.written, k_.written, v_.written, sinks_.written}; }
  Status add_scratch(Context& context) const {
    for (const One& one : {q_, k_, v_, sinks_}) {
      if (!one.total) continue;
      const bool is_row = one.total.rank() == 1;
      const auto shaped = [&](TensorView view) { return is_row ? view.reshape({1, view.count()}) : view; };
      TD_TRY(add_to(context, shaped(one.total), shaped(one.written), 1.0f));
    }
    return ok_status();
  }

 private:
  struct One {
    TensorView written, total;  // total: to which what was written is added; absent if it is the same, or not wanted
  };
  static Result<One> make(Context& context, Tape& tape, TensorView input, bool directly) {
    if (directly && tape.wants(input)) return One{TD_TRY(tape.grad(input)), TensorView()};
    const TensorView total = TD_TRY(tape.grad_if_wanted(input));
    const TensorView written = take(context, DType::kF32, input.shape());
    if (!context.arena.is_planning()) fill_zeros(context.stream, written.as<float>(), written.count());
    return One{written, total};
  }
  One q_, k_, v_, sinks_;
};

Status backward_of_attention(Context& context, Tape& tape, const Projected& inputs, TensorView sinks,
                             const kernels::FusedAttentionPlan& plan, const kernels::FusedAttentionParams& params,
                             TensorView out, TensorView lse_ln) {
  const TensorView dout = TD_TRY(tape.grad(out));
  const device::Arena::Scope scope(context.arena);
  const AttentionGradients gradients = TD_TRY(AttentionGradients::create(context, tape, inputs, sinks));
  const auto scratch = take_scratch(
      context, kernels::fused_attention_backward_scratch_bytes(plan, context.stream.pool().threads_count()));
  if (context.arena.is_planning()) return ok_status();
  TD_TRY(kernels::fused_attention_backward({inputs.q, inputs.k, inputs.v, sinks}, plan, TensorView(), params, out,
                                           lse_ln, dout, TensorView(), gradients.written(), scratch, context.stream));
  return gradients.add_scratch(context);
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

Result<TensorView> fused_attention(Context& context, const Projected& inputs, TensorView sinks,
                                   const kernels::FusedAttentionPlan& plan, const kernels::FusedAttentionParams& params,
                                   Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "fused_attention",
                        {{"q", inputs.q}, {"k", inputs.k}, {"v", inputs.v}, {"sinks", sinks}}));
  if (on_cuda(context)) return invalid_argument("fused_attention: the op has no f32 heads on CUDA yet");
  const std::int64_t T = inputs.q.extent(0), H = inputs.q.extent(1), D = inputs.q.extent(2);
  const TensorView out = take(context, DType::kF32, Shape{T, H, D});
  const TensorView lse_ln = tape == nullptr ? TensorView() : take(context, DType::kF32, Shape{H, T});
  {
    const device::Arena::Scope scope(context.arena);
    const auto scratch = take_scratch(
        context, kernels::fused_attention_forward_scratch_bytes(plan, context.stream.pool().threads_count()));
    if (!context.arena.is_planning()) {
      if (has_padding(plan)) fill_zeros(context.stream, out.as<float>(), out.count());
      TD_TRY(kernels::fused_attention_forward({inputs.q, inputs.k, inputs.v, sinks}, plan, TensorView(), params, out,
                                              lse_ln, scratch, context.stream));
    }
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("fused_attention", {out}, [context, tape, inputs, sinks, &plan, params, out, lse_ln]() mutable {
      return backward_of_attention(context, *tape, inputs, sinks, plan, params, out, lse_ln);
    }));
  }
  return out.reshape(Shape{T, H * D});
}

}  // namespace tandem::ops

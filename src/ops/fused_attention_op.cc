// Attention without a cache as an op.
#include "device/memory.h"
#include "kernels/elementwise/elementwise.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

// Whether some row of q belongs to no segment: attention then leaves its output as it was.
bool has_padding(const kernels::FusedAttentionPlan& plan) {
  std::int64_t queries = 0;
  for (const kernels::AttentionSegment& segment : plan.segments()) queries += segment.query_count;
  return queries < plan.shape().T;
}

// What attention reads for f32 heads: on CUDA, dense scratch with their roundings.
Result<TensorView> operand(Context& context, TensorView heads) {
  if (!on_cuda(context)) return heads;
  if (heads.count() > 0 && !heads.is_dense_from(1)) {
    return invalid_argument("fused_attention: there are gaps between heads; copy them");
  }
  const TensorView rounded = take(context, product_dtype(context), heads.shape());
  if (context.arena.is_planning()) return rounded;
  TD_TRY(kernels::scale_cuda(as_rows(heads), 1.0f, as_rows(rounded), context.stream));
  return rounded;
}
Result<kernels::FusedAttentionInputs> operands(Context& context, const Projected& inputs, TensorView sinks) {
  return kernels::FusedAttentionInputs{TD_TRY(operand(context, inputs.q)), TD_TRY(operand(context, inputs.k)),
                                       TD_TRY(operand(context, inputs.v)), sinks};
}

// Whether two tensors of rows have no element in common: they lie one behind the other, or in columns of their own of
// one buffer's rows.
bool lie_apart(const TensorView& a, const TensorView& b) {
  if (a.count() == 0 || b.count() == 0) return true;
  const bool in_order = a.data() <= b.data();
  const TensorView &first = in_order ? a : b, &second = in_order ? b : a;
  const std::int64_t begin = second.as<float>() - first.as<float>(), pitch = first.stride(0);
  const auto width = [](const TensorView& view) {  // of a row, with the gaps between its heads
    return (view.extent(1) - 1) * view.stride(1) + view.extent(2);
  };
  if (begin >= (first.extent(0) - 1) * pitch + width(first)) return true;
  const bool has_columns = pitch == second.stride(0) && pitch > 0;
  return has_columns && begin % pitch >= width(first) && begin % pitch + width(second) <= pitch;
}

// Gradients of attention's inputs. Its kernel writes rather than adds: on the CPU into the tape's gradients if they are
// new, hence zero, and lie apart; otherwise, and on CUDA, into scratch that is then added.
class AttentionGradients {
 public:
  static Result<AttentionGradients> create(Context& context, Tape& tape, const Projected& inputs, TensorView sinks) {
    AttentionGradients all;
    const auto& [q, k, v] = inputs;
    const bool is_apart = lie_apart(q, k) && lie_apart(k, v) && lie_apart(v, q);
    const bool is_new = is_apart && !tape.has_grad(q) && !tape.has_grad(k) && !tape.has_grad(v);
    const DType dtype = product_dtype(context);
    all.q_ = TD_TRY(make(context, tape, q, dtype, is_new));
    all.k_ = TD_TRY(make(context, tape, k, dtype, is_new));
    all.v_ = TD_TRY(make(context, tape, v, dtype, is_new));
    if (sinks) all.sinks_ = TD_TRY(make(context, tape, sinks, DType::kF32, !tape.has_grad(sinks)));
    return all;
  }
  kernels::FusedAttentionGradients written() const { return {q_.written, k_.written, v_.written, sinks_.written}; }
  Status add_scratch(Context& context) const {
    for (const One& one : {q_, k_, v_, sinks_}) {
      if (!one.total || context.arena.is_planning()) continue;
      const bool is_row = one.total.rank() == 1;
      const auto shaped = [&](TensorView view) { return is_row ? view.reshape({1, view.count()}) : view; };
      if (one.is_new && !is_row && on_cuda(context) && one.total.is_dense_from(1)) {
        TD_TRY(kernels::scale_cuda(as_rows(one.written), 1.0f, as_rows(one.total), context.stream));
      } else {
        TD_TRY(add_to(context, shaped(one.total), shaped(one.written), 1.0f));
      }
    }
    return ok_status();
  }

 private:
  struct One {
    TensorView written, total;  // total: to which what was written is added; absent if it is the same, or not wanted
    bool is_new = false;        // total: is zero
  };
  static Result<One> make(Context& context, Tape& tape, TensorView input, DType dtype, bool directly) {
    if (directly && dtype == DType::kF32 && tape.wants(input)) return One{TD_TRY(tape.grad(input)), TensorView()};
    const TensorView total = TD_TRY(tape.grad_if_wanted(input));
    const TensorView written = take(context, dtype, input.shape());
    if (!context.arena.is_planning()) TD_TRY(fill_zeros(context.stream, written));
    return One{written, total, directly};
  }
  One q_, k_, v_, sinks_;
};

Status backward_of_attention(Context& context, Tape& tape, const Projected& inputs, TensorView sinks,
                             const PlacedPlan& placed, const kernels::FusedAttentionParams& params, TensorView out,
                             TensorView lse_ln) {
  const TensorView dout = TD_TRY(tape.grad(out));
  const device::Arena::Scope scope(context.arena);
  const AttentionGradients gradients = TD_TRY(AttentionGradients::create(context, tape, inputs, sinks));
  const kernels::FusedAttentionInputs read = TD_TRY(operands(context, inputs, sinks));
  const TensorView dout_read = TD_TRY(operand(context, dout));
  const auto scratch =
      take_scratch(context, kernels::fused_attention_backward_scratch_bytes(*placed.plan, threads_of(context)));
  if (context.arena.is_planning()) return ok_status();
  TD_TRY(kernels::fused_attention_backward(read, *placed.plan, placed.words, params, out, lse_ln, dout_read,
                                           TensorView(), gradients.written(), scratch, context.stream));
  return gradients.add_scratch(context);
}

}  // namespace

Result<PlacedPlan> place(Context& context, const kernels::FusedAttentionPlan& plan) {
  if (!on_cuda(context)) return PlacedPlan(plan);
  const auto words = plan.words();
  const TensorView there = take(context, DType::kI32, Shape{static_cast<std::int64_t>(words.size())});
  if (!context.arena.is_planning()) {
    TD_TRY(device::copy(there.data(), words.data(), words.size_bytes(), context.stream));
  }
  return PlacedPlan(plan, there);
}

Result<TensorView> fused_attention(Context& context, const Projected& inputs, TensorView sinks,
                                   const PlacedPlan& placed, const kernels::FusedAttentionParams& params, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "fused_attention",
                        {{"q", inputs.q}, {"k", inputs.k}, {"v", inputs.v}, {"sinks", sinks}}));
  if (on_cuda(context) && context.compute != kernels::Compute::kBf16) {
    return invalid_argument("fused_attention: there is no f32 attention on CUDA; give Compute::kBf16");
  }
  const kernels::FusedAttentionPlan& plan = *placed.plan;
  const std::int64_t T = inputs.q.extent(0), H = inputs.q.extent(1), D = inputs.q.extent(2);
  const TensorView out = take(context, product_dtype(context), Shape{T, H, D});
  const TensorView lse_ln = tape == nullptr ? TensorView() : take(context, DType::kF32, Shape{H, T});
  {
    const device::Arena::Scope scope(context.arena);
    const kernels::FusedAttentionInputs read = TD_TRY(operands(context, inputs, sinks));
    const auto scratch =
        take_scratch(context, kernels::fused_attention_forward_scratch_bytes(plan, threads_of(context)));
    if (!context.arena.is_planning()) {
      if (has_padding(plan)) TD_TRY(fill_zeros(context.stream, out));
      TD_TRY(kernels::fused_attention_forward(read, plan, placed.words, params, out, lse_ln, scratch, context.stream));
    }
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("fused_attention", {out}, [=]() mutable {
      return backward_of_attention(context, *tape, inputs, sinks, placed, params, out, lse_ln);
    }));
  }
  return out.reshape(Shape{T, H * D});
}

}  // namespace tandem::ops

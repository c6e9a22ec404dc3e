// The ops of dense layers that have a backward: norm, projections, sums.
#include <algorithm>
#include <array>
#include <optional>

#include "kernels/elementwise/elementwise.h"
#include "kernels/norm/norm.h"
#include "ops/support.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;

// What a linear layer adds to the gradients, given its output y.
Status backward_of_linear(Context& context, Tape& tape, TensorView x, TensorView weight,
                          const kernels::LinearEpilogue& epilogue, TensorView y) {
  const TensorView dy = TD_TRY(tape.grad(y));
  if (tape.wants(epilogue.residual)) {
    const TensorView dresidual = TD_TRY(tape.grad(epilogue.residual));
    TD_TRY(add_to(context, dresidual, dy, 1.0f));
  }
  const kernels::LinearGradients gradients{TD_TRY(tape.grad_if_wanted(x)), TD_TRY(tape.grad_if_wanted(weight)),
                                           TD_TRY(tape.grad_if_wanted(epilogue.bias))};
  return run_linear_backward(context, x, weight, epilogue.alpha, dy, gradients);
}

struct Slice {
  TensorView weight, bias;
  std::int64_t begin, end;  // columns of the packed buffer
};
std::array<Slice, 3> slices_of(const ProjectionWeights& weights, std::int64_t H, std::int64_t G, std::int64_t D) {
  return {Slice{weights.q, weights.q_bias, 0, H * D}, Slice{weights.k, weights.k_bias, H * D, (H + G) * D},
          Slice{weights.v, weights.v_bias, (H + G) * D, (H + 2 * G) * D}};
}

// The one layer that the three are if their weights, and their biases, lie one after another.
std::optional<Slice> joined(const ProjectionWeights& weights, std::int64_t N, bool with_biases) {
  const auto follows = [](const TensorView& view, const TensorView& next) {
    return (!view && !next) || lies_behind(next, view);
  };
  if (!follows(weights.q, weights.k) || !follows(weights.k, weights.v)) return std::nullopt;
  Slice one{TensorView(weights.q.data(), weights.q.dtype(), Shape{N, weights.q.extent(1)}, weights.q.device()),
            TensorView(), 0, N};
  if (!with_biases) return one;
  if (!follows(weights.q_bias, weights.k_bias) || !follows(weights.k_bias, weights.v_bias)) return std::nullopt;
  if (weights.q_bias) {
    one.bias = TensorView(weights.q_bias.data(), weights.q_bias.dtype(), Shape{N}, weights.q_bias.device());
  }
  return one;
}

// The packed projection of x, normalised first if there is a norm.
Status project_on_cuda(Context& context, TensorView x, const kernels::InputNorm& norm, const ProjectionWeights& weights,
                       std::span<const Slice> slices, std::int64_t spared, TensorView packed) {
  if (const auto one = joined(weights, packed.extent(1), true)) {
    return run_linear(context, x, one->weight, {.bias = one->bias, .spared = spared}, packed, norm);
  }
  for (const Slice& slice : slices) {
    TD_TRY(run_linear(context, x, slice.weight, {.bias = slice.bias, .spared = spared},
                      packed.columns(slice.begin, slice.end), norm));
  }
  return ok_status();
}

Status project_on_cpu(Context& context, TensorView x, const kernels::InputNorm& norm, std::span<const Slice> slices,
                      TensorView packed) {
  const device::Arena::Scope scope(context.arena);
  const TensorView h = TD_TRY(normalised(context, x, norm));
  for (const Slice& slice : slices) {
    TD_TRY(run_linear(context, h, slice.weight, {.bias = slice.bias}, packed.columns(slice.begin, slice.end)));
  }
  return ok_status();
}

// `x` as products read it, once for all of them: in scratch, or x itself if it is that.
Result<TensorView> rounded_for_products(Context& context, TensorView x) {
  if (x.dtype() == product_dtype(context)) return x;
  const TensorView rounded = take(context, product_dtype(context), x.shape());
  if (!context.arena.is_planning()) TD_TRY(kernels::scale_cuda(x, 1.0f, rounded, context.stream));
  return rounded;
}

// What a projection of h adds to the gradients of its weights and to dh, which may be absent.
Status projection_backward(Context& context, Tape& tape, TensorView h, const ProjectionWeights& weights,
                           std::span<const Slice> slices, TensorView dpacked, TensorView dh) {
  const device::Arena::Scope scope(context.arena);
  h = TD_TRY(rounded_for_products(context, h));
  const TensorView dy = TD_TRY(rounded_for_products(context, dpacked));
  const auto one = on_cuda(context) ? joined(weights, dpacked.extent(1), false) : std::nullopt;
  for (const Slice& slice : slices) {
    const TensorView dweight = TD_TRY(tape.grad_if_wanted(slice.weight)),
                     dbias = TD_TRY(tape.grad_if_wanted(slice.bias));
    if (dbias) {  // before the rounding
      TD_TRY(run_linear_backward(context, TensorView(), slice.weight, 1.0f, dpacked.columns(slice.begin, slice.end),
                                 {.dbias = dbias}));
    }
    TD_TRY(run_linear_backward(context, h, slice.weight, 1.0f, dy.columns(slice.begin, slice.end),
                               {.dx = one ? TensorView() : dh, .dweight = dweight}));
  }
  return one ? run_linear_backward(context, h, one->weight, 1.0f, dy, {.dx = dh}) : ok_status();
}

Status expect_projection(const Context& context, const Tape* tape, const char* op, TensorView x,
                         const ProjectionWeights& weights) {
  return expect_on_tape(context, tape, op,
                        {{"x", x},
                         {"q", weights.q},
                         {"k", weights.k},
                         {"v", weights.v},
                         {"q_bias", weights.q_bias},
                         {"k_bias", weights.k_bias},
                         {"v_bias", weights.v_bias}});
}

}  // namespace

Result<TensorView> rms_norm(Context& context, TensorView x, TensorView weight, float eps, float offset, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "rms_norm", {{"x", x}, {"weight", weight}}));
  const TensorView y = take(context, DType::kF32, x.shape());
  const NormParams params{eps, offset};
  TD_TRY(run_rms_norm(context, x, weight, params, y));
  if (tape != nullptr) {
    TD_TRY(tape->record("rms_norm", {y}, [context, tape, x, weight, params, y]() mutable -> Status {
      const TensorView dy = TD_TRY(tape->grad(y));
      const TensorView dx = TD_TRY(tape->grad_if_wanted(x));
      return run_rms_norm_backward(context, *tape, x, weight, params, dy, dx);
    }));
  }
  return y;
}

Result<TensorView> linear(Context& context, TensorView x, TensorView weight, const kernels::LinearEpilogue& epilogue,
                          Tape* tape) {
  const bool in_place = epilogue.residual && tape == nullptr;
  const TensorView y = in_place ? epilogue.residual : take(context, DType::kF32, Shape{x.extent(0), weight.extent(0)});
  TD_TRY(linear_into(context, x, weight, epilogue, y, tape));
  return y;
}

Status linear_into(Context& context, TensorView x, TensorView weight, const kernels::LinearEpilogue& epilogue,
                   TensorView y, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "linear",
                        {{"x", x}, {"weight", weight}, {"bias", epilogue.bias}, {"residual", epilogue.residual}}));
  TD_TRY(run_linear(context, x, weight, epilogue, y));
  if (tape == nullptr) return ok_status();
  return tape->record("linear", {y}, [context, tape, x, weight, epilogue, y]() mutable {
    return backward_of_linear(context, *tape, x, weight, epilogue, y);
  });
}

Status norm_linear_into(Context& context, TensorView x, TensorView norm_weight, const NormParams& norm,
                        TensorView weight, const kernels::LinearEpilogue& epilogue, TensorView y, Tape* tape) {
  if (tape == nullptr) return run_linear(context, x, weight, epilogue, y, {norm_weight, norm.eps, norm.offset});
  const TensorView h = TD_TRY(rms_norm(context, x, norm_weight, norm.eps, norm.offset, tape));
  return linear_into(context, h, weight, epilogue, y, tape);
}

Result<Projected> norm_qkv_projection(Context& context, TensorView x, TensorView norm_weight, const NormParams& norm,
                                      const ProjectionWeights& weights, std::int64_t H, std::int64_t G, std::int64_t D,
                                      Tape* tape, std::int64_t spared) {
  TD_TRY(expect_projection(context, tape, "qkv_projection", x, weights));
  TD_TRY(expect_on_tape(context, tape, "qkv_projection", {{"norm_weight", norm_weight}}));
  const std::int64_t T = x.extent(0);
  const TensorView packed = take(context, DType::kF32, Shape{T, (H + 2 * G) * D});
  const auto slices = slices_of(weights, H, G, D);
  const kernels::InputNorm input_norm{norm_weight, norm.eps, norm.offset};
  TD_TRY(on_cuda(context) ? project_on_cuda(context, x, input_norm, weights, slices, spared, packed)
                          : project_on_cpu(context, x, input_norm, slices, packed));
  const Projected projected = split_heads(packed, H, G, D);
  if (tape == nullptr) return projected;
  TD_TRY(tape->record("qkv_projection", {packed}, [=]() mutable -> Status {
    const TensorView dpacked = TD_TRY(tape->grad(packed));
    const bool through_norm = static_cast<bool>(norm_weight);
    TensorView dh = through_norm ? TensorView() : TD_TRY(tape->grad_if_wanted(x));
    const device::Arena::Scope scope(context.arena);
    const TensorView h = TD_TRY(normalised(context, x, input_norm));
    if (through_norm && (tape->wants(x) || tape->wants(norm_weight))) {
      dh = take(context, DType::kF32, x.shape());
      if (!context.arena.is_planning()) TD_TRY(fill_zeros(context.stream, dh));
    }
    TD_TRY(projection_backward(context, *tape, h, weights, slices, dpacked, dh));
    if (!through_norm || !dh) return ok_status();
    const TensorView dx = TD_TRY(tape->grad_if_wanted(x));
    return run_rms_norm_backward(context, *tape, x, norm_weight, norm, dh, dx);
  }));
  return projected;
}

Result<TensorView> add_scaled(Context& context, TensorView a, TensorView b, float alpha, Tape* tape) {
  TD_TRY(expect_on_tape(context, tape, "add_scaled", {{"a", a}, {"b", b}}));
  const TensorView y = tape == nullptr ? a : take(context, DType::kF32, a.shape());
  if (!context.arena.is_planning()) {
    const auto run = on_cuda(context) ? kernels::add_scaled_cuda : kernels::add_scaled_cpu;
    TD_TRY(run(a, b, alpha, y, context.stream));
  }
  if (tape != nullptr) {
    TD_TRY(tape->record("add_scaled", {y}, [context, tape, a, b, alpha, y]() mutable -> Status {
      const TensorView dy = TD_TRY(tape->grad(y));
      const TensorView da = TD_TRY(tape->grad_if_wanted(a));
      if (da) TD_TRY(add_to(context, da, dy, 1.0f));
      const TensorView db = TD_TRY(tape->grad_if_wanted(b));
      if (db) TD_TRY(add_to(context, db, dy, alpha));
      return ok_status();
    }));
  }
  return y;
}

}  // namespace tandem::ops

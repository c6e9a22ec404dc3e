// Mixtures of experts on CUDA: arguments are checked here, in builds without CUDA too.
#include <algorithm>

#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/moe/moe.h"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

// Whether so many elements at a time may be read or written, wherever a row begins.
bool takes(std::int64_t count, const TensorView& rows) {
  if (is_absent(rows)) return true;
  const auto bytes = static_cast<std::uintptr_t>(count) * tensor::dtype_bytes(rows.dtype());
  return reinterpret_cast<std::uintptr_t>(rows.data()) % bytes == 0 && rows.stride(0) % count == 0 &&
         rows.extent(1) % count == 0;
}
bool takes_fours(const TensorView& rows) { return takes(4, rows); }

Status expect_sizes(const char* op, std::int64_t pairs, std::int64_t width) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  if (pairs <= kMax && width <= kMax) return ok_status();
  return invalid_argument("{}: {} pairs of {} elements; at most 2^30 of either are supported", op, pairs, width);
}

Status expect_choice(const char* op, std::int64_t top_k, std::int64_t X) {
  if (top_k < 1 || top_k > X) return invalid_argument("{}: cannot choose {} of {} experts", op, top_k, X);
  if (X > kMoeExpertsMax || top_k > kMoeTopKMax) {
    return invalid_argument("{}: {} of {} experts; at most {} of {} are supported", op, top_k, X, kMoeTopKMax,
                            kMoeExpertsMax);
  }
  return ok_status();
}

}  // namespace

Status router_top_k_cuda(TensorView logits, RouterNorm norm, TensorView weights, TensorView experts,
                         device::Stream& stream) {
  constexpr const char* kOp = "router_top_k";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  const std::int64_t tokens = logits.extent(0), X = logits.extent(1);
  TD_TRY(expect_view(kOp, "weights", weights, DType::kF32, {tokens, kAnyExtent}, Layout::kDense, device));
  const std::int64_t top_k = weights.extent(1);
  TD_TRY(expect_view(kOp, "experts", experts, DType::kI32, {tokens, top_k}, Layout::kDense, device));
  TD_TRY(expect_choice(kOp, top_k, X));
  TD_TRY(expect_sizes(kOp, tokens * top_k, X));
  if (tokens == 0) return ok_status();
  return router_top_k_sm80({.logits = logits.as<float>(),
                            .stride = logits.stride(0),
                            .weights = weights.as<float>(),
                            .experts = experts.as<std::int32_t>(),
                            .tokens = tokens,
                            .X = static_cast<int>(X),
                            .top_k = static_cast<int>(top_k),
                            .norm = norm},
                           stream);
}

Status moe_group_cuda(TensorView experts, std::int64_t X, TensorView offsets, TensorView tokens, TensorView pair_of,
                      device::Stream& stream) {
  constexpr const char* kOp = "moe_group";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  if (X < 1 || X > kMoeExpertsMax) {
    return invalid_argument("{}: {} experts; 1..{} are supported", kOp, X, kMoeExpertsMax);
  }
  TD_TRY(expect_view(kOp, "experts", experts, DType::kI32, {kAnyExtent, kAnyExtent}, Layout::kDense, device));
  const std::int64_t top_k = experts.extent(1), pairs = experts.count();
  TD_TRY(expect_view(kOp, "offsets", offsets, DType::kI32, {X + 1}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "tokens", tokens, DType::kI32, {pairs}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "pair_of", pair_of, DType::kI32, {experts.extent(0), top_k}, Layout::kDense, device));
  TD_TRY(expect_sizes(kOp, pairs, top_k));
  return moe_group_sm80({.experts = static_cast<const std::int32_t*>(experts.data()),
                         .offsets = offsets.as<std::int32_t>(),
                         .tokens = static_cast<std::int32_t*>(tokens.data()),
                         .pair_of = static_cast<std::int32_t*>(pair_of.data()),
                         .pairs = static_cast<int>(pairs),
                         .X = static_cast<int>(X),
                         .top_k = static_cast<int>(top_k)},
                        stream);
}

Status moe_gather_cuda(TensorView x, TensorView tokens, TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "moe_gather";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  const DType x_dtype = x.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_view(kOp, "x", x, x_dtype, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  TD_TRY(expect_view(kOp, "tokens", tokens, DType::kI32, {kAnyExtent}, Layout::kDense, device));
  const std::int64_t pairs = tokens.extent(0), width = x.extent(1);
  const bool x_is_bf16 = x_dtype == DType::kBf16, y_is_bf16 = x_is_bf16 || y.dtype() == DType::kBf16;
  TD_TRY(
      expect_view(kOp, "y", y, y_is_bf16 ? DType::kBf16 : DType::kF32, {pairs, width}, Layout::kLastAxisDense, device));
  TD_TRY(expect_sizes(kOp, std::max(pairs, x.extent(0)), width));
  if (pairs == 0 || width == 0) return ok_status();
  const std::int64_t at_once = x_is_bf16 ? 8 : 4;
  return moe_gather_sm80({.x = x.data(),
                          .x_is_bf16 = x_is_bf16,
                          .y_is_bf16 = y_is_bf16,
                          .x_stride = x.stride(0),
                          .tokens = tokens.as<std::int32_t>(),
                          .y = y.data(),
                          .y_stride = y.stride(0),
                          .pairs = pairs,
                          .x_rows = static_cast<int>(x.extent(0)),
                          .width = static_cast<int>(width)},
                         takes(at_once, x) && takes(at_once, y), stream);
}

Status moe_route_cuda(TensorView logits, RouterNorm norm, TensorView x, const RouteNorm& input_norm, TensorView weights,
                      TensorView offsets, TensorView pair_of, TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "moe_route";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  const std::int64_t tokens = logits.extent(0), X = logits.extent(1);
  TD_TRY(expect_view(kOp, "x", x, DType::kF32, {tokens, kAnyExtent}, Layout::kLastAxisDense, device));
  TD_TRY(expect_view(kOp, "weights", weights, DType::kF32, {tokens, kAnyExtent}, Layout::kDense, device));
  const std::int64_t top_k = weights.extent(1), pairs = tokens * top_k, width = x.extent(1);
  TD_TRY(expect_view(kOp, "offsets", offsets, DType::kI32, {X + 1}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "pair_of", pair_of, DType::kI32, {tokens, top_k}, Layout::kDense, device));
  const DType y_dtype = y.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_view(kOp, "y", y, y_dtype, {pairs, width}, Layout::kLastAxisDense, device));
  if (!is_absent(input_norm.weight)) {
    TD_TRY(expect_view(kOp, "norm weight", input_norm.weight, DType::kF32, {width}, Layout::kDense, device));
  }
  TD_TRY(expect_choice(kOp, top_k, X));
  if (pairs > kMoeRoutePairsMax || width > kMoeRouteWidthMax) {
    return invalid_argument("{}: {} pairs of {} elements; at most {} of {} are supported", kOp, pairs, width,
                            kMoeRoutePairsMax, kMoeRouteWidthMax);
  }
  const bool is_aligned =
      takes_fours(x) && takes_fours(y) && reinterpret_cast<std::uintptr_t>(input_norm.weight.data()) % 16 == 0;
  return moe_route_sm80({.logits = logits.as<float>(),
                         .logits_stride = logits.stride(0),
                         .x = static_cast<const float*>(x.data()),
                         .x_stride = x.stride(0),
                         .norm_weight = static_cast<const float*>(input_norm.weight.data()),
                         .norm_eps = input_norm.eps,
                         .norm_offset = input_norm.offset,
                         .weights = static_cast<float*>(weights.data()),
                         .offsets = offsets.as<std::int32_t>(),
                         .pair_of = static_cast<std::int32_t*>(pair_of.data()),
                         .y = y.data(),
                         .y_stride = y.stride(0),
                         .tokens = static_cast<int>(tokens),
                         .X = static_cast<int>(X),
                         .top_k = static_cast<int>(top_k),
                         .width = static_cast<int>(width),
                         .norm = norm},
                        y_dtype == DType::kBf16, is_aligned, stream);
}

Status moe_combine_cuda(TensorView expert_out, TensorView weights, TensorView pair_of, float alpha, TensorView residual,
                        TensorView y, device::Stream& stream, bool is_settled) {
  constexpr const char* kOp = "moe_combine";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "expert_out", expert_out, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense,
                     device));
  TD_TRY(expect_view(kOp, "weights", weights, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense, device));
  const std::int64_t tokens = weights.extent(0), top_k = weights.extent(1), width = expert_out.extent(1);
  TD_TRY(expect_view(kOp, "pair_of", pair_of, DType::kI32, {tokens, top_k}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "y", y, DType::kF32, {tokens, width}, Layout::kLastAxisDense, device));
  if (!is_absent(residual)) {
    TD_TRY(expect_view(kOp, "residual", residual, DType::kF32, {tokens, width}, Layout::kLastAxisDense, device));
  }
  TD_TRY(expect_sizes(kOp, std::max({expert_out.extent(0), tokens * top_k, tokens}), width));
  if (tokens == 0 || width == 0) return ok_status();
  const bool is_aligned = takes_fours(expert_out) && takes_fours(residual) && takes_fours(y);
  return moe_combine_sm80({.expert_out = static_cast<const float*>(expert_out.data()),
                           .expert_out_stride = expert_out.stride(0),
                           .weights = static_cast<const float*>(weights.data()),
                           .pair_of = static_cast<const std::int32_t*>(pair_of.data()),
                           .residual = static_cast<const float*>(residual.data()),
                           .residual_stride = is_absent(residual) ? 0 : residual.stride(0),
                           .y = y.as<float>(),
                           .y_stride = y.stride(0),
                           .tokens = tokens,
                           .pairs = static_cast<int>(expert_out.extent(0)),
                           .top_k = static_cast<int>(top_k),
                           .width = static_cast<int>(width),
                           .alpha = alpha,
                           .is_settled = is_settled},
                          is_aligned, stream);
}

#ifndef TANDEM_WITH_CUDA

Status router_top_k_sm80(const RouterArguments&, device::Stream&) { return no_cuda_code("router_top_k"); }
Status moe_group_sm80(const GroupArguments&, device::Stream&) { return no_cuda_code("moe_group"); }
Status moe_gather_sm80(const GatherArguments&, bool, device::Stream&) { return no_cuda_code("moe_gather"); }
Status moe_route_sm80(const RouteArguments&, bool, bool, device::Stream&) { return no_cuda_code("moe_route"); }
Status moe_combine_sm80(const CombineArguments&, bool, device::Stream&) { return no_cuda_code("moe_combine"); }

#endif

}  // namespace tandem::kernels

// Mixture of experts on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/half_rows.h"
#include "kernels/common/validate.h"
#include "kernels/moe/moe.h"
#include "kernels/moe/paths.h"

namespace tandem::kernels {

using tensor::DType;
using tensor::TensorView;

Status router_top_k_cuda(TensorView logits, RouterNorm norm, TensorView weights, TensorView experts,
                         device::Stream& stream) {
  constexpr const char* kOp = "router_top_k";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "logits", logits, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense, device));
  const std::int64_t T = logits.extent(0), X = logits.extent(1);
  TD_TRY(expect_view(kOp, "weights", weights, DType::kF32, {T, kAnyExtent}, Layout::kDense, device));
  const std::int64_t top_k = weights.extent(1);
  TD_TRY(expect_view(kOp, "experts", experts, DType::kI32, {T, top_k}, Layout::kDense, device));
  if (X > kMoeExpertsMax || top_k < 1 || top_k > X) {
    return invalid_argument("{}: {} of {} experts; expected at least one, and at most {} in all", kOp, top_k, X,
                            kMoeExpertsMax);
  }
  return router_top_k_sm80({T, static_cast<int>(X), static_cast<int>(top_k), norm == RouterNorm::kSoftmaxOverAll,
                            logits.as<const float>(), weights.as<float>(), experts.as<std::int32_t>()},
                           stream);
}

Status moe_group_cuda(TensorView experts, std::int64_t X, TensorView offsets, TensorView tokens, TensorView pair_of,
                      device::Stream& stream) {
  constexpr const char* kOp = "moe_group";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "experts", experts, DType::kI32, {kAnyExtent, kAnyExtent}, Layout::kDense, device));
  const std::int64_t T = experts.extent(0), top_k = experts.extent(1);
  TD_TRY(expect_view(kOp, "offsets", offsets, DType::kI32, {X + 1}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "tokens", tokens, DType::kI32, {T * top_k}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "pair_of", pair_of, DType::kI32, {T, top_k}, Layout::kDense, device));
  if (X < 1 || X > kMoeExpertsMax || T * top_k > std::int64_t{1} << 30) {
    return invalid_argument("{}: {} pairs for {} experts; expected at most 2^30, and 1 to {}", kOp, T * top_k, X,
                            kMoeExpertsMax);
  }
  return moe_group_sm80(
      {static_cast<int>(T * top_k), static_cast<int>(top_k), static_cast<int>(X), experts.as<const std::int32_t>(),
       offsets.as<std::int32_t>(), tokens.as<std::int32_t>(), pair_of.as<std::int32_t>()},
      stream);
}

Status moe_combine_cuda(TensorView expert_out, TensorView weights, TensorView pair_of, float alpha, TensorView residual,
                        TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "moe_combine";
  TD_TRY(expect_cuda_stream(kOp, stream));
  const device::Device device = stream.device();
  TD_TRY(expect_view(kOp, "weights", weights, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense, device));
  const std::int64_t T = weights.extent(0), top_k = weights.extent(1);
  TD_TRY(expect_view(kOp, "pair_of", pair_of, DType::kI32, {T, top_k}, Layout::kDense, device));
  TD_TRY(expect_view(kOp, "expert_out", expert_out, DType::kF32, {T * top_k, kAnyExtent}, Layout::kDense, device));
  const std::int64_t width = expert_out.extent(1);
  TD_TRY(expect_view(kOp, "y", y, DType::kF32, {T, width}, Layout::kLastAxisDense, device));
  CombineCall call{T, width, 0, y.stride(0), static_cast<int>(top_k), alpha};
  if (!is_absent(residual)) {
    TD_TRY(expect_view(kOp, "residual", residual, DType::kF32, {T, width}, Layout::kLastAxisDense, device));
    call.residual = residual.as<const float>();
    call.residual_stride = residual.stride(0);
  }
  call.expert_out = expert_out.as<const float>();
  call.weights = weights.as<const float>();
  call.pair_of = pair_of.as<const std::int32_t>();
  call.y = y.as<float>();
  return moe_combine_sm80(call, stream);
}

#ifndef TANDEM_WITH_CUDA

Status router_top_k_sm80(const RouterCall&, device::Stream&) { return no_cuda_code("router_top_k"); }
Status moe_group_sm80(const GroupCall&, device::Stream&) { return no_cuda_code("moe_group"); }
Status moe_combine_sm80(const CombineCall&, device::Stream&) { return no_cuda_code("moe_combine"); }

#endif

}  // namespace tandem::kernels

// Mixture of experts: which experts a token goes to, the grouping of tokens by expert, and the weighted sum back.
//
//   logits [T,X] f32     weights [T,topk] f32     experts [T,topk] i32, by falling logit, ties to the lower expert
// The experts' own products are linear layers over the grouped rows (kernels/linear).
// Errors: kInvalidArgument.   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

enum class RouterNorm : std::uint8_t {
  kSoftmaxOverAll,       // softmax over all X, then the top k as they are
  kSoftmaxOverSelected,  // softmax over the top k only (the same as the above, renormalised to sum 1)
};

[[nodiscard]] Status router_top_k_cpu(tensor::TensorView logits, RouterNorm norm, tensor::TensorView weights,
                                      tensor::TensorView experts, device::Stream& stream);

// Sorts the T*topk (token, choice) pairs by expert, stably.
//   offsets [X+1] i32: pairs of expert x are offsets[x] .. offsets[x+1]-1
//   tokens  [T*topk] i32: the token of each sorted pair
//   pair_of [T,topk] i32: where (t, choice) went
[[nodiscard]] Status moe_group_cpu(tensor::TensorView experts, std::int64_t X, tensor::TensorView offsets,
                                   tensor::TensorView tokens, tensor::TensorView pair_of, device::Stream& stream);

// y[p] = x[tokens[p]].   x [T,C] f32, row stride free     y [T*topk,C] f32
[[nodiscard]] Status moe_gather_cpu(tensor::TensorView x, tensor::TensorView tokens, tensor::TensorView y,
                                    device::Stream& stream);

// y[t] = residual[t] + alpha * sum over choices c, in ascending order of c, of weights[t,c] * expert_out[pair_of[t,c]].
//   expert_out [T*topk,C] f32     residual [T,C] f32 or absent; may be y     y [T,C] f32, row stride free
[[nodiscard]] Status moe_combine_cpu(tensor::TensorView expert_out, tensor::TensorView weights,
                                     tensor::TensorView pair_of, float alpha, tensor::TensorView residual,
                                     tensor::TensorView y, device::Stream& stream);

// The same on CUDA, queued; nothing waits for the device. Two calls with equal arguments give equal bits, and a token's
// weights and sums depend on its own row only.
// Errors: kInvalidArgument (also X > 512, topk > 32, or more than 2^30 pairs).
//
// What the indices say cannot be seen from here. An expert outside 0..X-1 belongs to nobody: its pairs come after
// offsets[X], as token -1. A token or pair that is not there gives a row of NaN.
inline constexpr std::int64_t kMoeExpertsMax = 512, kMoeTopKMax = 32;

[[nodiscard]] Status router_top_k_cuda(tensor::TensorView logits, RouterNorm norm, tensor::TensorView weights,
                                       tensor::TensorView experts, device::Stream& stream);

[[nodiscard]] Status moe_group_cuda(tensor::TensorView experts, std::int64_t X, tensor::TensorView offsets,
                                    tensor::TensorView tokens, tensor::TensorView pair_of, device::Stream& stream);

//   x [T,C] f32     y [T*topk,C] f32, or bf16: rounded to nearest; or both bf16
[[nodiscard]] Status moe_gather_cuda(tensor::TensorView x, tensor::TensorView tokens, tensor::TensorView y,
                                     device::Stream& stream);

// Of few pairs, the three in one launch, after a norm of x if its weight is not absent (rms_norm_cuda(), f32):
//   weights [T,topk] f32     offsets [X+1] i32     pair_of [T,topk] i32     y [T*topk,C] f32 or bf16
// The same bits. The norm's weight is read before the kernels ahead on the stream have ended.
// Errors: also more than kMoeRoutePairsMax pairs, or C > kMoeRouteWidthMax.
struct RouteNorm {
  tensor::TensorView weight;  // [C] f32, or absent
  float eps = 0.0f, offset = 0.0f;
};
inline constexpr std::int64_t kMoeRoutePairsMax = 128, kMoeRouteWidthMax = 8192;
[[nodiscard]] Status moe_route_cuda(tensor::TensorView logits, RouterNorm norm, tensor::TensorView x,
                                    const RouteNorm& input_norm, tensor::TensorView weights, tensor::TensorView offsets,
                                    tensor::TensorView pair_of, tensor::TensorView y, device::Stream& stream);

// `is_settled`: weights, pair_of and residual were there before the kernel ahead of this one began, which wrote none of
// them (linear_experts_cuda() says whether); they are then read before it has ended.
[[nodiscard]] Status moe_combine_cuda(tensor::TensorView expert_out, tensor::TensorView weights,
                                      tensor::TensorView pair_of, float alpha, tensor::TensorView residual,
                                      tensor::TensorView y, device::Stream& stream, bool is_settled = false);

}  // namespace tandem::kernels

// The experts of each token and their weights (moe.h says what is computed).
//   in    logits [T,X] f32     out  weights [T,topk] f32, experts [T,topk] i32
//   grid  a warp for each token, 8 to a block; lane l has logits l, l+32, ... in registers
// Each choice is the largest logit that is left, found by one reduction over the warp of keys that order as the floats
// do, and one of the experts that have it. Sums: each lane's in ascending order, then a butterfly; or of the choices in
// order.
// Bound  a decode step's T*X are a few KB: the time of a launch
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace sm80 {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kTokensPerBlock = 8;

// Orders as the logit does, NaN as -infinity and -0 as 0. At least 1; 0 is for what cannot be chosen.
__device__ __forceinline__ std::uint32_t key_of(float logit) {
  const float ranked = isnan(logit) ? -INFINITY : logit + 0.0f;
  const std::uint32_t bits = __float_as_uint(ranked);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

template <int kLogits>  // of a lane
__global__ void __launch_bounds__(32 * kTokensPerBlock) router_top_k_sm80_kernel(const RouterArguments arguments) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t token = std::int64_t{blockIdx.x} * kTokensPerBlock + threadIdx.x / 32;
  if (token >= arguments.tokens) return;  // a whole warp
  const float* const row = arguments.logits + token * arguments.stride;
  float logits[kLogits];
  std::uint32_t keys[kLogits];
  bool has_nan = false;
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    const bool is_expert = lane + 32 * i < arguments.X;
    logits[i] = is_expert ? row[lane + 32 * i] : -INFINITY;
    keys[i] = is_expert ? key_of(logits[i]) : 0;
    has_nan |= isnan(logits[i]);
  }
  has_nan = __any_sync(kAllLanes, has_nan);

  // Lane c keeps choice c.
  float max = 0.0f, weight = 0.0f, sum = 0.0f;
  std::int32_t expert = 0;
  for (int choice = 0; choice < arguments.top_k; ++choice) {
    std::uint32_t mine = 0;
    int at = 0;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (keys[i] > mine) mine = keys[i], at = i;
    }
    const std::uint32_t best = __reduce_max_sync(kAllLanes, mine);
    const std::uint32_t index = mine == best ? static_cast<std::uint32_t>(lane + 32 * at) : ~0u;
    const std::uint32_t chosen = __reduce_min_sync(kAllLanes, index);
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (static_cast<std::uint32_t>(lane + 32 * i) == chosen) keys[i] = 0;
    }
    const float logit = logit_of(best);
    if (choice == 0) max = logit == -INFINITY ? 0.0f : logit;
    const float e = expf(logit - max);
    sum += e;
    if (lane == choice) weight = e, expert = static_cast<std::int32_t>(chosen);
  }
  if (arguments.norm == RouterNorm::kSoftmaxOverAll) {
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) sum += expf(logits[i] - max);  // what is no expert adds 0
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  if (lane < arguments.top_k) {
    const std::int64_t to = token * arguments.top_k + lane;
    arguments.weights[to] = has_nan ? NAN : sum == 0.0f ? 0.0f : weight / sum;
    arguments.experts[to] = expert;
  }
}

}  // namespace sm80

Status router_top_k_sm80(const RouterArguments& arguments, device::Stream& stream) {
  const dim3 grid(static_cast<unsigned>((arguments.tokens + sm80::kTokensPerBlock - 1) / sm80::kTokensPerBlock));
  const LaunchShape shape{grid, 32 * sm80::kTokensPerBlock, 0};
  const auto kernel = arguments.X <= 32    ? sm80::router_top_k_sm80_kernel<1>
                      : arguments.X <= 128 ? sm80::router_top_k_sm80_kernel<4>
                                           : sm80::router_top_k_sm80_kernel<kMoeExpertsMax / 32>;
  return launch("router_top_k", kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

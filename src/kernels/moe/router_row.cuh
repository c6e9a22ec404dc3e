// The experts of one token, by one warp: lane l has logits l, l+32, ... in registers. Each choice is the largest logit
// that is left, found by one reduction over the warp of keys that order as the floats do, and one of the experts that
// have it. Sums: each lane's in ascending order, then a butterfly; or of the choices in order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/moe/moe.h"

namespace tandem::kernels::sm80 {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Orders as the logit does, NaN as -infinity and -0 as 0. At least 1; 0 is for what cannot be chosen.
__device__ __forceinline__ std::uint32_t key_of(float logit) {
  const float ranked = isnan(logit) ? -INFINITY : logit + 0.0f;
  const std::uint32_t bits = __float_as_uint(ranked);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Lane c's: choice c.
struct RouterChoice {
  std::int32_t expert;
  float weight;
};
struct Routing {
  int X, top_k;
  RouterNorm norm;
};

template <int kLogits>  // of a lane
__device__ __forceinline__ RouterChoice choose_experts(const float* row, const Routing& routing) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float logits[kLogits];
  std::uint32_t keys[kLogits];
  bool has_nan = false;
#pragma unroll
  for (int i = 0; i < kLogits; ++i) {
    const bool is_expert = lane + 32 * i < routing.X;
    logits[i] = is_expert ? row[lane + 32 * i] : -INFINITY;
    keys[i] = is_expert ? key_of(logits[i]) : 0;
    has_nan |= isnan(logits[i]);
  }
  has_nan = __any_sync(kAllLanes, has_nan);

  // Lane c keeps choice c.
  float max = 0.0f, weight = 0.0f, sum = 0.0f;
  std::int32_t expert = 0;
  for (int choice = 0; choice < routing.top_k; ++choice) {
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
  if (routing.norm == RouterNorm::kSoftmaxOverAll) {
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) sum += expf(logits[i] - max);  // what is no expert adds 0
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  return {expert, has_nan ? NAN : sum == 0.0f ? 0.0f : weight / sum};
}

}  // namespace tandem::kernels::sm80

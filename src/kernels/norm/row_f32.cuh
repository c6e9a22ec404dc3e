// Root-mean-square normalisation of one row of f32, in the one order that every kernel shares that normalises its
// input: 256 threads; thread i adds the squares of elements 4i .. 4i+3, then those 1024 further on, and so on,
// ascending, each by an fma; a butterfly over the 32 lanes of a warp; the eight warps' sums ascending.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace tandem::kernels {

inline constexpr int kNormThreads = 256, kNormWarps = kNormThreads / 32;

// Thread `member`'s part of the sum of squares of x[0..width).
__device__ __forceinline__ float norm_part(const float* x, int width, int member) {
  float sum = 0.0f;
  if ((reinterpret_cast<std::uintptr_t>(x) & 15) == 0 && width % 4 == 0) {
    for (int i = 4 * member; i < width; i += 4 * kNormThreads) {
      const float4 four = *reinterpret_cast<const float4*>(x + i);
      sum = __fmaf_rn(four.x, four.x, sum);
      sum = __fmaf_rn(four.y, four.y, sum);
      sum = __fmaf_rn(four.z, four.z, sum);
      sum = __fmaf_rn(four.w, four.w, sum);
    }
  } else {
    for (int i = 4 * member; i < width; i += 4 * kNormThreads) {
      for (int j = i; j < min(i + 4, width); ++j) sum = __fmaf_rn(x[j], x[j], sum);
    }
  }
  return sum;
}

// The sum over a warp, in each of its lanes.
__device__ __forceinline__ float norm_warp_sum(float part) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) part = __fadd_rn(part, __shfl_xor_sync(0xffffffffu, part, lanes));
  return part;
}

// 1 / sqrt(mean + eps), from the sums of the eight warps.
__device__ __forceinline__ float norm_scale(const float* of_warps, int width, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kNormWarps; ++warp) sum = __fadd_rn(sum, of_warps[warp]);
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(width)), eps)));
}

__device__ __forceinline__ float normalised(float x, float scale, float weight, float offset) {
  return __fmul_rn(__fmul_rn(x, scale), __fadd_rn(offset, weight));
}

}  // namespace tandem::kernels

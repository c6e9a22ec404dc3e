// linear_few_rows_sm90_kernel's arguments and shared memory, and how its threads bring x there where it is kept: up to
// four rows of f32, normalised if they are to be, or one of bf16.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/sm90.cuh"
#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/few_rows_sm90_plan.h"
#include "kernels/linear/paths.h"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels::sm90 {

struct FewRowsArguments {
  CUtensorMap weight, up, x;  // x: if it is not kept
  int T = 0, K = 0;
  std::int64_t N = 0;
  const void* x_kept = nullptr;  // if it is kept: f32, or one row of bf16
  bool x_is_bf16 = false;
  std::int64_t x_stride = 0;
  const float* norm_weight = nullptr;
  float norm_eps = 0.0f, norm_offset = 0.0f;
  LinearOutput out;
  const std::int32_t* offsets = nullptr;  // of grouped layers
  int groups = 0;
  bool offsets_are_settled = false;  // LinearCall
  FewRowsPlan plan;
};

// Shared memory of a block.
struct FewRowsShared {
  std::uint64_t full[kStreamedStagesMax], empty[kStreamedStagesMax];
  float of_warps[kFewRowsKeptRowsMax][kNormWarps];  // sums of squares
  int units_count;                                  // of grouped layers
};
static_assert(sizeof(FewRowsShared) <= kStreamedFixedBytes - 1024);

// A thread's four of f32 from column k on; zeros past K.
__device__ __forceinline__ float4 load_four(const float* from, int k, int K, bool is_aligned) {
  float4 four = {};
  if (is_aligned) {
    if (k < K) four = *reinterpret_cast<const float4*>(from + k);
  } else {
    if (k < K) four.x = from[k];
    if (k + 1 < K) four.y = from[k + 1];
    if (k + 2 < K) four.z = from[k + 2];
    if (k + 3 < K) four.w = from[k + 3];
  }
  return four;
}
__device__ __forceinline__ bool is_on_16_bytes(const void* from) {
  return (reinterpret_cast<std::uintptr_t>(from) & 15) == 0;
}

inline constexpr int kKeptEach = static_cast<int>(kFewRowsKeptColumnsMax / (4 * kNormThreads));

// A thread's part of the norm's weight. Asked for before anything else, since it waits in no queue then: behind the
// first stages it took longer than x.
struct NormGains {
  float4 of[kKeptEach];
  __device__ __forceinline__ void load(const FewRowsArguments& arguments) {
    const bool is_aligned = arguments.K % 4 == 0 && is_on_16_bytes(arguments.norm_weight);
#pragma unroll
    for (int j = 0; j < kKeptEach; ++j) {
      const int k = 4 * static_cast<int>(threadIdx.x) + 4 * kNormThreads * j;
      of[j] =
          arguments.norm_weight != nullptr ? load_four(arguments.norm_weight, k, arguments.K, is_aligned) : float4{};
    }
  }
};

// x, of at most kRows rows, as bf16, normalised if it is to be, into shared memory (few_rows_chunk_bytes). A thread
// holds its elements of all rows between the sum of squares and the product: one wait for memory.
template <int kRows>
__device__ __forceinline__ void keep_rows(const FewRowsArguments& arguments, const NormGains& gains,
                                          FewRowsShared& shared, std::byte* kept) {
  const bool is_aligned = arguments.K % 4 == 0 && arguments.x_stride % 4 == 0 && is_on_16_bytes(arguments.x_kept);
  const int member = static_cast<int>(threadIdx.x), K = arguments.K;
  const bool has_norm = arguments.norm_weight != nullptr;
  float4 values[kRows][kKeptEach];
#pragma unroll
  for (int j = 0; j < kKeptEach; ++j) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float* const row = static_cast<const float*>(arguments.x_kept) + r * arguments.x_stride;
      values[r][j] = r < arguments.T ? load_four(row, 4 * member + 4 * kNormThreads * j, K, is_aligned) : float4{};
    }
  }
  if (has_norm) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = 0.0f;  // as norm_part(); the zeros past the end change nothing
#pragma unroll
      for (int j = 0; j < kKeptEach; ++j) {
        sum = __fmaf_rn(values[r][j].x, values[r][j].x, sum);
        sum = __fmaf_rn(values[r][j].y, values[r][j].y, sum);
        sum = __fmaf_rn(values[r][j].z, values[r][j].z, sum);
        sum = __fmaf_rn(values[r][j].w, values[r][j].w, sum);
      }
      sum = norm_warp_sum(sum);
      if (member % 32 == 0) shared.of_warps[r][member / 32] = sum;
    }
    named_sync(1, kNormThreads);
  }
  float scales[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    scales[r] = has_norm ? norm_scale(shared.of_warps[r], K, arguments.norm_eps) : 1.0f;
  }
  const int columns = (K + kStreamedSlab - 1) / kStreamedSlab * kStreamedSlab;
  const int chunk_bytes = arguments.plan.chunk_bytes;
#pragma unroll
  for (int j = 0; j < kKeptEach; ++j) {
    const int k = 4 * member + 4 * kNormThreads * j;
    if (k >= columns) break;
    const float4 gain = gains.of[j];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= arguments.T) break;
      float4 value = values[r][j];
      if (has_norm) {
        // Past the end zero, whatever the row's scale is.
        value.x = k < K ? normalised(value.x, scales[r], gain.x, arguments.norm_offset) : 0.0f;
        value.y = k + 1 < K ? normalised(value.y, scales[r], gain.y, arguments.norm_offset) : 0.0f;
        value.z = k + 2 < K ? normalised(value.z, scales[r], gain.z, arguments.norm_offset) : 0.0f;
        value.w = k + 3 < K ? normalised(value.w, scales[r], gain.w, arguments.norm_offset) : 0.0f;
      }
      const uint2 packed = {pack<__nv_bfloat16>(value.x, value.y), pack<__nv_bfloat16>(value.z, value.w)};
      *reinterpret_cast<uint2*>(kept + k / 8 * chunk_bytes + 16 * r + k % 8 * 2) = packed;
    }
  }
  fence_async_shared();
  named_sync(1, kNormThreads);
}

// x, one row of bf16, into shared memory as it is.
__device__ __forceinline__ void keep_halves(const FewRowsArguments& arguments, std::byte* kept) {
  constexpr int kEach = static_cast<int>(kFewRowsKeptHalvesMax / (8 * kNormThreads));
  const int member = static_cast<int>(threadIdx.x), count = arguments.K / 8;
  const uint4* const row = static_cast<const uint4*>(arguments.x_kept);
  uint4 words[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int at = member + kNormThreads * j;
    words[j] = at < count ? row[at] : uint4{};
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int at = member + kNormThreads * j;
    if (at < count) reinterpret_cast<uint4*>(kept)[at] = words[j];
  }
  fence_async_shared();
  named_sync(1, kNormThreads);
}

}  // namespace tandem::kernels::sm90

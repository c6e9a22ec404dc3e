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
  int T = 0, K = 0, N = 0;
  const void* x_kept = nullptr;  // if it is kept: f32, or one row of bf16
  std::int64_t x_stride = 0;
  const float* norm_weight = nullptr;
  float norm_eps = 0.0f, norm_offset = 0.0f;
  LinearOutput out;
  const std::int32_t* offsets = nullptr;  // of grouped layers
  int groups = 0;
  bool offsets_are_settled = false;  // LinearCall
  FewRowsPlan plan;
};

// How a block comes by x: copied; or kept, one row of bf16, or at most one, two or four of f32. kAny: these where they
// do not lie on 16 bytes, or end within a slab.
enum class FewRowsX : std::uint8_t { kCopied, kHalf, kOne, kTwo, kFour, kAny };
template <FewRowsX kX>
inline constexpr int kKeptRows = kX == FewRowsX::kOne   ? 1
                                 : kX == FewRowsX::kTwo ? 2
                                                        : 4;

// Shared memory of a block.
struct FewRowsShared {
  std::uint64_t full[kStreamedStagesMax], empty[kStreamedStagesMax];
  std::uint64_t full_x[kStreamedStagesMax];         // if x is copied by a thread of its own
  float of_warps[kFewRowsKeptRowsMax][kNormWarps];  // sums of squares
  int units_count;                                  // of grouped layers
};
static_assert(sizeof(FewRowsShared) <= kStreamedFixedBytes - 1024);

// A thread's four of f32, of which `left` are there; else zeros.
template <bool kAligned>
__device__ __forceinline__ float4 load_four(const float* from, int left) {
  float4 four = {};
  if constexpr (kAligned) {
    if (left > 0) four = *reinterpret_cast<const float4*>(from);
  } else {
    if (left > 0) four.x = from[0];
    if (left > 1) four.y = from[1];
    if (left > 2) four.z = from[2];
    if (left > 3) four.w = from[3];
  }
  return four;
}
// The same on 16 bytes, of what is read again in every step: the last to leave the L2 cache.
__device__ __forceinline__ float4 load_four_again(const float* from, int left) {
  float4 four = {};
  if (left > 0) {
    asm volatile("ld.global.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=f"(four.x), "=f"(four.y), "=f"(four.z), "=f"(four.w)
                 : "l"(from), "l"(kEvictLast));
  }
  return four;
}

template <int kRows>
inline constexpr int kChunkBytes = few_rows_chunk_bytes(kRows);
inline constexpr int kKeptEach = static_cast<int>(kFewRowsKeptColumnsMax / (4 * kNormThreads));

// A thread's part of the norm's weight. Asked for before anything else, since it waits in no queue then: behind the
// first stages it took longer than x.
struct NormGains {
  float4 of[kKeptEach];
  template <bool kAligned>
  __device__ __forceinline__ void load(const FewRowsArguments& arguments) {
    if (arguments.norm_weight == nullptr) return;
#pragma unroll
    for (int j = 0; j < kKeptEach; ++j) {
      const int k = 4 * static_cast<int>(threadIdx.x) + 4 * kNormThreads * j;
      of[j] = kAligned ? load_four_again(arguments.norm_weight + k, arguments.K - k)
                       : load_four<false>(arguments.norm_weight + k, arguments.K - k);
    }
  }
};

// Where a thread begins to read x, in its first row. Known before the kernel ahead has ended.
__device__ __forceinline__ const void* own_x(const FewRowsArguments& arguments) {
  const void* own = static_cast<const std::byte*>(arguments.x_kept) + 16 * threadIdx.x;
  asm volatile("" : "+l"(own));
  __builtin_assume(__isGlobal(own));
  return own;
}

// x, of at most kRows rows, as bf16, normalised if it is to be, into shared memory (few_rows_chunk_bytes). A thread
// holds its elements of all rows between the sum of squares and the product: one wait for memory.
template <int kRows, bool kAligned, class Meanwhile>
__device__ __forceinline__ void keep_rows(const FewRowsArguments& arguments, const NormGains& gains, const void* own,
                                          FewRowsShared& shared, std::byte* kept, Meanwhile meanwhile) {
  const int member = static_cast<int>(threadIdx.x), K = arguments.K;
  const bool has_norm = arguments.norm_weight != nullptr;
  const auto is_row = [&](int r) { return (kAligned && r < 3) || r < arguments.T; };  // four: three at least
  float4 values[kRows][kKeptEach];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float* const row = static_cast<const float*>(own) + r * arguments.x_stride;
#pragma unroll
    for (int j = 0; j < kKeptEach; ++j) {
      values[r][j] =
          is_row(r) ? load_four<kAligned>(row + 4 * kNormThreads * j, K - 4 * member - 4 * kNormThreads * j) : float4{};
    }
  }
  __syncwarp();  // what is asked for before it stays before it, and is waited for after the next
  meanwhile();
  __syncwarp();
  float scales[kRows];
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
    // Divisions and a root, one after another: of all rows at once, each in lanes of its own.
    const float scale = norm_scale(shared.of_warps[member % kRows], K, arguments.norm_eps);
#pragma unroll
    for (int r = 0; r < kRows; ++r) scales[r] = kRows == 1 ? scale : __shfl_sync(0xffffffffu, scale, r);
  }
  const int columns = kAligned ? K : (K + kStreamedSlab - 1) / kStreamedSlab * kStreamedSlab;
  const int chunk_bytes = kAligned ? kChunkBytes<kRows> : arguments.plan.chunk_bytes;
  std::byte* const to = kept + member / 2 * chunk_bytes + member % 2 * 8;
#pragma unroll
  for (int j = 0; j < kKeptEach; ++j) {
    const int k = 4 * member + 4 * kNormThreads * j;
    if (k >= columns) break;
    const float4 gain = gains.of[j];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!is_row(r)) break;
      float4 value = values[r][j];
      if (has_norm) {
        const auto at = [&](float x, float of, int i) {  // past the end zero, whatever the row's scale is
          return kAligned || k + i < K ? normalised(x, scales[r], of, arguments.norm_offset) : 0.0f;
        };
        value = {at(value.x, gain.x, 0), at(value.y, gain.y, 1), at(value.z, gain.z, 2), at(value.w, gain.w, 3)};
      }
      const uint2 packed = {pack<__nv_bfloat16>(value.x, value.y), pack<__nv_bfloat16>(value.z, value.w)};
      *reinterpret_cast<uint2*>(to + j * (kNormThreads / 2 * chunk_bytes) + 16 * r) = packed;
    }
  }
  fence_async_shared();
}

// x, one row of bf16, into shared memory as it is.
template <class Meanwhile>
__device__ __forceinline__ void keep_half(const FewRowsArguments& arguments, const void* own, std::byte* kept,
                                          Meanwhile meanwhile) {
  constexpr int kEach = 7;  // at once: of up to 14,336 columns all
  const int member = static_cast<int>(threadIdx.x), count = arguments.K / 8;
  const uint4* const row = static_cast<const uint4*>(own);
  uint4* const to = reinterpret_cast<uint4*>(kept) + member;
  const auto copy = [&](int from, auto while_they_come) {
    uint4 words[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int at = from + kNormThreads * j;
      words[j] = member + at < count ? row[at] : uint4{};
    }
    __syncwarp();
    while_they_come();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int at = from + kNormThreads * j;
      if (member + at < count) to[at] = words[j];
    }
  };
  copy(0, meanwhile);
  for (int from = kEach * kNormThreads; from < count; from += kEach * kNormThreads) copy(from, [] {});
  fence_async_shared();
}

}  // namespace tandem::kernels::sm90

// The backward on Hopper for head dims above 128 (backward_wide_sm90.cu): what its two kernels share.
#pragma once

#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/backward_rows_sm90.cuh"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {

std::size_t backward_wide_sm90_scratch_bytes(const FusedAttentionPlan& plan);
[[nodiscard]] Status backward_wide_sm90(const FusedBackwardCall& call);

// dk and dv; dq. `taken` is a counter, zero.
[[nodiscard]] Status backward_wide_keys_sm90(const FusedBackwardCall& call, const sm90::BackwardRows& rows, int* taken);
[[nodiscard]] Status backward_wide_queries_sm90(const FusedBackwardCall& call, const sm90::BackwardRows& rows,
                                                int* taken);

namespace sm90::wide {

constexpr int kD = 256, kSlabs = kD / 64;  // columns beyond the head dim are zero
constexpr int kStepRows = 64, kKeys = 64;  // query rows of a step of dk and dv; keys of a block
constexpr int kTileBytes = 64 * kD * 2;
constexpr int kThreads = 3 * 128;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// kRows rows of all columns, to slabs one after another at this address in shared memory.
template <int kRows>
__device__ __forceinline__ void load_rows(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier, int row,
                                          int head) {
#pragma unroll
  for (int c = 0; c < kSlabs; ++c) load_box(to + c * kRows * 128, map, barrier, c * 64, row, head);
}

// [64,64] = A B^T: 64 rows each, of tiles of kRowsOfA and kRowsOfB rows.
template <class Half, int kRowsOfA, int kRowsOfB>
__device__ __forceinline__ void issue_scores(float (&scores)[32], std::uint64_t a, std::uint64_t b) {
  product_fence();
#pragma unroll
  for (int i = 0; i < kD / 16; ++i) {
    multiply<Half, 64, false, false>(scores, operand_at(a, (i / 4) * kRowsOfA * 128 + (i % 4) * 32),
                                     operand_at(b, (i / 4) * kRowsOfB * 128 + (i % 4) * 32), i > 0);
  }
  product_commit();
}

// [64,kD] += A B: A [64,64] in registers, B 64 rows as an operand whose columns are not summed over.
template <class Half>
__device__ __forceinline__ void issue_sums(float (&sums)[kD / 2], const std::uint32_t (&a)[4][4], std::uint64_t b,
                                           int accumulate) {
  product_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i) multiply<Half, kD, true>(sums, a[i], operand_at(b, i * 16 * 128), i > 0 ? 1 : accumulate);
  product_commit();
}

// s = cap tanh(scale s / cap); the scale is 1 from here on.
__device__ __forceinline__ void cap_scores(float (&scores)[32], float scale_over_cap, float softcap) {
#pragma unroll
  for (int i = 0; i < 32; ++i) scores[i] = softcap * tanh_approx(scores[i] * scale_over_cap);
}

// ds times 1 - tanh^2, where p = 2^(cap tanh log2 e - lse) and `inverse` = 1 / (cap log2 e).
__device__ __forceinline__ float through_cap(float ds, float p, float lse, float inverse) {
  const float t = (log2_approx(p) + lse) * inverse;
  return p > 0.0f ? ds * (1.0f - t * t) : 0.0f;
}

// Of a tile of 64 rows, those from `rows` on become zero for this warpgroup's products. The other warpgroup may do the
// same, or read them for products whose results from these rows are thrown away.
__device__ __forceinline__ void zero_tail(std::byte* tile, int rows, int own_barrier) {
  zero_rows<64, kSlabs, 128>(tile, rows);
  fence_async_shared();
  __syncwarp();
  named_sync(own_barrier, 128);
}

// 0 for the warp's 16 rows: rows first .. first+15 of those that `to` begins with, of which `rows` exist.
template <class Half>
__device__ __forceinline__ void write_zero_rows(Half* to, std::int64_t row_stride, int first, int rows, int D) {
  const int lane = threadIdx.x % 32;
  for (int row = first; row < min(first + 16, rows); ++row) {
    if (lane * 8 < D) *reinterpret_cast<uint4*>(to + row * row_stride + lane * 8) = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace sm90::wide
}  // namespace tandem::kernels

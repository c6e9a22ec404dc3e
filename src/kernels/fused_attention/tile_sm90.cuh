// Pieces that Hopper's attention kernels share: rows of a tile set to zero; a warpgroup's sums written out as rows; a
// visit of a key tile in shared memory.
// Tiles lie as sm90.cuh says, in slabs of 64 columns.
#pragma once

#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/plan.h"

namespace tandem::kernels::sm90 {

// Rows rows .. kCount-1 of a tile of kSlabs slabs become zero: they belong to others, and may hold anything. Called by
// kThreads threads, all beyond the first warpgroup.
template <int kCount, int kSlabs, int kThreads = 256>
__device__ __forceinline__ void zero_rows(std::byte* tile, int rows) {
  const int thread = kThreads == 128 ? threadIdx.x % 128 : static_cast<int>(threadIdx.x) - 128;
#pragma unroll
  for (int c = 0; c < kSlabs; ++c) {
    for (int at = rows * 128 + thread * 16; at < kCount * 128; at += kThreads * 16) {
      *reinterpret_cast<uint4*>(tile + c * kCount * 128 + at) = make_uint4(0, 0, 0, 0);
    }
  }
}

// For one thread with few registers: it reads the copy again at each use, and device memory once a visit.
__device__ __forceinline__ void copy_visit(const KeyVisit* from, volatile KeyVisit* to) {
  static_assert(sizeof(KeyVisit) == 3 * sizeof(int4));
  volatile int* const words = reinterpret_cast<volatile int*>(to);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const int4 four = reinterpret_cast<const int4*>(from)[i];
    words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
  }
}

// Writes a warpgroup's 64 rows of sums, scaled and rounded, through its own rows of a tile of kTileRows rows, so that
// whole lines are written. `tile` is the first of these rows in the first slab; `rows` of them exist.
template <int kD, int kTileRows = 128, class Half>
__device__ __forceinline__ void write_rows(const float (&sums)[kD / 2], float scale, std::byte* tile, Half* to,
                                           std::int64_t row_stride, int rows, int D) {
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const std::uint32_t stage = shared_address(tile) + (warp * 16 + lane % 16) * 128;
#pragma unroll
  for (int c = 0; c < kD / 16; ++c) {
    const float* const s = sums + 8 * c;
    const int chunk = (c * 2 + lane / 16) % 8;
    store_matrices(stage + (c / 4) * kTileRows * 128 + ((chunk ^ (lane % 8)) * 16),
                   pack<Half>(s[0] * scale, s[1] * scale), pack<Half>(s[2] * scale, s[3] * scale),
                   pack<Half>(s[4] * scale, s[5] * scale), pack<Half>(s[6] * scale, s[7] * scale));
  }
  __syncwarp();
  constexpr int kChunks = kD / 8, kRowsAtOnce = 32 / kChunks;
#pragma unroll
  for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
    const int r = warp * 16 + i * kRowsAtOnce + lane / kChunks, chunk = lane % kChunks;
    const uint4 piece =
        *reinterpret_cast<const uint4*>(tile + (chunk / 8) * kTileRows * 128 + r * 128 + ((chunk % 8) ^ (r % 8)) * 16);
    if (r < rows && chunk * 8 < D) *reinterpret_cast<uint4*>(to + r * row_stride + chunk * 8) = piece;
  }
}

}  // namespace tandem::kernels::sm90

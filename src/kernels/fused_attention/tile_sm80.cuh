// What the kernels of the portable path share: tiles of rows in shared memory, the two products that attention is made
// of, the map from products to scores, and what a call's arguments look like to them.
//
// A thread block has four warps. Its stationary tile has 64 rows, 16 to each warp: the left operand. The tiles that
// stream by are the right operands, read by all four. The products' sums stay in registers (fragments.h says who holds
// which), and, rounded and packed, are the left operand of the next product as they are.
#pragma once

#include <cstdint>

#include "kernels/common/fragments.h"
#include "kernels/common/sm80.cuh"
#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/key_blocks.h"
#include "kernels/fused_attention/paths.h"

namespace tandem::kernels::sm80 {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16 * kWarps;
constexpr std::uint32_t kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;

// [rows, heads, D] of 16-bit elements; strides in elements.
struct Rows {
  std::uint16_t* data = nullptr;
  std::int64_t row_stride = 0, head_stride = 0;

  __device__ __forceinline__ std::uint16_t* at(std::int64_t row, int head) const {
    return data + row * row_stride + head * head_stride;
  }
};

inline Rows rows_of(const tensor::TensorView& view) {
  return {static_cast<std::uint16_t*>(view.data()), view.stride(0), view.stride(1)};
}

// From a product <q, k> to the exponent of 2: `exponent` times it; or, capped, capped_log2 tanh(capped_in <q, k>).
struct ScoreMap {
  float exponent = 0.0f;
  float capped_in = 0.0f, capped_log2 = 0.0f;
  bool is_capped = false;

  // To a few units in the last place: 1 - 2 / (1 + e^2x), and, where that cancels, the series up to x^9.
  __device__ __forceinline__ float tanh_of(float product) const {
    const float x = __fmul_rn(product, capped_in), square = __fmul_rn(x, x);
    const float far = __fmaf_rn(-2.0f, reciprocal_fast(__fadd_rn(1.0f, exp2_fast(__fmul_rn(x, 2.0f * kLog2E)))), 1.0f);
    float series = __fmaf_rn(square, 62.0f / 2835.0f, -17.0f / 315.0f);
    series = __fmaf_rn(square, series, 2.0f / 15.0f);
    series = __fmaf_rn(square, series, -1.0f / 3.0f);
    const float near = __fmaf_rn(__fmul_rn(x, square), series, x);
    return square < 0.0625f ? near : far;
  }
};

inline ScoreMap score_map(const RoundedAttentionParams& params) {
  constexpr double kLog2EWide = 1.4426950408889634;
  ScoreMap map;
  map.exponent = static_cast<float>(kLog2EWide * params.scale);
  map.is_capped = params.softcap > 0.0f;
  if (map.is_capped) {
    map.capped_in = params.scale / params.softcap;
    map.capped_log2 = static_cast<float>(kLog2EWide * params.softcap);
  }
  return map;
}

// Starts the copy of kRows rows into a tile kD wide. Rows from rows_count on and columns from D on become zero; nothing
// of them is read.
template <int kRows, int kD>
__device__ __forceinline__ void load_tile(std::uint32_t tile, const std::uint16_t* rows, std::int64_t row_stride,
                                          int rows_count, int D) {
  constexpr int kChunks = kD / 8;
  constexpr int kRowsAtOnce = kThreads / kChunks;
  static_assert(kRows % kRowsAtOnce == 0);
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int first = static_cast<int>(threadIdx.x) / kChunks;
  if (chunk * 8 >= D) rows_count = 0;
  const std::uint16_t* from = rows + first * row_stride + chunk * 8;
#pragma unroll(kD <= 128 ? kRows / kRowsAtOnce : 4)  // addresses computed ahead cost registers
  for (int i = 0; i < kRows; i += kRowsAtOnce) {
    const bool is_read = first + i < rows_count;
    copy_async<kChunkBytes>(tile + tile_offset(first + i, chunk, 2 * kD), is_read ? from : rows, is_read);
    from += kRowsAtOnce * row_stride;
  }
}

// sums = A B^T: A the 16 rows of kD that `a` names (by_rows), B the kOuter rows of kD that `b` names (by_chunks).
template <class E, int kD, int kOuter>
__device__ __forceinline__ void multiply_transposed(float (&sums)[kOuter / 8][4], std::uint32_t a, std::uint32_t b) {
#pragma unroll
  for (int n = 0; n < kOuter / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[n][i] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kD; k += 16) {
    std::uint32_t left[4];
    load_matrices(left, a ^ (k * 2));
#pragma unroll
    for (int n = 0; n < kOuter; n += 16) {
      std::uint32_t right[4];
      load_matrices(right, (b ^ (k * 2)) + n * kD * 2);
      E::multiply_add(sums[n / 8], left, right[0], right[1]);
      E::multiply_add(sums[n / 8 + 1], left, right[2], right[3]);
    }
  }
}

// sums += A B: A 16 x kInner in registers, B the first kOuter columns of the kInner rows of kD that `b` names
// (by_rows).
template <class E, int kD, int kInner, int kOuter>
__device__ __forceinline__ void multiply_add(float (&sums)[kOuter / 8][4], const std::uint32_t (&a)[kInner / 16][4],
                                             std::uint32_t b) {
#pragma unroll
  for (int k = 0; k < kInner; k += 16) {
#pragma unroll
    for (int n = 0; n < kOuter; n += 16) {
      std::uint32_t right[4];
      load_matrices_transposed(right, (b ^ (n * 2)) + k * kD * 2);
      E::multiply_add(sums[n / 8], a[k / 16], right[0], right[1]);
      E::multiply_add(sums[n / 8 + 1], a[k / 16], right[2], right[3]);
    }
  }
}

// The sums of one product, rounded, as the left operand of another.
template <class E, int kInner>
__device__ __forceinline__ void pack_left(std::uint32_t (&a)[kInner / 16][4], const float (&sums)[kInner / 8][4]) {
#pragma unroll
  for (int k = 0; k < kInner / 16; ++k) {
    a[k][0] = E::pack(sums[2 * k][0], sums[2 * k][1]);
    a[k][1] = E::pack(sums[2 * k][2], sums[2 * k][3]);
    a[k][2] = E::pack(sums[2 * k + 1][0], sums[2 * k + 1][1]);
    a[k][3] = E::pack(sums[2 * k + 1][2], sums[2 * k + 1][3]);
  }
}

// A warp writes the first rows_count of its 16 rows of sums to global memory, D columns of them at most, by way of 16
// rows of shared memory that no other warp touches: `tile`, kD wide, of which the first kOuter columns are used.
template <class E, int kD, int kOuter>
__device__ __forceinline__ void store_rows(const float (&sums)[kOuter / 8][4], std::uint32_t tile, std::uint16_t* rows,
                                           std::int64_t row_stride, int rows_count, int D) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncwarp();  // the warp's reads of these rows come before its writes
#pragma unroll
  for (int n = 0; n < kOuter / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      store_shared(tile + tile_offset(accumulator_row(lane, i), n, 2 * kD) + 2 * accumulator_column(lane, i),
                   E::pack(sums[n][i], sums[n][i + 1]));
    }
  }
  __syncwarp();  // all of the warp's writes come before its reads
  constexpr int kChunks = kOuter / 8;
  constexpr int kRowsAtOnce = 32 / kChunks;
  const int chunk = lane % kChunks;
#pragma unroll
  for (int i = 0; i < 16; i += kRowsAtOnce) {
    const int row = lane / kChunks + i;
    if (row < rows_count && chunk * 8 < D) {
      *reinterpret_cast<uint4*>(rows + row * row_stride + chunk * 8) =
          load_shared(tile + tile_offset(row, chunk, 2 * kD));
    }
  }
}

// Calls `f` as f.template operator()<E, kD>() for the call's element and the narrowest tile that holds its head dim.
template <class F>
Status for_element_and_width(tensor::DType dtype, std::int64_t D, F&& f) {
  const bool is_bf16 = dtype == tensor::DType::kBf16;
  if (D <= 64) return is_bf16 ? f.template operator()<Bf16, 64>() : f.template operator()<F16, 64>();
  if (D <= 128) return is_bf16 ? f.template operator()<Bf16, 128>() : f.template operator()<F16, 128>();
  return is_bf16 ? f.template operator()<Bf16, 256>() : f.template operator()<F16, 256>();
}

}  // namespace tandem::kernels::sm80

// What kernels over rows of 16-bit elements (or of f32) share: chunks of 8 of them, and sums over the threads of a row.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/common/half_rows.h"
#include "kernels/common/sm80.cuh"

namespace tandem::kernels::sm80 {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

// The first `count` of 8 elements, zeros after them. With kAligned there are 8 or none (count <= 0), on 16 bytes.
template <bool kAligned>
__device__ __forceinline__ uint4 load_chunk(const std::uint16_t* from, int count) {
  if constexpr (kAligned) {
    return count > 0 ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
  } else {
    std::uint32_t words[kChunk / 2] = {};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) words[i / 2] |= std::uint32_t{from[i]} << 16 * (i % 2);
    }
    return {words[0], words[1], words[2], words[3]};
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_chunk(std::uint16_t* to, int count, uint4 chunk) {
  if constexpr (kAligned) {
    if (count > 0) *reinterpret_cast<uint4*>(to) = chunk;
  } else {
    const std::uint32_t words[kChunk / 2] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) to[i] = static_cast<std::uint16_t>(words[i / 2] >> 16 * (i % 2));
    }
  }
}

template <class E>
__device__ __forceinline__ void widen(uint4 chunk, float (&values)[kChunk]) {
  const std::uint32_t words[kChunk / 2] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) {
    const float2 pair = E::unpack(words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

// Makes the compiler widen a chunk again after this, where it would rather keep eight registers than four.
__device__ __forceinline__ void stay_packed(uint4& chunk) {
  asm volatile("" : "+r"(chunk.x), "+r"(chunk.y), "+r"(chunk.z), "+r"(chunk.w));
}

template <class E>
__device__ __forceinline__ uint4 narrow(const float (&values)[kChunk]) {
  return {E::pack(values[0], values[1]), E::pack(values[2], values[3]), E::pack(values[4], values[5]),
          E::pack(values[6], values[7])};
}

// The same of f32 that the launch does not write.
template <bool kAligned>
__device__ __forceinline__ void load_floats(const float* from, int count, float (&values)[kChunk]) {
  if constexpr (kAligned) {
    float4 low{}, high{};
    if (count > 0) {
      low = __ldg(reinterpret_cast<const float4*>(from));
      high = __ldg(reinterpret_cast<const float4*>(from) + 1);
    }
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = i < count ? __ldg(from + i) : 0.0f;
  }
}

// An element type of rows, beside Bf16 and F16.
struct F32 {};

// Eight floats, or as many as there are and zeros, which a kernel before this one may still have written while this one
// was beginning.
template <bool kAligned>
__device__ __forceinline__ void load_new_floats(const float* from, int count, float (&values)[kChunk]) {
  if constexpr (kAligned) {
    float4 low{}, high{};
    if (count > 0) {
      low = *reinterpret_cast<const float4*>(from);
      high = *(reinterpret_cast<const float4*>(from) + 1);
    }
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = i < count ? from[i] : 0.0f;
  }
}

// 8 elements of a row of HalfRows from `begin` on, as load_chunk() and store_chunk() take them. The launch may write
// what is loaded.
template <class E, bool kAligned>
__device__ __forceinline__ void load_values(const HalfRows& rows, std::uint32_t token, std::uint32_t head, int begin,
                                            int count, float (&values)[kChunk]) {
  if constexpr (!std::is_same_v<E, F32>) {
    widen<E>(load_chunk<kAligned>(rows.row(token, head) + begin, count), values);
  } else {
    load_new_floats<kAligned>(rows.row_of_f32(token, head) + begin, count, values);
  }
}
template <class E, bool kAligned>
__device__ __forceinline__ void store_values(const HalfRows& rows, std::uint32_t token, std::uint32_t head, int begin,
                                             int count, const float (&values)[kChunk]) {
  if constexpr (!std::is_same_v<E, F32>) {
    store_chunk<kAligned>(rows.row(token, head) + begin, count, narrow<E>(values));
  } else {
    float* const to = rows.row_of_f32(token, head) + begin;
    if constexpr (kAligned) {
      if (count <= 0) return;
      reinterpret_cast<float4*>(to)[0] = {values[0], values[1], values[2], values[3]};
      reinterpret_cast<float4*>(to)[1] = {values[4], values[5], values[6], values[7]};
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i < count) to[i] = values[i];
      }
    }
  }
}

// offset + weight[begin...], the weight f32 or of the rows' dtype.
template <class E, bool kAligned>
__device__ __forceinline__ void load_gains(const void* weight, bool is_f32, float offset, int begin, int count,
                                           float (&gains)[kChunk]) {
  if (is_f32 || std::is_same_v<E, F32>) {
    load_floats<kAligned>(static_cast<const float*>(weight) + begin, count, gains);
  } else {
    if constexpr (!std::is_same_v<E, F32>) {
      widen<E>(load_chunk<kAligned>(static_cast<const std::uint16_t*>(weight) + begin, count), gains);
    }
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) gains[i] += offset;
}

__device__ __forceinline__ float add_squares(const float (&values)[kChunk], float sum) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = __fmaf_rn(values[i], values[i], sum);
  return sum;
}

// sum += <dy * gain, x>
__device__ __forceinline__ float add_products(const float (&dy)[kChunk], const float (&gains)[kChunk],
                                              const float (&x)[kChunk], float sum) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = __fmaf_rn(dy[i] * gains[i], x[i], sum);
  return sum;
}

// Adds each of `values` up over aligned groups of `threads` (a power of two, at most 32) neighbours in the warp, all of
// whose threads call: a butterfly, so all get the same bits.
template <int kCount>
__device__ __forceinline__ void sum_over_lanes(float (&values)[kCount], int threads) {
  for (int distance = threads / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += __shfl_xor_sync(kWholeWarp, values[i], distance);
  }
}

__device__ __forceinline__ float inverse_root(float sum_of_squares, int width, float eps) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(width) + eps);
}

// The gradients of a weight that a thread block has added up, each group of threads for rows of its own and each thread
// for the columns begins[k] to begins[k] + counts[k]: adds the groups' in ascending order and writes to[width], on 16
// bytes. All threads call. `shared` has room for groups * width floats and is free; unless there is one group, and then
// chunks begin at multiples of 8.
template <int kPieces>
__device__ __forceinline__ void write_block_sums(const float (&sums)[kPieces][kChunk], const int (&begins)[kPieces],
                                                 const int (&counts)[kPieces], int group, int groups, int width,
                                                 float* shared, float* to) {
  if (groups == 1) {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      if (counts[k] <= 0) continue;
      float4* const chunk = reinterpret_cast<float4*>(to + begins[k]);
      chunk[0] = {sums[k][0], sums[k][1], sums[k][2], sums[k][3]};
      chunk[1] = {sums[k][4], sums[k][5], sums[k][6], sums[k][7]};
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < counts[k]) shared[group * width + begins[k] + i] = sums[k][i];
    }
  }
  __syncthreads();  // all groups' sums are there
  for (int column = static_cast<int>(threadIdx.x); column < width; column += static_cast<int>(blockDim.x)) {
    float sum = shared[column];
    for (int i = 1; i < groups; ++i) sum += shared[i * width + column];
    to[column] = sum;
  }
}

}  // namespace tandem::kernels::sm80

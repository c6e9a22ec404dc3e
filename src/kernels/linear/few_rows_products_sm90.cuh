// What the kernels share that stream a layer's weights past few rows: products of few columns, operands by their
// addresses, where boxes begin, a place in a ring.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/sm90.cuh"
#include "kernels/linear/streamed_rows_sm90.h"

namespace tandem::kernels::sm90 {

// D[64,N] += A[64,16] B[16,N]: rows of both operands are k-contiguous, in the 128-byte swizzle.
template <int kN>
__device__ __forceinline__ void multiply_rows(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b) {
  if constexpr (kN == 8) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b));
  } else if constexpr (kN == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "l"(a), "l"(b));
  } else if constexpr (kN == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
        : "l"(a), "l"(b));
  } else if constexpr (kN == 48) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}, %24, %25, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
        : "l"(a), "l"(b));
  } else {
    multiply<__nv_bfloat16, kN, false, false>(d, a, b, 1);
  }
}

// An operand's low word, in which its address is counted in 16 bytes, and its high word.
__device__ __forceinline__ std::uint64_t operand_of(std::uint32_t low, std::uint32_t high) {
  std::uint64_t operand;
  asm("mov.b64 %0, {%1, %2};" : "=l"(operand) : "r"(low), "r"(high));
  return operand;
}
// Slabs in the 128-byte swizzle, eight rows 1024 bytes from the next eight.
inline constexpr std::uint32_t kSwizzledHigh = std::uint32_t{1} << 30 | 1024 >> 4;
__device__ __forceinline__ std::uint32_t swizzled_low(std::uint32_t address) { return address >> 4 | 1 << 16; }

// Where a step's box of so many slabs begins (few_rows_map_sm90.h): a map of ragged rows has only columns, one of
// others 64 of them to a slab.
struct StreamedBoxes {
  bool is_ragged;
  int slabs;
  __device__ __forceinline__ StreamedBoxes(int K, int slabs) : is_ragged(K % kStreamedSlab != 0), slabs(slabs) {}
  __device__ __forceinline__ int column(int step) const { return is_ragged ? step * kStreamedSlab : 0; }
  __device__ __forceinline__ int slab(int step) const { return is_ragged ? 0 : step * slabs; }
};

// Walks a ring of stages.
struct StageCursor {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace tandem::kernels::sm90

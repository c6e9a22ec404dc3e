// What the kernels share that stream a layer's weights past few rows: products of few columns, boxes that are read
// once, operands by their addresses, a place in a ring.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/sm90.cuh"

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

// True in one of a warp's lanes. As the condition of a branch it tells the compiler that what is in it is uniform.
__device__ __forceinline__ bool elect_one() {
  std::uint32_t is_elected;
  asm volatile(
      "{\n.reg .pred is;\n"
      "elect.sync _|is, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, is;\n}\n"
      : "=r"(is_elected));
  return is_elected != 0;
}

// Barriers by their addresses in shared memory.
__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra passed;\n"
      "bra again;\n"
      "passed:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A box as load_box() has it, of bytes that are read once: they are the first to leave the L2 cache.
__device__ __forceinline__ void load_box_once(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier,
                                              int column, int row, int slab) {
  constexpr std::uint64_t kEvictFirst = 0x12f0000000000000;
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, "
      "%4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(slab), "l"(kEvictFirst)
      : "memory");
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

// Hopper's instructions as functions: mbarriers, bulk copies (TMA), warpgroup matrix products, and what orders them.
// PTX ISA 8.x, sections on mbarrier, cp.async.bulk, wgmma and setmaxnreg.
//
// Shared-memory operands lie in the 128-byte swizzle: a tile of R rows and C columns of 16 bits is C/64 slabs, each R
// rows of 128 bytes, on 1024 bytes; the copy engine writes it so, one box of 64 columns a slab.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace tandem::kernels::sm90 {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- Barriers in shared memory that count arrivals and bytes. ----

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
// After the inits, before anybody else (the copy engine included) uses the barriers.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect_bytes(std::uint64_t* barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Arrivals and waits also by a barrier's address in shared memory.
__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) { barrier_arrive(shared_address(barrier)); }
// Waits until the phase of this parity has completed. Whoever fills first waits for "empty" with parity 1.
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
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  barrier_wait(shared_address(barrier), parity);
}

// Barriers of some of the block's warps, by number (0 is __syncthreads).
__device__ __forceinline__ void named_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
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

template <int kRegisters>
__device__ __forceinline__ void registers_give_back() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Bulk copies. ----

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// One box of a three-dimensional tensor (column, row, head) into shared memory; elements outside the tensor are zero.
// Shared memory by its 32-bit address: threads that only copy have few registers.
__device__ __forceinline__ void load_box(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier, int column,
                                         int row, int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head)
      : "memory");
}
// The same with a policy of the L2 cache: what is read once is the first to leave it, what is read in every step the
// last.
inline constexpr std::uint64_t kEvictNormal = 0x1000000000000000, kEvictFirst = 0x12f0000000000000,
                               kEvictLast = 0x14f0000000000000;
__device__ __forceinline__ void load_box(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier, int column,
                                         int row, int head, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, "
      "%4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void load_bytes(std::uint32_t to, const void* from, std::uint32_t bytes,
                                           std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void store_bytes(void* to, const void* from, std::uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void add_floats(float* to, const void* from, std::uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void bulk_wait_read() {  // shared memory may be written again
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
template <int kPending>
__device__ __forceinline__ void bulk_wait() {  // and the writes are done
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
// Between ordinary accesses to shared memory and the copy engine's or the tensor cores'.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

// ---- Flags in device memory, between blocks. ----

__device__ __forceinline__ int load_acquire(const int* flag) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
__device__ __forceinline__ void store_release(int* flag, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// ---- Matrix fragments. ----

template <class Half>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  if constexpr (std::is_same_v<Half, __nv_bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float tanh_approx(float x) {
  // 1 - 2 / (e^2x + 1): tanh.approx keeps 11 bits only.
  return 1.0f - __fdividef(2.0f, exp2_approx(x * 2.885390082f) + 1.0f);
}
// Four 8x8 matrices of 16-bit elements from registers, as a product's accumulator holds them packed.
__device__ __forceinline__ void store_matrices(std::uint32_t address, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                               std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// ---- Warpgroup products: D[64,N] (+)= A[64,16] B[16,N], f32 sums. ----

// Orders this warpgroup's register writes before the products that follow.
__device__ __forceinline__ void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Has x, which is never negative, computed before a wait that follows. ptxas moves waits up, above all that they do not
// order, so that what stands before one and should run under the products runs after them. It does not move them above
// accesses to memory: x is stored if it is negative.
__device__ __forceinline__ void compute_before_wait(float x) {
  asm volatile(
      "{\n"
      ".reg .pred never;\n"
      "setp.lt.f32 never, %0, 0f00000000;\n"
      "@never st.shared.f32 [%1], %0;\n"
      "}\n" ::"f"(x),
      "r"(0)
      : "memory");
}
// Tells the compiler that a product under way changes these registers up to here.
template <int kCount>
__device__ __forceinline__ void product_touch(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Where an operand lies. The operand's rows are of the dimension that is not summed (M or N).
//   sum axis contiguous ("K-major"): the next 16 of the sum axis are 32 bytes on, or in the next slab after 64
//   other axis contiguous ("MN-major"): slab_bytes to the next 64 of it; the next 16 of the sum axis are 16 rows on
__device__ __forceinline__ std::uint64_t operand(const void* tile, std::uint32_t slab_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightRows = std::uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | std::uint64_t{slab_bytes >> 4} << 16 |
         std::uint64_t{(shared_address(tile) & 0x3ffff) >> 4};
}
__device__ __forceinline__ std::uint64_t operand_at(std::uint64_t base, std::uint32_t bytes) {
  return base + (bytes >> 4);
}

#define TD_SUMS_8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define TD_SUMS_16(d, i) TD_SUMS_8(d, i), TD_SUMS_8(d, i + 8)
#define TD_SUMS_32(d, i) TD_SUMS_16(d, i), TD_SUMS_16(d, i + 16)
#define TD_SUMS_40(d, i) TD_SUMS_32(d, i), TD_SUMS_8(d, i + 32)
#define TD_SUMS_48(d, i) TD_SUMS_32(d, i), TD_SUMS_16(d, i + 32)
#define TD_SUMS_56(d, i) TD_SUMS_48(d, i), TD_SUMS_8(d, i + 48)
#define TD_SUMS_64(d, i) TD_SUMS_32(d, i), TD_SUMS_32(d, i + 32)
#define TD_SUMS_96(d, i) TD_SUMS_64(d, i), TD_SUMS_32(d, i + 64)
#define TD_SUMS_112(d, i) TD_SUMS_96(d, i), TD_SUMS_16(d, i + 96)
#define TD_SUMS_128(d, i) TD_SUMS_64(d, i), TD_SUMS_64(d, i + 64)
#define TD_REGS_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define TD_REGS_32 TD_REGS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TD_REGS_40 TD_REGS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define TD_REGS_48 TD_REGS_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define TD_REGS_56 TD_REGS_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define TD_REGS_64 TD_REGS_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define TD_REGS_96                                                                   \
  TD_REGS_64                                                                         \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TD_REGS_112 \
  TD_REGS_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define TD_REGS_128 \
  TD_REGS_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TD_PRODUCT_SS(N, SUMS, A, B, PRED, TA, TB, TYPE)                                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #PRED                                          \
               ", 0;\n"                                                                            \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" TD_REGS_##SUMS \
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}\n"                            \
               : TD_SUMS_##SUMS(d, 0)                                                              \
               : "l"(a), "l"(b), "r"(accumulate), "n"(int{kTransposeA}), "n"(int{kTransposeB}))
#define TD_PRODUCT_RS(N, SUMS, A0, A1, A2, A3, B, PRED, TB, TYPE)                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #PRED                                          \
               ", 0;\n"                                                                            \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" TD_REGS_##SUMS \
               "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}\n"     \
               : TD_SUMS_##SUMS(d, 0)                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(int{kTransposeB}))
// Of the operands' type: the sums' number, then those of the operands behind them.
#define TD_PRODUCT(KIND, ...)                        \
  if constexpr (std::is_same_v<Half, __nv_bfloat16>) \
    TD_PRODUCT_##KIND(__VA_ARGS__, "bf16");          \
  else                                               \
    TD_PRODUCT_##KIND(__VA_ARGS__, "f16")

// A and B from shared memory. kTranspose*: that operand's sum axis is not the contiguous one.
template <class Half, int kN, bool kTransposeA, bool kTransposeB>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b, int accumulate) {
  if constexpr (kN == 32) {
    TD_PRODUCT(SS, 32, 16, 16, 17, 18, 19, 20);
  } else if constexpr (kN == 64) {
    TD_PRODUCT(SS, 64, 32, 32, 33, 34, 35, 36);
  } else if constexpr (kN == 80) {
    TD_PRODUCT(SS, 80, 40, 40, 41, 42, 43, 44);
  } else if constexpr (kN == 96) {
    TD_PRODUCT(SS, 96, 48, 48, 49, 50, 51, 52);
  } else if constexpr (kN == 112) {
    TD_PRODUCT(SS, 112, 56, 56, 57, 58, 59, 60);
  } else if constexpr (kN == 128) {
    TD_PRODUCT(SS, 128, 64, 64, 65, 66, 67, 68);
  } else if constexpr (kN == 192) {
    TD_PRODUCT(SS, 192, 96, 96, 97, 98, 99, 100);
  } else if constexpr (kN == 224) {
    TD_PRODUCT(SS, 224, 112, 112, 113, 114, 115, 116);
  } else if constexpr (kN == 256) {
    TD_PRODUCT(SS, 256, 128, 128, 129, 130, 131, 132);
  } else {
    static_assert(kN == 64, "no such product here");
  }
}

// A from registers: four words, as a packed accumulator holds 16 of its columns.
template <class Half, int kN, bool kTransposeB>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                                         int accumulate) {
  if constexpr (kN == 64) {
    TD_PRODUCT(RS, 64, 32, 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (kN == 128) {
    TD_PRODUCT(RS, 128, 64, 64, 65, 66, 67, 68, 69, 70);
  } else if constexpr (kN == 256) {
    TD_PRODUCT(RS, 256, 128, 128, 129, 130, 131, 132, 133, 134);
  } else {
    static_assert(kN == 64, "no such product here");
  }
}

#undef TD_PRODUCT
#undef TD_PRODUCT_SS
#undef TD_PRODUCT_RS
#undef TD_SUMS_8
#undef TD_SUMS_16
#undef TD_SUMS_32
#undef TD_SUMS_40
#undef TD_SUMS_48
#undef TD_SUMS_56
#undef TD_SUMS_64
#undef TD_SUMS_96
#undef TD_SUMS_112
#undef TD_SUMS_128
#undef TD_REGS_16
#undef TD_REGS_32
#undef TD_REGS_40
#undef TD_REGS_48
#undef TD_REGS_56
#undef TD_REGS_64
#undef TD_REGS_96
#undef TD_REGS_112
#undef TD_REGS_128

}  // namespace tandem::kernels::sm90

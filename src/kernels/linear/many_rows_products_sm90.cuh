// Products of the widths that only tiles of many rows have.
#pragma once

#include "kernels/common/sm90.cuh"

namespace tandem::kernels::many_rows {

#define TD_SUMS_16(d, i)                                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),      \
      "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define TD_SUMS_8(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define TD_SUMS_48(d, i) TD_SUMS_16(d, i), TD_SUMS_16(d, i + 16), TD_SUMS_16(d, i + 32)
#define TD_SUMS_56(d, i) TD_SUMS_48(d, i), TD_SUMS_8(d, i + 48)
#define TD_SUMS_112(d, i) TD_SUMS_48(d, i), TD_SUMS_48(d, i + 48), TD_SUMS_16(d, i + 96)
#define TD_REGS_48                                                                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24," \
  " %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TD_REGS_56 TD_REGS_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define TD_REGS_112                                                                                                  \
  TD_REGS_56                                                                                                         \
  ", %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71"                                 \
  ", %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, " \
  "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define TD_PRODUCT(N, SUMS, A, B, PRED, TA, TB)                                            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #PRED                                  \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" TD_REGS_##SUMS \
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}\n"                    \
               : TD_SUMS_##SUMS(d, 0)                                                      \
               : "l"(a), "l"(b), "r"(accumulate), "n"(int{kTransposeA}), "n"(int{kTransposeB}))

// As sm90::multiply().
template <int kN, bool kTransposeA, bool kTransposeB>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b, int accumulate) {
  if constexpr (kN == 96) {
    TD_PRODUCT(96, 48, 48, 49, 50, 51, 52);
  } else if constexpr (kN == 112) {
    TD_PRODUCT(112, 56, 56, 57, 58, 59, 60);
  } else if constexpr (kN == 224) {
    TD_PRODUCT(224, 112, 112, 113, 114, 115, 116);
  } else {
    sm90::multiply<__nv_bfloat16, kN, kTransposeA, kTransposeB>(d, a, b, accumulate);
  }
}

#undef TD_PRODUCT
#undef TD_SUMS_8
#undef TD_SUMS_16
#undef TD_SUMS_48
#undef TD_SUMS_56
#undef TD_SUMS_112
#undef TD_REGS_48
#undef TD_REGS_56
#undef TD_REGS_112

}  // namespace tandem::kernels::many_rows

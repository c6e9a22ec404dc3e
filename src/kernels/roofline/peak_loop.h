// Loops that do nothing but multiply and add, one per instruction set, for measure_matrix_peak().
// Internal to kernels/roofline.
#pragma once

#include <cstdint>

namespace tandem::kernels::roofline {

struct PeakLoop {
  double flops = 0;  // per iteration; 0: not in this build
  void (*run)(std::int64_t iterations) = nullptr;
};

PeakLoop peak_portable();
PeakLoop peak_avx2();
PeakLoop peak_avx512();
PeakLoop peak_avx512_bf16();
PeakLoop peak_amx_bf16();

}  // namespace tandem::kernels::roofline

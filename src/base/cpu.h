// What this processor can do, asked once. Kernels choose their path from it at run time; tests force each path in turn.
#pragma once

#include <string>

namespace tandem {

struct CpuFeatures {
  bool avx2 = false;             // with FMA and F16C
  bool avx512 = false;           // F, BW, VL, DQ
  bool avx512_bf16 = false;      // VDPBF16PS
  bool bf16_pairs_fast = false;  // VDPBF16PS outruns f32 multiply-adds: on AMD; Intel's runs at a quarter of that rate
  bool amx_bf16 = false;         // TDPBF16PS, and the kernel let this process use the tiles
};

// Threads: any. The first call asks the kernel for permission to use AMX tiles, for the whole process.
const CpuFeatures& cpu_features();

// The processor's own name, "AMD EPYC 9755" or the like.
std::string cpu_name();

}  // namespace tandem

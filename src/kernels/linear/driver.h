// The loops of a linear layer, the same for every microkernel.
//
//   chunk       weight rows, few enough to stay in a core's L2 while all of x passes by
//     panels    a block of up to 96 rows of x
//       k       blocks of K, ascending; their sums are added to those before
//         panel x rows: one microkernel tile each
//     epilogue  alpha, bias, residual or gate; written to y
// Internal to kernels/linear. Arguments are checked by the caller.
#pragma once

#include "device/device.h"
#include "kernels/linear/microkernel.h"

namespace tandem::kernels::linear {

struct Weight {
  const std::byte* data = nullptr;
  std::int64_t row_bytes = 0;  // from one row to the next
};

struct Problem {
  std::int64_t T = 0, N = 0, K = 0;
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  tensor::DType weight_dtype = tensor::DType::kBf16;
  Weight weight;
  Weight up;  // gated only: `weight` is then the gate
  bool gated = false;
  Activation activation = Activation::kSilu;
  const void* bias = nullptr;
  tensor::DType bias_dtype = tensor::DType::kF32;
  float alpha = 1.0f;
  const float* residual = nullptr;
  std::int64_t residual_stride = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

// Bytes of packed x, at most, for any microkernel.
std::size_t packed_bytes_max(std::int64_t T, std::int64_t K);

void run(const Microkernel& kernel, Compute compute, const Problem& problem, std::byte* scratch, ThreadPool& pool);

}  // namespace tandem::kernels::linear

// The small matrix product that both halves of attention are made of: C = diag(fade) C + A B, for few rows of C.
//
// A [rows,steps] and B [steps,columns] hold 32-bit elements, either f32, or pairs of bf16 (the products of both are
// added). Columns are a multiple of 16. Each element of C is one chain of additions over the steps, ascending, so it
// does not depend on how many rows or columns are computed together.
#pragma once

#include <cstdint>

namespace tandem::kernels {

struct SmallProduct {
  const void* a;
  std::int64_t a_stride;  // in elements of 32 bits, as the other strides
  const void* b;
  std::int64_t b_stride;
  float* c;
  std::int64_t c_stride;
  const float* fade;  // [rows]: what C's rows are multiplied by first; null: C is overwritten
  std::int64_t rows, columns, steps;
};

using Multiply = void (*)(const SmallProduct& product);

// Pairs of bf16, by VDPBF16PS. Only on machines with cpu_features().avx512_bf16; null in builds for others.
Multiply multiply_bf16_pairs_avx512();

}  // namespace tandem::kernels

#include "kernels/attention/multiply.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/linear/target.h"

TD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace tandem::kernels {
namespace {

constexpr int kLanes = 16;

// kRows rows from `row`, kVectors vectors of columns from `column`, accumulated in registers.
template <int kRows, int kVectors>
TD_INLINE void multiply_block(const SmallProduct& product, std::int64_t row, std::int64_t column) {
  const auto* const a = static_cast<const std::uint32_t*>(product.a) + row * product.a_stride;
  const auto* const b = static_cast<const std::uint32_t*>(product.b) + column;
  float* const c = product.c + row * product.c_stride + column;
  const std::int64_t a_stride = product.a_stride, b_stride = product.b_stride, c_stride = product.c_stride;
  const std::int64_t steps = product.steps;
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = product.fade == nullptr ? _mm512_setzero_ps()
                                           : _mm512_mul_ps(_mm512_loadu_ps(c + r * c_stride + v * kLanes),
                                                           _mm512_set1_ps(product.fade[row + r]));
    }
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    __m512bh columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = (__m512bh)_mm512_loadu_si512(b + step * b_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * a_stride + step]));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], factor, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + r * c_stride + v * kLanes, sums[r][v]);
  }
}

template <int kRows>
void multiply_rows(const SmallProduct& product, std::int64_t row) {
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= product.columns; column += 4 * kLanes) multiply_block<kRows, 4>(product, row, column);
  for (; column < product.columns; column += kLanes) multiply_block<kRows, 1>(product, row, column);
}

void multiply(const SmallProduct& product) {
  std::int64_t row = 0;
  for (; row + 6 <= product.rows; row += 6) multiply_rows<6>(product, row);
  for (; row + 4 <= product.rows; row += 4) multiply_rows<4>(product, row);
  for (; row + 2 <= product.rows; row += 2) multiply_rows<2>(product, row);
  if (row < product.rows) multiply_rows<1>(product, row);
}

}  // namespace

Multiply multiply_bf16_pairs_avx512() { return multiply; }

}  // namespace tandem::kernels
TD_TARGET_END

#else

namespace tandem::kernels {
Multiply multiply_bf16_pairs_avx512() { return nullptr; }
}  // namespace tandem::kernels

#endif

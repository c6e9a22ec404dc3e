// SmallProduct over f32, for Highway kernels. Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_ATTENTION_MULTIPLY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ATTENTION_MULTIPLY_INL_H_
#undef TANDEM_KERNELS_ATTENTION_MULTIPLY_INL_H_
#else
#define TANDEM_KERNELS_ATTENTION_MULTIPLY_INL_H_
#endif

#include <hwy/highway.h>
#include "kernels/attention/lanes-inl.h"
#include "kernels/attention/multiply.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// kRows rows from `row`, kVectors vectors of columns from `column`, accumulated in registers.
template <int kRows, int kVectors>
HWY_INLINE void multiply_block(const SmallProduct& product, std::int64_t row, std::int64_t column) {
  const Floats d;
  const float* const a = static_cast<const float*>(product.a) + row * product.a_stride;
  const float* const b = static_cast<const float*>(product.b) + column;
  float* const c = product.c + row * product.c_stride + column;
  const std::int64_t a_stride = product.a_stride, b_stride = product.b_stride, c_stride = product.c_stride;
  const std::int64_t steps = product.steps;
  hn::Vec<Floats> sums[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = product.fade == nullptr
                       ? hn::Zero(d)
                       : hn::Mul(hn::LoadU(d, c + r * c_stride + v * kLanes), hn::Set(d, product.fade[row + r]));
    }
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    hn::Vec<Floats> columns[kVectors];
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + step * b_stride + v * kLanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const auto factor = hn::Set(d, a[r * a_stride + step]);
      HWY_UNROLL(8)
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, c + r * c_stride + v * kLanes);
  }
}

template <int kRows>
HWY_NOINLINE void multiply_rows(const SmallProduct& product, std::int64_t row) {
  constexpr int kWide = kLanes == 16 ? 4 : 2;  // so that sums, columns and a factor fit in the registers
  std::int64_t column = 0;
  for (; column + kWide * kLanes <= product.columns; column += kWide * kLanes) {
    multiply_block<kRows, kWide>(product, row, column);
  }
  for (; column < product.columns; column += kLanes) multiply_block<kRows, 1>(product, row, column);
}

inline void multiply_f32(const SmallProduct& product) {
  std::int64_t row = 0;
  for (; row + 6 <= product.rows; row += 6) multiply_rows<6>(product, row);
  for (; row + 4 <= product.rows; row += 4) multiply_rows<4>(product, row);
  for (; row + 2 <= product.rows; row += 2) multiply_rows<2>(product, row);
  if (row < product.rows) multiply_rows<1>(product, row);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

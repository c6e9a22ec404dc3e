// What kernel tests share: reproducible inputs, guarded outputs, comparisons, and references in double precision.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "base/rng.h"
#include "device/device.h"
#include "tensor/tensor.h"

namespace tandem::kernels::testing {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

// Uniform in [-range, range), the same for a seed everywhere.
inline std::vector<float> random_values(std::uint64_t seed, std::int64_t count, float range = 1.0f) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((2.0 * philox_uniform({.seed = seed}, i) - 1.0) * range);
  }
  return values;
}

// Whole numbers in [-range, range]: products and sums of few of them are exact.
inline std::vector<float> random_integers(std::uint64_t seed, std::int64_t count, int range) {
  std::vector<float> values = random_values(seed, count, static_cast<float>(range) + 0.49f);
  for (float& value : values) value = std::round(value);
  return values;
}

inline std::vector<std::uint16_t> to_bf16(std::span<const float> values) {
  std::vector<std::uint16_t> bits(values.size());
  std::transform(values.begin(), values.end(), bits.begin(), tensor::bf16_from_f32);
  return bits;
}
inline float rounded_to_bf16(float value) { return tensor::f32_from_bf16(tensor::bf16_from_f32(value)); }

inline TensorView view_of(std::span<const float> values, const Shape& shape) {
  return TensorView(values.data(), DType::kF32, shape);
}
inline TensorView view_of(std::span<const std::int32_t> values, const Shape& shape) {
  return TensorView(values.data(), DType::kI32, shape);
}

// Rows of f32 in the middle of memory that the kernel must not touch: before, after and, with a stride wider than the
// row, between rows.
class GuardedRows {
 public:
  GuardedRows(std::int64_t rows, std::int64_t width, std::int64_t stride)
      : rows_(rows), width_(width), stride_(stride), values_(static_cast<std::size_t>(rows * stride + 2 * kMargin)) {
    std::fill(values_.begin(), values_.end(), kGuard);
  }
  GuardedRows(std::int64_t rows, std::int64_t width) : GuardedRows(rows, width, width + 3) {}

  float* row(std::int64_t r) { return values_.data() + kMargin + r * stride_; }
  const float* row(std::int64_t r) const { return values_.data() + kMargin + r * stride_; }
  void set(std::span<const float> values) {
    for (std::int64_t r = 0; r < rows_; ++r) std::copy_n(values.data() + r * width_, width_, row(r));
  }
  std::vector<float> dense() const {
    std::vector<float> values;
    for (std::int64_t r = 0; r < rows_; ++r) values.insert(values.end(), row(r), row(r) + width_);
    return values;
  }
  TensorView view() {
    const std::int64_t strides[] = {stride_, 1};
    return TensorView(row(0), DType::kF32, Shape{rows_, width_}, strides);
  }
  // [T,H,D], with H * D the width of a row.
  TensorView heads_view(std::int64_t heads) {
    const std::int64_t strides[] = {stride_, width_ / heads, 1};
    return TensorView(row(0), DType::kF32, Shape{rows_, heads, width_ / heads}, strides);
  }
  bool guards_intact() const {
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(values_.size()); ++i) {
      const std::int64_t within = i - kMargin;
      const bool is_row = within >= 0 && within < rows_ * stride_ && within % stride_ < width_;
      if (!is_row && values_[static_cast<std::size_t>(i)] != kGuard) return false;
    }
    return true;
  }
  bool untouched() const {
    return std::all_of(values_.begin(), values_.end(), [](float value) { return value == kGuard; });
  }

 private:
  static constexpr std::int64_t kMargin = 32;
  static constexpr float kGuard = -12345.678f;
  std::int64_t rows_, width_, stride_;
  std::vector<float> values_;
};

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// The largest |got - expected|; NaN if any difference is NaN.
template <class T>
double worst_error(std::span<const T> got, std::span<const double> expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::quiet_NaN();
  double worst = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - expected[i]);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}
inline double worst_error(const std::vector<float>& got, const std::vector<double>& expected) {
  return worst_error(std::span<const float>(got), std::span<const double>(expected));
}

// The rule of kernel tests: at most twice the error of the plain formula in f32, plus a rounding floor.
inline void expect_as_good_as(const std::vector<float>& got, const std::vector<float>& plain,
                              const std::vector<double>& expected) {
  double largest = 0.0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(worst_error(got, expected), 2.0 * worst_error(plain, expected) + largest * 0x1p-22);
}

inline double silu(double x) { return x / (1.0 + std::exp(-x)); }
inline double gelu_tanh(double x) {
  const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-2.0 * u));
}
inline double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

// y = x / sqrt(mean(x^2) + eps) * (offset + weight), in `Real` throughout.
template <class Real>
std::vector<Real> rms_norm_reference(std::span<const float> x, std::span<const float> weight, float eps, float offset) {
  const std::size_t width = weight.size();
  std::vector<Real> y(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    Real sum = 0;
    for (std::size_t i = 0; i < width; ++i) sum += static_cast<Real>(x[begin + i]) * static_cast<Real>(x[begin + i]);
    const Real inverse = 1 / std::sqrt(sum / static_cast<Real>(width) + static_cast<Real>(eps));
    for (std::size_t i = 0; i < width; ++i) {
      y[begin + i] =
          static_cast<Real>(x[begin + i]) * inverse * (static_cast<Real>(offset) + static_cast<Real>(weight[i]));
    }
  }
  return y;
}

// ln sum e^x of one row.
template <class Real>
Real log_sum_exp_reference(std::span<const float> row) {
  Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
  for (const float value : row) max = std::max<Real>(max, value);
  if (std::isinf(max)) return max;
  for (const float value : row) sum += std::exp(static_cast<Real>(value) - max);
  return max + std::log(sum);
}

}  // namespace tandem::kernels::testing

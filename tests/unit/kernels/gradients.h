// Backwards in plain formulas, in float or double, and the check that a formula is the derivative it claims to be.
#pragma once

#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "unit/kernels/reference.h"

namespace tandem::kernels::testing {

inline std::vector<double> widened(std::span<const float> values) { return {values.begin(), values.end()}; }
template <class Real>
std::vector<Real> as_real(std::span<const float> values) {
  return {values.begin(), values.end()};
}

template <class Real>
Real dot(std::span<const Real> a, std::span<const Real> b) {
  Real sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Compares `gradient` of `loss` at `x` with central differences in double, at every `stride`-th element.
inline void expect_derivative(const std::function<double(std::span<const double>)>& loss, std::vector<double> x,
                              std::span<const double> gradient, std::size_t stride = 1) {
  ASSERT_EQ(x.size(), gradient.size());
  double largest = 0.0;
  for (const double value : gradient) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < x.size(); i += stride) {
    const double before = x[i], step = 1e-5 * std::max(1.0, std::fabs(before));
    x[i] = before + step;
    const double above = loss(x);
    x[i] = before - step;
    const double below = loss(x);
    x[i] = before;
    ASSERT_NEAR((above - below) / (2.0 * step), gradient[i], 1e-6 * std::max(1.0, largest)) << "element " << i;
  }
}

// y = x / sqrt(mean(x^2) + eps) * (offset + weight), rows of weight.size().
template <class Real>
std::vector<Real> norm_rows(std::span<const Real> x, std::span<const Real> weight, Real eps, Real offset) {
  const std::size_t width = weight.size();
  std::vector<Real> y(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    const auto row = x.subspan(begin, width);
    const Real inverse = 1 / std::sqrt(dot<Real>(row, row) / static_cast<Real>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) y[begin + i] = row[i] * inverse * (offset + weight[i]);
  }
  return y;
}

// Adds to dx and dweight.
template <class Real>
void norm_rows_backward(std::span<const Real> x, std::span<const Real> weight, Real eps, Real offset,
                        std::span<const Real> dy, std::span<Real> dx, std::span<Real> dweight) {
  const std::size_t width = weight.size();
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    const auto row = x.subspan(begin, width);
    const Real inverse = 1 / std::sqrt(dot<Real>(row, row) / static_cast<Real>(width) + eps);
    Real pull = 0;
    for (std::size_t i = 0; i < width; ++i) pull += dy[begin + i] * (offset + weight[i]) * row[i];
    pull *= inverse * inverse / static_cast<Real>(width);
    for (std::size_t i = 0; i < width; ++i) {
      dx[begin + i] += inverse * (dy[begin + i] * (offset + weight[i]) - row[i] * pull);
      dweight[i] += dy[begin + i] * row[i] * inverse;
    }
  }
}

// Turns [T,H,D] in place by tables [T,half]; `sign` -1 turns back.
template <class Real>
void turn_rows(std::span<Real> x, std::span<const Real> cos, std::span<const Real> sin, std::size_t H, std::size_t D,
               Real sign = 1) {
  const std::size_t T = x.size() / (H * D), half = cos.size() / T;
  for (std::size_t head = 0; head < T * H; ++head) {
    for (std::size_t i = 0; i < half; ++i) {
      const Real c = cos[head / H * half + i], s = sign * sin[head / H * half + i];
      const Real a = x[head * D + i], b = x[head * D + half + i];
      x[head * D + i] = a * c - b * s;
      x[head * D + half + i] = b * c + a * s;
    }
  }
}

}  // namespace tandem::kernels::testing

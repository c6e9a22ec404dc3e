// A linear layer's backward to test: its inputs, and the formula in float or double.
#pragma once

#include <string>
#include <vector>

#include "unit/kernels/gradients.h"

namespace tandem::kernels::testing {

struct LinearBackwardCase {
  std::int64_t T, K, N;
  float alpha;
  DType weight_dtype = DType::kF32;
  std::vector<float> x, weight, dy, dx_before, dweight_before, dbias_before;
  std::vector<std::uint16_t> weight_bits;

  LinearBackwardCase(std::int64_t tokens, std::int64_t k, std::int64_t n, float factor, DType dtype = DType::kF32)
      : T(tokens),
        K(k),
        N(n),
        alpha(factor),
        weight_dtype(dtype),
        x(random_values(1, T * K)),
        weight(random_values(2, N * K)),
        dy(random_values(3, T * N)),
        dx_before(random_values(4, T * K)),
        dweight_before(random_values(5, N * K)),
        dbias_before(random_values(6, N)) {
    if (dtype == DType::kF32) return;
    for (float& w : weight) {
      weight_bits.push_back(dtype == DType::kBf16 ? tensor::bf16_from_f32(w) : tensor::f16_from_f32(w));
      w = dtype == DType::kBf16 ? tensor::f32_from_bf16(weight_bits.back()) : tensor::f32_from_f16(weight_bits.back());
    }
  }
  TensorView weight_view() const {
    if (weight_dtype == DType::kF32) return view_of(weight, {N, K});
    return TensorView(weight_bits.data(), weight_dtype, Shape{N, K});
  }

  template <class Real>
  struct Gradients {
    std::vector<Real> dx, dweight, dbias;
  };
  // `rounded`: as if the factors of each product were rounded to bf16.
  template <class Real>
  Gradients<Real> reference(bool rounded = false) const {
    Gradients<Real> sum{as_real<Real>(dx_before), as_real<Real>(dweight_before), as_real<Real>(dbias_before)};
    const auto factor = [&](float value) { return static_cast<Real>(rounded ? rounded_to_bf16(value) : value); };
    const auto at = [](const auto& matrix, std::int64_t row, std::int64_t width, std::int64_t column) -> auto& {
      return matrix[static_cast<std::size_t>(row * width + column)];
    };
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t k = 0; k < K; ++k) {
        Real total = 0;
        for (std::int64_t n = 0; n < N; ++n) total += factor(at(dy, t, N, n)) * factor(at(weight, n, K, k));
        sum.dx[static_cast<std::size_t>(t * K + k)] += static_cast<Real>(alpha) * total;
      }
    }
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t k = 0; k < K; ++k) {
        Real total = 0;
        for (std::int64_t t = 0; t < T; ++t) total += factor(at(dy, t, N, n)) * factor(at(x, t, K, k));
        sum.dweight[static_cast<std::size_t>(n * K + k)] += static_cast<Real>(alpha) * total;
      }
      Real total = 0;
      for (std::int64_t t = 0; t < T; ++t) total += static_cast<Real>(at(dy, t, N, n));
      sum.dbias[static_cast<std::size_t>(n)] += static_cast<Real>(alpha) * total;
    }
    return sum;
  }
};

}  // namespace tandem::kernels::testing

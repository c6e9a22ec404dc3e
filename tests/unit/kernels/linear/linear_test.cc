// Linear layers against a double-precision reference: values, epilogues, special values, errors.
#include "kernels/linear/linear.h"

#include <gtest/gtest.h>

#include <limits>

#include "unit/kernels/linear/linear_test_support.h"

namespace tandem::kernels {
namespace {

constexpr double kEpsilon = 0x1p-23;

TEST(Linear, PathsOfThisMachine) {
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const auto paths = linear_paths(compute);
    ASSERT_FALSE(paths.empty());
    EXPECT_EQ(paths.back(), LinearPath::kPortable);
  }
  for (const LinearPath path : linear_paths(Compute::kF32)) {
    EXPECT_NE(path, LinearPath::kAvx512Bf16);
    EXPECT_NE(path, LinearPath::kAmxBf16);
  }
}

TEST(Linear, MatchesDoublePrecision) {
  const auto stream = device::Stream::create_cpu(2);
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    for (const Sizes sizes : all_sizes()) {
      for (const std::int64_t T : {1, 4, 19}) {
        SCOPED_TRACE(testing::Message() << "T " << T << " N " << sizes.N << " K " << sizes.K);
        Matrix x = Matrix::random(DType::kF32, T, sizes.K, sizes.K + 3, 1);
        Matrix weight = Matrix::random(setting.weight, sizes.N, sizes.K, sizes.K + 1, 2);
        Matrix y(DType::kF32, T, sizes.N, sizes.N + 2);
        Scratch scratch(T, sizes.K);
        ASSERT_TRUE(
            linear_cpu(x.view(), weight.view(), {}, setting.compute, y.view(), scratch.span(), *stream, setting.path)
                .ok());
        double error = 0, plain_error = 0, magnitude = 0;
        for (std::int64_t t = 0; t < T; ++t) {
          for (std::int64_t n = 0; n < sizes.N; ++n) {
            const Dot dot = reference_dot(x, t, weight, n, setting.compute);
            ASSERT_FALSE(std::isnan(y.get(t, n))) << t << " " << n;
            error = std::max(error, std::fabs(y.get(t, n) - dot.exact));
            plain_error = std::max(plain_error, std::fabs(static_cast<double>(dot.plain) - dot.exact));
            magnitude = std::max(magnitude, dot.sum_of_magnitudes);
          }
        }
        EXPECT_LE(error, 2 * plain_error + kEpsilon * magnitude);
        EXPECT_TRUE(y.guards_intact());
        EXPECT_TRUE(x.guards_intact());
        EXPECT_TRUE(weight.guards_intact());
      }
    }
  }
}

// Sums of small integers have no rounding, whatever the order.
TEST(Linear, SmallIntegersAreExact) {
  const auto stream = device::Stream::create_cpu(2);
  const auto small = [](std::int64_t r, std::int64_t c) { return static_cast<float>((r * 7 + c * 5) % 9 - 4); };
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    for (const Sizes sizes : all_sizes()) {
      const std::int64_t T = 7;
      Matrix x = Matrix::of(DType::kF32, T, sizes.K, sizes.K, small);
      Matrix weight = Matrix::of(setting.weight, sizes.N, sizes.K, sizes.K, small);
      Matrix y(DType::kF32, T, sizes.N, sizes.N);
      Scratch scratch(T, sizes.K);
      ASSERT_TRUE(
          linear_cpu(x.view(), weight.view(), {}, setting.compute, y.view(), scratch.span(), *stream, setting.path)
              .ok());
      for (std::int64_t t = 0; t < T; ++t) {
        for (std::int64_t n = 0; n < sizes.N; ++n) {
          ASSERT_EQ(y.get(t, n), reference_dot(x, t, weight, n, setting.compute).exact)
              << "t " << t << " n " << n << " N " << sizes.N << " K " << sizes.K;
        }
      }
    }
  }
}

TEST(Linear, EpilogueIsAlphaTimesSumPlusBiasPlusResidual) {
  const auto stream = device::Stream::create_cpu(2);
  const std::int64_t T = 5, N = 37, K = 70;
  Matrix x = Matrix::random(DType::kF32, T, K, K, 1);
  Matrix weight = Matrix::random(DType::kBf16, N, K, K, 2);
  Scratch scratch(T, K);
  Matrix plain(DType::kF32, T, N, N);
  ASSERT_TRUE(linear_cpu(x.view(), weight.view(), {}, Compute::kBf16, plain.view(), scratch.span(), *stream).ok());
  for (const DType bias_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    Matrix bias = Matrix::random(bias_dtype, 1, N, N, 3);
    Matrix residual = Matrix::random(DType::kF32, T, N, N + 5, 4);
    LinearEpilogue epilogue;
    epilogue.bias = bias.view().reshape(Shape{N});
    epilogue.alpha = 0.75f;
    epilogue.residual = residual.view();
    Matrix y(DType::kF32, T, N, N + 1);
    ASSERT_TRUE(linear_cpu(x.view(), weight.view(), epilogue, Compute::kBf16, y.view(), scratch.span(), *stream).ok());
    Matrix in_place = Matrix::random(DType::kF32, T, N, N + 5, 4);
    epilogue.residual = in_place.view();
    ASSERT_TRUE(
        linear_cpu(x.view(), weight.view(), epilogue, Compute::kBf16, in_place.view(), scratch.span(), *stream).ok());
    for (std::int64_t t = 0; t < T; ++t) {
      for (std::int64_t n = 0; n < N; ++n) {
        const float scaled = 0.75f * (plain.get(t, n) + bias.get(0, n));
        ASSERT_EQ(y.get(t, n), scaled + residual.get(t, n));
        ASSERT_EQ(in_place.get(t, n), y.get(t, n));
      }
    }
    EXPECT_TRUE(y.guards_intact());
    EXPECT_TRUE(in_place.guards_intact());
  }
}

TEST(Linear, NanAndInfinityPropagate) {
  const auto stream = device::Stream::create_cpu(1);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    for (const std::int64_t K : {1, 33, 64}) {
      const std::int64_t T = 9, N = 19;
      Matrix x = Matrix::random(DType::kF32, T, K, K, 1);
      Matrix weight = Matrix::of(setting.weight, N, K, K, [](std::int64_t, std::int64_t) { return 1.0f; });
      x.set(3, K - 1, nan);
      x.set(5, 0, infinity);
      weight.set(7, K - 1, nan);
      Matrix y(DType::kF32, T, N, N);
      Scratch scratch(T, K);
      ASSERT_TRUE(
          linear_cpu(x.view(), weight.view(), {}, setting.compute, y.view(), scratch.span(), *stream, setting.path)
              .ok());
      for (std::int64_t t = 0; t < T; ++t) {
        for (std::int64_t n = 0; n < N; ++n) {
          const bool expected_nan = t == 3 || n == 7;
          ASSERT_EQ(std::isnan(y.get(t, n)), expected_nan) << "t " << t << " n " << n << " K " << K;
          ASSERT_EQ(y.get(t, n) == infinity, t == 5 && !expected_nan) << "t " << t << " n " << n;
        }
      }
    }
  }
}

TEST(Linear, NoRowsIsNothingToDo) {
  const auto stream = device::Stream::create_cpu(1);
  Matrix x = Matrix::random(DType::kF32, 2, 8, 8, 1), weight = Matrix::random(DType::kBf16, 3, 8, 8, 2);
  Matrix y(DType::kF32, 2, 3, 3);
  Scratch scratch(0, 8);
  EXPECT_TRUE(
      linear_cpu(x.view().rows(0, 0), weight.view(), {}, Compute::kBf16, y.view().rows(0, 0), scratch.span(), *stream)
          .ok());
}

TEST(Linear, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  const std::int64_t T = 2, N = 3, K = 8;
  Matrix x = Matrix::random(DType::kF32, T, K, K, 1), weight = Matrix::random(DType::kBf16, N, K, K, 2);
  Matrix other = Matrix::random(DType::kBf16, N, K + 1, K + 1, 2),
         wide = Matrix::random(DType::kF32, T, N + 1, N + 1, 3);
  Matrix y(DType::kF32, T, N, N);
  Scratch scratch(T, K);
  const auto code = [&](TensorView xs, TensorView ws, const LinearEpilogue& epilogue, TensorView ys,
                        std::span<std::byte> space, std::optional<LinearPath> path = std::nullopt) {
    return linear_cpu(xs, ws, epilogue, Compute::kF32, ys, space, *stream, path).code();
  };
  const auto bad = StatusCode::kInvalidArgument;
  EXPECT_EQ(code(x.view(), weight.view(), {}, y.view(), scratch.span()), StatusCode::kOk);
  EXPECT_EQ(code(x.view(), other.view(), {}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(x.view(), weight.view(), {}, wide.view(), scratch.span()), bad);
  EXPECT_EQ(code(weight.view(), weight.view(), {}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(TensorView(), weight.view(), {}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(x.view(), weight.view(), {}, y.view(), scratch.span().subspan(1)), bad);
  EXPECT_EQ(code(x.view().columns(0, 0), weight.view().columns(0, 0), {}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(x.view(), weight.view(), {.bias = wide.view()}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(x.view(), weight.view(), {.residual = wide.view()}, y.view(), scratch.span()), bad);
  EXPECT_EQ(code(x.view(), weight.view(), {}, y.view(), scratch.span(), LinearPath::kAmxBf16), bad);
  EXPECT_EQ(linear_gated_cpu(x.view(), weight.view(), weight.view().rows(0, 2), Activation::kSilu, Compute::kF32,
                             y.view(), scratch.span(), *stream)
                .code(),
            bad);
}

}  // namespace
}  // namespace tandem::kernels

// A row's bits depend on that row, the weights' row, K and the path alone: not on the other rows, their number, its
// place, the strides, the slice of the weights, or the threads.
#include <gtest/gtest.h>

#include "kernels/elementwise/elementwise.h"
#include "unit/kernels/linear/linear_test_support.h"

namespace tandem::kernels {
namespace {

constexpr std::int64_t kRows = 100;

TEST(LinearBits, DoNotDependOnNeighboursPlacesOrThreads) {
  const auto one_thread = device::Stream::create_cpu(1), two_threads = device::Stream::create_cpu(2);
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    for (const Sizes sizes : all_sizes()) {
      SCOPED_TRACE(testing::Message() << "N " << sizes.N << " K " << sizes.K);
      Matrix x = Matrix::random(DType::kF32, kRows, sizes.K, sizes.K, 1);
      Matrix weight = Matrix::random(setting.weight, sizes.N, sizes.K, sizes.K, 2);
      Matrix all(DType::kF32, kRows, sizes.N, sizes.N);
      Scratch scratch(kRows, sizes.K);
      ASSERT_TRUE(linear_cpu(x.view(), weight.view(), {}, setting.compute, all.view(), scratch.span(), *one_thread,
                             setting.path)
                      .ok());
      for (const std::int64_t T : {1, 2, 3, 5, 7, 16, 17, 64, 100}) {
        device::Stream& stream = T % 2 == 0 ? *two_threads : *one_thread;
        device::Stream& other_stream = T % 2 == 0 ? *one_thread : *two_threads;
        const std::int64_t first = kRows - T;
        // Row t of the smaller batch is row (t * 37 + first) mod 100 of the large one.
        Matrix some(DType::kF32, T, sizes.K, sizes.K + 7);
        for (std::int64_t t = 0; t < T; ++t) {
          for (std::int64_t k = 0; k < sizes.K; ++k) some.set(t, k, x.get((t * 37 + first) % kRows, k));
        }
        Matrix y(DType::kF32, T, sizes.N, sizes.N + 5), again(DType::kF32, T, sizes.N, sizes.N);
        ASSERT_TRUE(
            linear_cpu(some.view(), weight.view(), {}, setting.compute, y.view(), scratch.span(), stream, setting.path)
                .ok());
        ASSERT_TRUE(linear_cpu(some.view(), weight.view(), {}, setting.compute, again.view(), scratch.span(),
                               other_stream, setting.path)
                        .ok());
        for (std::int64_t t = 0; t < T; ++t) {
          ASSERT_TRUE(y.same_bits(t, all, (t * 37 + first) % kRows)) << "T " << T << " t " << t;
          ASSERT_TRUE(again.same_bits(t, y, t)) << "T " << T << " t " << t;
        }
        ASSERT_TRUE(y.guards_intact());
      }
    }
  }
}

TEST(LinearBits, DoNotDependOnTheSliceOfTheWeights) {
  const auto stream = device::Stream::create_cpu(2);
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    const std::int64_t T = 9, N = 70, K = 2100;
    Matrix x = Matrix::random(DType::kF32, T, K, K, 1), weight = Matrix::random(setting.weight, N, K, K, 2);
    Matrix all(DType::kF32, T, N, N);
    Scratch scratch(T, K);
    ASSERT_TRUE(
        linear_cpu(x.view(), weight.view(), {}, setting.compute, all.view(), scratch.span(), *stream, setting.path)
            .ok());
    for (const std::int64_t count : {1, 3, 18, 33}) {
      const std::int64_t first = 5;
      Matrix y(DType::kF32, T, count, count);
      ASSERT_TRUE(linear_cpu(x.view(), weight.view().rows(first, first + count), {}, setting.compute, y.view(),
                             scratch.span(), *stream, setting.path)
                      .ok());
      for (std::int64_t t = 0; t < T; ++t) {
        for (std::int64_t n = 0; n < count; ++n) {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(y.get(t, n)), std::bit_cast<std::uint32_t>(all.get(t, first + n)));
        }
      }
    }
  }
}

TEST(LinearBits, GatedEqualsTwoLayersAndAGate) {
  const auto stream = device::Stream::create_cpu(2);
  for (const Setting& setting : all_settings()) {
    SCOPED_TRACE(setting.name());
    for (const std::int64_t T : {1, 6, 100}) {
      const std::int64_t N = 83, K = 200;
      Matrix x = Matrix::random(DType::kF32, T, K, K, 1);
      Matrix gate = Matrix::random(setting.weight, N, K, K, 2), up = Matrix::random(setting.weight, N, K, K + 2, 3);
      Scratch scratch(T, K);
      Matrix gate_sums(DType::kF32, T, N, N), up_sums(DType::kF32, T, N, N);
      const auto layer = [&](Matrix& weight, Matrix& y) {
        return linear_cpu(x.view(), weight.view(), {}, setting.compute, y.view(), scratch.span(), *stream,
                          setting.path);
      };
      ASSERT_TRUE(layer(gate, gate_sums).ok());
      ASSERT_TRUE(layer(up, up_sums).ok());
      for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
        Matrix expected(DType::kF32, T, N, N), y(DType::kF32, T, N, N + 3);
        ASSERT_TRUE(gate_cpu(gate_sums.view(), up_sums.view(), activation, expected.view(), *stream).ok());
        ASSERT_TRUE(linear_gated_cpu(x.view(), gate.view(), up.view(), activation, setting.compute, y.view(),
                                     scratch.span(), *stream, setting.path)
                        .ok());
        for (std::int64_t t = 0; t < T; ++t) ASSERT_TRUE(y.same_bits(t, expected, t)) << "T " << T << " t " << t;
        EXPECT_TRUE(y.guards_intact());
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels

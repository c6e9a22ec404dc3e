#include "kernels/softmax/softmax.h"

#include <cmath>
#include <limits>

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Softmax);
TANDEM_EACH_TARGET(Softcap);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> softmax(std::span<const float> x, std::int64_t width, int threads = 1) {
  const auto stream = device::Stream::create_cpu(threads);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  GuardedRows y(rows, width);
  EXPECT_TRUE(softmax_cpu(view_of(x, {rows, width}), y.view(), *stream).ok());
  EXPECT_TRUE(y.guards_intact());
  return y.dense();
}

std::vector<float> log_softmax(std::span<const float> x, std::int64_t width, int threads = 1) {
  const auto stream = device::Stream::create_cpu(threads);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  GuardedRows y(rows, width);
  EXPECT_TRUE(log_softmax_cpu(view_of(x, {rows, width}), y.view(), *stream).ok());
  EXPECT_TRUE(y.guards_intact());
  return y.dense();
}

std::vector<float> log_sum_exp(std::span<const float> x, std::int64_t width, int threads = 1) {
  const auto stream = device::Stream::create_cpu(threads);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  std::vector<float> lse(static_cast<std::size_t>(rows));
  EXPECT_TRUE(log_sum_exp_cpu(view_of(x, {rows, width}), view_of(lse, {rows}), *stream).ok());
  return lse;
}

TEST_P(Softmax, FamilyAgreesWithDoublePrecision) {
  constexpr std::int64_t kRows = 3;
  for (const std::int64_t width : {1, 2, 15, 16, 17, 31, 33, 1023, 1024, 1025, 5000, 131073}) {
    const std::vector<float> x = random_values(1, kRows * width, 12.0f);
    std::vector<double> probability(x.size()), log_probability(x.size()), lse(kRows);
    std::vector<float> plain(x.size()), log_plain(x.size()), lse_plain(kRows);
    for (std::int64_t t = 0; t < kRows; ++t) {
      const std::span<const float> row = std::span(x).subspan(static_cast<std::size_t>(t * width), width);
      lse[t] = log_sum_exp_reference<double>(row);
      lse_plain[t] = log_sum_exp_reference<float>(row);
      for (std::int64_t i = t * width; i < (t + 1) * width; ++i) {
        probability[i] = std::exp(x[i] - lse[t]);
        plain[i] = std::exp(x[i] - lse_plain[t]);
        log_probability[i] = x[i] - lse[t];
        log_plain[i] = x[i] - lse_plain[t];
      }
    }
    expect_as_good_as(softmax(x, width), plain, probability);
    expect_as_good_as(log_softmax(x, width), log_plain, log_probability);
    expect_as_good_as(log_sum_exp(x, width), lse_plain, lse);
  }
}

TEST_P(Softmax, OfEqualPowersOfTwoIsExact) {
  const std::vector<float> x(64, -3.5f);
  for (const float p : softmax(x, 64)) EXPECT_EQ(p, 1.0f / 64.0f);
}

TEST_P(Softmax, GivesMaskedEntriesExactlyZero) {
  const std::vector<float> x = {0.0f, -kInfinity, 0.0f, -1e30f, -kInfinity, -kInfinity, -kInfinity, -kInfinity};
  const std::vector<float> p = softmax(x, 4), log_p = log_softmax(x, 4), lse = log_sum_exp(x, 4);
  EXPECT_EQ(p, (std::vector<float>{0.5f, 0.0f, 0.5f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}));
  EXPECT_EQ(log_p[1], -kInfinity);
  EXPECT_EQ(log_p[4], -kInfinity);
  EXPECT_EQ(lse[1], -kInfinity);
}

TEST_P(Softmax, NaNFillsItsRowOnly) {
  for (const std::size_t place : {0u, 16u, 40u}) {
    std::vector<float> x = random_values(2, 123);
    x[41 + place] = std::nanf("");
    const std::vector<float> p = softmax(x, 41), log_p = log_softmax(x, 41), lse = log_sum_exp(x, 41);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(std::isnan(p[i]), i / 41 == 1);
      EXPECT_EQ(std::isnan(log_p[i]), i / 41 == 1);
      EXPECT_EQ(std::isnan(lse[i / 41]), i / 41 == 1);
    }
  }
}

TEST_P(Softmax, ARowDoesNotDependOnItsNeighboursOrTheThreads) {
  constexpr std::int64_t kRows = 21, kWidth = 1111;
  const std::vector<float> x = random_values(3, kRows * kWidth, 5.0f);
  const std::vector<float> p = softmax(x, kWidth), log_p = log_softmax(x, kWidth), lse = log_sum_exp(x, kWidth);
  EXPECT_TRUE(same_bits(softmax(x, kWidth, 2), p));
  EXPECT_TRUE(same_bits(log_softmax(x, kWidth, 2), log_p));
  EXPECT_TRUE(same_bits(log_sum_exp(x, kWidth, 2), lse));
  for (std::size_t t = 0; t < kRows; ++t) {
    const std::span<const float> row = std::span(x).subspan(t * kWidth, kWidth);
    ASSERT_TRUE(same_bits(softmax(row, kWidth), std::span(p).subspan(t * kWidth, kWidth)));
    ASSERT_TRUE(same_bits(log_softmax(row, kWidth), std::span(log_p).subspan(t * kWidth, kWidth)));
    ASSERT_TRUE(same_bits(log_sum_exp(row, kWidth), std::span(lse).subspan(t, 1)));
  }
}

TEST_P(Softmax, MayRunInPlace) {
  const auto stream = device::Stream::create_cpu(1);
  std::vector<float> x = random_values(4, 130);
  const std::vector<float> p = softmax(x, 65);
  ASSERT_TRUE(softmax_cpu(view_of(x, {2, 65}), view_of(x, {2, 65}), *stream).ok());
  EXPECT_TRUE(same_bits(x, p));
}

TEST_P(Softcap, AgreesWithDoublePrecision) {
  const auto stream = device::Stream::create_cpu(2);
  std::vector<float> x = random_values(5, 4000, 300.0f);
  for (float tiny = 1e-20f; tiny < 50.0f; tiny *= 1.3f) x.insert(x.end(), {tiny, -tiny});
  const std::int64_t width = static_cast<std::int64_t>(x.size());
  GuardedRows y(1, width);
  ASSERT_TRUE(softcap_cpu(view_of(x, {1, width}), 30.0f, y.view(), *stream).ok());
  EXPECT_TRUE(y.guards_intact());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = 30.0 * std::tanh(x[i] / 30.0);
    ASSERT_LE(std::fabs(y.row(0)[i] - expected), std::fabs(expected) * 4e-7) << x[i];
  }
}

TEST_P(Softmax, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> x(12);
  GuardedRows y(3, 4);
  EXPECT_EQ(softmax_cpu(view_of(x, {4, 3}), y.view(), *stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(log_softmax_cpu(view_of(x, {12}), y.view(), *stream).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(softmax_cpu(TensorView(x.data(), DType::kBf16, Shape{3, 4}), y.view(), *stream).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(log_sum_exp_cpu(view_of(x, {3, 4}), view_of(x, {4}), *stream).code(), StatusCode::kInvalidArgument);
  for (const float cap : {0.0f, -1.0f, kInfinity, std::nanf("")}) {
    EXPECT_EQ(softcap_cpu(view_of(x, {3, 4}), cap, y.view(), *stream).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(y.untouched());
}

}  // namespace
}  // namespace tandem::kernels

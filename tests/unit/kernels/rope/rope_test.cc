#include "kernels/rope/rope.h"

#include <cmath>

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Rope);

std::vector<float> frequencies(std::int64_t half) {
  std::vector<float> inv_freq(static_cast<std::size_t>(half));
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    inv_freq[i] = static_cast<float>(std::pow(500000.0, -static_cast<double>(i) / static_cast<double>(half)));
  }
  return inv_freq;
}

TEST(RopeTable, RoundsTheCosineOfTheF32Angle) {
  const std::vector<std::int32_t> positions = {0, 1, 7, 8191, 131071, 1 << 20};
  const std::vector<float> inv_freq = frequencies(24);
  const std::int64_t tokens = static_cast<std::int64_t>(positions.size());
  for (const int threads : {1, 2}) {
    const auto stream = device::Stream::create_cpu(threads);
    GuardedRows cos(tokens, 24), sin(tokens, 24);
    ASSERT_TRUE(
        rope_table_cpu(view_of(positions, {tokens}), view_of(inv_freq, {24}), 1.25f, cos.view(), sin.view(), *stream)
            .ok());
    EXPECT_TRUE(cos.guards_intact() && sin.guards_intact());
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t i = 0; i < 24; ++i) {
        const float angle = static_cast<float>(positions[t]) * inv_freq[i];
        EXPECT_LE(std::fabs(cos.row(t)[i] - 1.25 * std::cos(static_cast<double>(angle))), 0x1p-24);
        EXPECT_LE(std::fabs(sin.row(t)[i] - 1.25 * std::sin(static_cast<double>(angle))), 0x1p-24);
      }
    }
  }
}

TEST_P(Rope, TurnsHalfSplitPairsAndPassesTheRestThrough) {
  constexpr std::int64_t kTokens = 6, kHeads = 3;
  for (const std::int64_t width : {2, 8, 40, 64, 128}) {
    for (const std::int64_t half : {width / 2, width / 4}) {
      const auto stream = device::Stream::create_cpu(2);
      const std::vector<float> x = random_values(1, kTokens * kHeads * width);
      const std::vector<float> cos = random_values(2, kTokens * half), sin = random_values(3, kTokens * half);
      GuardedRows turned(kTokens, kHeads * width);
      turned.set(x);
      ASSERT_TRUE(
          rope_cpu(turned.heads_view(kHeads), view_of(cos, {kTokens, half}), view_of(sin, {kTokens, half}), *stream)
              .ok());
      EXPECT_TRUE(turned.guards_intact());
      std::vector<double> expected(x.begin(), x.end());
      for (std::int64_t row = 0; row < kTokens * kHeads; ++row) {
        for (std::int64_t i = 0; i < half; ++i) {
          const double c = cos[row / kHeads * half + i], s = sin[row / kHeads * half + i];
          const double a = x[row * width + i], b = x[row * width + half + i];
          expected[row * width + i] = a * c - b * s;
          expected[row * width + half + i] = b * c + a * s;
        }
      }
      EXPECT_LE(worst_error(turned.dense(), expected), 2e-7);
    }
  }
}

TEST_P(Rope, IsExactForQuarterTurnsAndTheSameAlone) {
  constexpr std::int64_t kTokens = 70, kWidth = 64, kHalf = 32;
  const auto stream = device::Stream::create_cpu(2), single = device::Stream::create_cpu(1);
  const std::vector<float> zeros(kTokens * kHalf, 0.0f), ones(kTokens * kHalf, 1.0f);
  const std::vector<float> x = random_values(4, kTokens * kWidth);
  std::vector<float> turned = x;
  ASSERT_TRUE(rope_cpu(view_of(turned, {kTokens, 1, kWidth}), view_of(zeros, {kTokens, kHalf}),
                       view_of(ones, {kTokens, kHalf}), *stream)
                  .ok());
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t i = 0; i < kHalf; ++i) {
      ASSERT_EQ(turned[t * kWidth + i], -x[t * kWidth + kHalf + i]);
      ASSERT_EQ(turned[t * kWidth + kHalf + i], x[t * kWidth + i]);
    }
  }
  const std::vector<float> cos = random_values(5, kTokens * kHalf), sin = random_values(6, kTokens * kHalf);
  std::vector<float> together = x, apart = x;
  ASSERT_TRUE(rope_cpu(view_of(together, {kTokens, 1, kWidth}), view_of(cos, {kTokens, kHalf}),
                       view_of(sin, {kTokens, kHalf}), *stream)
                  .ok());
  for (std::int64_t t = 0; t < kTokens; ++t) {
    ASSERT_TRUE(rope_cpu(view_of(std::span(apart).subspan(t * kWidth, kWidth), {1, 1, kWidth}),
                         view_of(std::span(cos).subspan(t * kHalf, kHalf), {1, kHalf}),
                         view_of(std::span(sin).subspan(t * kHalf, kHalf), {1, kHalf}), *single)
                    .ok());
  }
  EXPECT_TRUE(same_bits(together, apart));
}

TEST_P(Rope, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> table(64, 1.0f);
  std::vector<float> x = random_values(7, 64);
  const std::vector<float> before = x;
  const TensorView heads = view_of(x, {2, 2, 16});
  const auto code = [&](const TensorView& cos, const TensorView& sin) {
    return rope_cpu(heads, cos, sin, *stream).code();
  };
  EXPECT_EQ(code(view_of(table, {2, 9}), view_of(table, {2, 9})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(table, {3, 8}), view_of(table, {3, 8})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(table, {2, 8}), view_of(table, {2, 4})), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(table, {2, 8}), TensorView()), StatusCode::kInvalidArgument);
  EXPECT_TRUE(same_bits(x, before));
  const std::vector<std::int32_t> positions = {1, 2};
  EXPECT_EQ(rope_table_cpu(view_of(positions, {2}), view_of(table, {8}), 1.0f, view_of(x, {2, 8}), view_of(x, {2, 7}),
                           *stream)
                .code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::kernels

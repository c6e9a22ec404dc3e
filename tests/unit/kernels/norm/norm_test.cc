#include "kernels/norm/norm.h"

#include <cmath>

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(RmsNorm);

constexpr float kEps = 1e-5f;

std::vector<float> normalise(std::span<const float> x, std::int64_t width, const TensorView& weight, float offset,
                             int threads) {
  const auto stream = device::Stream::create_cpu(threads);
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / width;
  GuardedRows y(rows, width);
  EXPECT_TRUE(rms_norm_cpu(view_of(x, {rows, width}), weight, kEps, offset, y.view(), *stream).ok());
  EXPECT_TRUE(y.guards_intact());
  return y.dense();
}

TEST_P(RmsNorm, AgreesWithDoublePrecision) {
  for (const std::int64_t width : {1, 3, 15, 16, 17, 63, 64, 65, 127, 2048, 4099}) {
    const std::vector<float> x = random_values(1, 5 * width, 3.0f), weight = random_values(2, width);
    for (const float offset : {0.0f, 1.0f}) {
      expect_as_good_as(normalise(x, width, view_of(weight, {width}), offset, 1),
                        rms_norm_reference<float>(x, weight, kEps, offset),
                        rms_norm_reference<double>(x, weight, kEps, offset));
    }
  }
}

TEST_P(RmsNorm, WidensSixteenBitWeightsExactly) {
  constexpr std::int64_t kWidth = 83;
  const std::vector<float> x = random_values(3, 2 * kWidth);
  std::vector<float> weight = random_values(4, kWidth);
  for (float& w : weight) w = rounded_to_bf16(w);
  std::vector<std::uint16_t> bf16 = to_bf16(weight), f16(kWidth);
  const std::vector<float> expected = normalise(x, kWidth, view_of(weight, {kWidth}), 1.0f, 1);
  const TensorView bf16_view(bf16.data(), DType::kBf16, Shape{kWidth});
  EXPECT_TRUE(same_bits(normalise(x, kWidth, bf16_view, 1.0f, 1), expected));
  for (std::size_t i = 0; i < f16.size(); ++i) {
    f16[i] = tensor::f16_from_f32(weight[i]);
    weight[i] = tensor::f32_from_f16(f16[i]);
  }
  EXPECT_TRUE(same_bits(normalise(x, kWidth, TensorView(f16.data(), DType::kF16, Shape{kWidth}), 0.0f, 1),
                        normalise(x, kWidth, view_of(weight, {kWidth}), 0.0f, 1)));
}

TEST_P(RmsNorm, ARowDoesNotDependOnItsNeighboursOrTheThreads) {
  constexpr std::int64_t kRows = 37, kWidth = 1025;
  const std::vector<float> x = random_values(5, kRows * kWidth), weight = random_values(6, kWidth);
  const std::vector<float> one = normalise(x, kWidth, view_of(weight, {kWidth}), 0.0f, 1);
  EXPECT_TRUE(same_bits(normalise(x, kWidth, view_of(weight, {kWidth}), 0.0f, 2), one));
  for (std::int64_t t = 0; t < kRows; ++t) {
    const std::span<const float> row(&x[static_cast<std::size_t>(t * kWidth)], kWidth);
    const std::span<const float> batched(&one[static_cast<std::size_t>(t * kWidth)], kWidth);
    ASSERT_TRUE(same_bits(normalise(row, kWidth, view_of(weight, {kWidth}), 0.0f, 1), batched)) << t;
  }
}

TEST_P(RmsNorm, NormalisesEachHeadInPlaceInsideAFusedRow) {
  constexpr std::int64_t kTokens = 5, kHeads = 3, kD = 40;
  const auto stream = device::Stream::create_cpu(2);
  const std::vector<float> x = random_values(7, kTokens * kHeads * kD), weight = random_values(8, kD);
  GuardedRows fused(kTokens, kHeads * kD);
  fused.set(x);
  const TensorView heads = fused.heads_view(kHeads);
  ASSERT_TRUE(rms_norm_cpu(heads, view_of(weight, {kD}), kEps, 0.0f, heads, *stream).ok());
  EXPECT_TRUE(fused.guards_intact());
  EXPECT_TRUE(same_bits(fused.dense(), normalise(x, kD, view_of(weight, {kD}), 0.0f, 1)));
}

TEST_P(RmsNorm, OfZerosIsZeroAndNaNStaysInItsRow) {
  const std::vector<float> weight(16, 1.0f);
  std::vector<float> x(48, 0.0f);
  x[20] = std::nanf("");
  const std::vector<float> y = normalise(x, 16, view_of(weight, {16}), 0.0f, 1);
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 16 == 1) << i;
  EXPECT_EQ(y[0], 0.0f);
}

TEST_P(RmsNorm, TakesNoRowsAndRefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<float> x(32), weight(16);
  const TensorView none(static_cast<void*>(nullptr), DType::kF32, Shape{0, 16});
  EXPECT_TRUE(rms_norm_cpu(none, view_of(weight, {16}), kEps, 0.0f, none, *stream).ok());
  GuardedRows y(2, 16);
  const auto code = [&](const TensorView& from, const TensorView& w, const TensorView& to) {
    return rms_norm_cpu(from, w, kEps, 0.0f, to, *stream).code();
  };
  EXPECT_EQ(code(view_of(x, {2, 16}), view_of(weight, {8}), y.view()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(x, {4, 8}), view_of(weight, {16}), y.view()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(x, {32}), view_of(weight, {16}), y.view()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(TensorView(), view_of(weight, {16}), y.view()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(x, {2, 16}), TensorView(x.data(), DType::kI32, Shape{16}), y.view()),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(y.untouched());
}

}  // namespace
}  // namespace tandem::kernels

#include <cmath>

#include "kernels/norm/norm.h"
#include "unit/kernels/each_target.h"
#include "unit/kernels/gradients.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(RmsNormBackward);

constexpr float kEps = 1e-5f;

struct Case {
  std::int64_t rows, width;
  float offset;
  std::vector<float> x, weight, dy, dx_before, dweight_before;

  Case(std::int64_t rows_count, std::int64_t row_width, float weight_offset)
      : rows(rows_count),
        width(row_width),
        offset(weight_offset),
        x(random_values(1, rows * width, 2.0f)),
        weight(random_values(2, width)),
        dy(random_values(3, rows * width)),
        dx_before(random_values(4, rows * width)),
        dweight_before(random_values(5, width)) {}

  template <class Real>
  std::pair<std::vector<Real>, std::vector<Real>> reference() const {
    auto dx = as_real<Real>(dx_before), dweight = as_real<Real>(dweight_before);
    norm_rows_backward<Real>(as_real<Real>(x), as_real<Real>(weight), kEps, offset, as_real<Real>(dy), dx, dweight);
    return {dx, dweight};
  }
};

struct Gradients {
  std::vector<float> dx, dweight;
};

Gradients run(const Case& c, int threads) {
  const auto stream = device::Stream::create_cpu(threads);
  GuardedRows dx(c.rows, c.width), dweight(1, c.width);
  dx.set(c.dx_before);
  dweight.set(c.dweight_before);
  std::vector<std::byte> scratch(rms_norm_backward_scratch_bytes(c.rows, c.width));
  const Shape shape{c.rows, c.width};
  EXPECT_TRUE(rms_norm_backward_cpu(view_of(c.x, shape), view_of(c.weight, {c.width}), kEps, c.offset,
                                    view_of(c.dy, shape), dx.view(), dweight.view().reshape({c.width}), scratch,
                                    *stream)
                  .ok());
  EXPECT_TRUE(dx.guards_intact() && dweight.guards_intact());
  return {dx.dense(), dweight.dense()};
}

TEST(RmsNormBackwardReference, IsTheDerivative) {
  const Case c(3, 5, 1.0f);
  auto dx = std::vector<double>(c.x.size()), dweight = std::vector<double>(c.weight.size());
  const auto x = widened(c.x), weight = widened(c.weight), dy = widened(c.dy);
  norm_rows_backward<double>(x, weight, kEps, 1.0, dy, dx, dweight);
  expect_derivative(
      [&](std::span<const double> at) { return dot<double>(norm_rows<double>(at, weight, kEps, 1.0), dy); }, x, dx);
  expect_derivative([&](std::span<const double> at) { return dot<double>(norm_rows<double>(x, at, kEps, 1.0), dy); },
                    weight, dweight);
}

TEST_P(RmsNormBackward, AddsWhatDoublePrecisionDoes) {
  for (const std::int64_t width : {1, 3, 15, 16, 17, 63, 65, 127, 515, 2048}) {
    for (const std::int64_t rows : {1, 5, 33, 67}) {
      const Case c(rows, width, width % 2 == 0 ? 0.0f : 1.0f);
      const Gradients got = run(c, 1);
      const auto [dx_plain, dweight_plain] = c.reference<float>();
      const auto [dx, dweight] = c.reference<double>();
      expect_as_good_as(got.dx, dx_plain, dx);
      expect_as_good_as(got.dweight, dweight_plain, dweight);
    }
  }
}

TEST_P(RmsNormBackward, GivesTheSameBitsTwiceAndOnAnyThreads) {
  const Case c(4200, 33, 0.0f);
  const Gradients one = run(c, 1), again = run(c, 1), two = run(c, 2);
  EXPECT_TRUE(same_bits(one.dx, again.dx) && same_bits(one.dweight, again.dweight));
  EXPECT_TRUE(same_bits(one.dx, two.dx) && same_bits(one.dweight, two.dweight));
}

TEST_P(RmsNormBackward, TakesHeadsInsideAFusedRowAndOnlyWhatIsWanted) {
  constexpr std::int64_t kTokens = 7, kHeads = 3, kD = 20;
  const Case c(kTokens * kHeads, kD, 0.0f);
  const Gradients expected = run(c, 1);
  const auto stream = device::Stream::create_cpu(2);
  GuardedRows x(kTokens, kHeads * kD), dy(kTokens, kHeads * kD), dx(kTokens, kHeads * kD);
  x.set(c.x);
  dy.set(c.dy);
  dx.set(c.dx_before);
  const TensorView weight = view_of(c.weight, {kD});
  ASSERT_TRUE(rms_norm_backward_cpu(x.heads_view(kHeads), weight, kEps, 0.0f, dy.heads_view(kHeads),
                                    dx.heads_view(kHeads), TensorView(), {}, *stream)
                  .ok());
  EXPECT_TRUE(dx.guards_intact());
  EXPECT_TRUE(same_bits(dx.dense(), expected.dx));
  std::vector<float> dweight = c.dweight_before;
  std::vector<std::byte> scratch(rms_norm_backward_scratch_bytes(c.rows, kD));
  ASSERT_TRUE(rms_norm_backward_cpu(x.heads_view(kHeads), weight, kEps, 0.0f, dy.heads_view(kHeads), TensorView(),
                                    view_of(dweight, {kD}), scratch, *stream)
                  .ok());
  EXPECT_TRUE(same_bits(dweight, expected.dweight));
}

TEST_P(RmsNormBackward, ANaNInARowReachesThatRowOnly) {
  Case c(3, 16, 0.0f);
  c.x[20] = std::nanf("");
  const Gradients got = run(c, 1);
  for (std::size_t i = 0; i < got.dx.size(); ++i) EXPECT_EQ(std::isnan(got.dx[i]), i / 16 == 1) << i;
  EXPECT_TRUE(std::isnan(got.dweight[0]));
}

TEST_P(RmsNormBackward, RefusesWhatDoesNotFit) {
  const Case c(2, 16, 0.0f);
  const auto stream = device::Stream::create_cpu(1);
  GuardedRows dx(2, 16), dweight(1, 16);
  std::vector<std::byte> scratch(rms_norm_backward_scratch_bytes(2, 16));
  const auto code = [&](const Shape& shape, std::int64_t dweight_width, std::size_t bytes) {
    return rms_norm_backward_cpu(view_of(c.x, {2, 16}), view_of(c.weight, {16}), kEps, 0.0f, view_of(c.dy, shape),
                                 dx.view(), TensorView(dweight.row(0), DType::kF32, Shape{dweight_width}),
                                 std::span(scratch).first(bytes), *stream)
        .code();
  };
  EXPECT_EQ(code({4, 8}, 16, scratch.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({2, 16}, 8, scratch.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({2, 16}, 16, scratch.size() - 1), StatusCode::kInvalidArgument);
  EXPECT_TRUE(dx.untouched() && dweight.untouched());
}

}  // namespace
}  // namespace tandem::kernels

#include "kernels/rope/qk_norm_rope.h"

#include <cmath>

#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "unit/kernels/each_target.h"
#include "unit/kernels/gradients.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(QkNormRopeKernel);

constexpr float kEps = 1e-6f;

// `weights` elements are normalised at once: 0 (no norm), D or H*D.
struct Case {
  std::int64_t T, H, D, half, weights;
  float offset = 0.5f;
  std::vector<float> x, weight, cos, sin, dy, dx_before, dweight_before;

  Case(std::int64_t tokens, std::int64_t heads, std::int64_t d, std::int64_t pairs, std::int64_t weights_count)
      : T(tokens),
        H(heads),
        D(d),
        half(pairs),
        weights(weights_count),
        x(random_values(1, T * H * D, 2.0f)),
        weight(random_values(2, weights)),
        dy(random_values(4, T * H * D)),
        dx_before(random_values(5, T * H * D)),
        dweight_before(random_values(6, weights)) {
    for (const float angle : random_values(3, T * half, 30.0f)) {
      cos.push_back(1.25f * std::cos(angle));
      sin.push_back(1.25f * std::sin(angle));
    }
  }

  QkNormRope params() const {
    return {weights > 0 ? view_of(weight, {weights}) : TensorView(), kEps, offset, view_of(cos, {T, half}),
            view_of(sin, {T, half})};
  }
  template <class Real>
  std::vector<Real> forward(std::span<const Real> at, std::span<const Real> gain) const {
    std::vector<Real> y =
        weights > 0 ? norm_rows<Real>(at, gain, kEps, offset) : std::vector<Real>(at.begin(), at.end());
    turn_rows<Real>(y, as_real<Real>(cos), as_real<Real>(sin), static_cast<std::size_t>(H),
                    static_cast<std::size_t>(D));
    return y;
  }
  // Added to dx and dweight.
  template <class Real>
  void backward(std::span<Real> dx, std::span<Real> dweight) const {
    auto back = as_real<Real>(dy);
    turn_rows<Real>(back, as_real<Real>(cos), as_real<Real>(sin), static_cast<std::size_t>(H),
                    static_cast<std::size_t>(D), -1);
    if (weights > 0) {
      norm_rows_backward<Real>(as_real<Real>(x), as_real<Real>(weight), kEps, offset, back, dx, dweight);
    } else {
      for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += back[i];
    }
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t D : {2, 10, 32, 40, 128}) {
    for (const std::int64_t half : {D / 2, D / 4}) {
      for (const std::int64_t weights : {std::int64_t{0}, D, 3 * D}) all.emplace_back(7, 3, D, half, weights);
    }
  }
  return all;
}

struct Gradients {
  std::vector<float> dx, dweight;
};
Gradients run_backward(const Case& c, int threads) {
  const auto stream = device::Stream::create_cpu(threads);
  GuardedRows x(c.T, c.H * c.D), dy(c.T, c.H * c.D), dx(c.T, c.H * c.D);
  x.set(c.x);
  dy.set(c.dy);
  dx.set(c.dx_before);
  std::vector<float> dweight = c.dweight_before;
  std::vector<std::byte> scratch(qk_norm_rope_backward_scratch_bytes(c.T, c.H, c.D));
  EXPECT_TRUE(qk_norm_rope_backward_cpu(x.heads_view(c.H), c.params(), dy.heads_view(c.H), dx.heads_view(c.H),
                                        c.weights > 0 ? view_of(dweight, {c.weights}) : TensorView(), scratch, *stream)
                  .ok());
  EXPECT_TRUE(x.guards_intact() && dy.guards_intact() && dx.guards_intact());
  return {dx.dense(), dweight};
}

TEST(QkNormRopeReference, IsTheDerivative) {
  for (const std::int64_t weights : {0, 6, 12}) {
    const Case c(2, 2, 6, 2, weights);
    const auto x = widened(c.x), weight = widened(c.weight), dy = widened(c.dy);
    std::vector<double> dx(x.size()), dweight(weight.size());
    c.backward<double>(dx, dweight);
    expect_derivative([&](std::span<const double> at) { return dot<double>(c.forward<double>(at, weight), dy); }, x,
                      dx);
    expect_derivative([&](std::span<const double> at) { return dot<double>(c.forward<double>(x, at), dy); }, weight,
                      dweight);
  }
}

TEST_P(QkNormRopeKernel, HasTheBitsOfTheNormAndThenTheRotation) {
  for (const Case& c : cases()) {
    for (const int threads : {1, 2}) {
      const auto stream = device::Stream::create_cpu(threads);
      std::vector<float> expected = c.x;
      if (c.weights > 0) {
        const std::int64_t rows = c.T * c.H * c.D / c.weights;
        const TensorView all = view_of(expected, {rows, c.weights});
        ASSERT_TRUE(rms_norm_cpu(all, view_of(c.weight, {c.weights}), kEps, c.offset, all, *stream).ok());
      }
      const QkNormRope params = c.params();
      ASSERT_TRUE(rope_cpu(view_of(expected, {c.T, c.H, c.D}), params.cos, params.sin, *stream).ok());

      GuardedRows x(c.T, c.H * c.D), y(c.T, c.H * c.D, c.H * c.D + 5);
      x.set(c.x);
      ASSERT_TRUE(qk_norm_rope_cpu(x.heads_view(c.H), params, y.heads_view(c.H), *stream).ok());
      EXPECT_TRUE(y.guards_intact());
      EXPECT_TRUE(same_bits(y.dense(), expected));
      EXPECT_TRUE(same_bits(x.dense(), c.x));
      ASSERT_TRUE(qk_norm_rope_cpu(x.heads_view(c.H), params, x.heads_view(c.H), *stream).ok());
      EXPECT_TRUE(x.guards_intact());
      EXPECT_TRUE(same_bits(x.dense(), expected));
    }
  }
}

TEST_P(QkNormRopeKernel, BackwardAddsWhatDoublePrecisionDoes) {
  for (const Case& c : cases()) {
    auto dx = widened(c.dx_before), dweight = widened(c.dweight_before);
    std::vector<float> dx_plain = c.dx_before, dweight_plain = c.dweight_before;
    c.backward<double>(dx, dweight);
    c.backward<float>(dx_plain, dweight_plain);
    const Gradients got = run_backward(c, 1);
    expect_as_good_as(got.dx, dx_plain, dx);
    expect_as_good_as(got.dweight, dweight_plain, dweight);
  }
}

TEST_P(QkNormRopeKernel, BackwardGivesTheSameBitsTwiceAndOnAnyThreads) {
  for (const std::int64_t weights : {40, 120}) {
    const Case c(700, 3, 40, 20, weights);
    const Gradients one = run_backward(c, 1), again = run_backward(c, 1), two = run_backward(c, 2);
    EXPECT_TRUE(same_bits(one.dx, again.dx) && same_bits(one.dweight, again.dweight));
    EXPECT_TRUE(same_bits(one.dx, two.dx) && same_bits(one.dweight, two.dweight));
  }
}

TEST_P(QkNormRopeKernel, BackwardInPlaceOnlyTurnsBack) {
  const Case c(5, 2, 20, 10, 0);
  Case turned = c;
  turned.dx_before.assign(c.x.size(), 0.0f);
  const Gradients expected = run_backward(turned, 1);
  const auto stream = device::Stream::create_cpu(1);
  std::vector<float> dy = c.dy;
  const Shape shape{c.T, c.H, c.D};
  ASSERT_TRUE(qk_norm_rope_backward_cpu(view_of(c.x, shape), c.params(), view_of(dy, shape), TensorView(), TensorView(),
                                        {}, *stream)
                  .ok());
  EXPECT_TRUE(same_bits(dy, expected.dx));
}

TEST_P(QkNormRopeKernel, RefusesWhatDoesNotFit) {
  const Case c(2, 3, 16, 8, 48);
  const auto stream = device::Stream::create_cpu(1);
  GuardedRows y(2, 48);
  const TensorView x = view_of(c.x, {2, 3, 16});
  const auto code = [&](const TensorView& from, auto change) {
    QkNormRope params = c.params();
    change(params);
    return qk_norm_rope_cpu(from, params, y.heads_view(3), *stream).code();
  };
  const auto none = [](QkNormRope&) {};
  EXPECT_EQ(code(x, [&](QkNormRope& p) { p.weight = TensorView(c.x.data(), DType::kF32, Shape{24}); }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, [&](QkNormRope& p) { p.cos = p.sin = view_of(c.x, {2, 9}); }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, [](QkNormRope& p) { p.sin = TensorView(); }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(view_of(c.x, {2, 48}), none), StatusCode::kInvalidArgument);
  // Whole rows are normalised only where heads lie together.
  const std::int64_t strides[] = {48, 18, 1};
  const TensorView apart(const_cast<float*>(c.x.data()), DType::kF32, Shape{1, 3, 12}, strides);
  QkNormRope narrow{TensorView(c.weight.data(), DType::kF32, Shape{36}), kEps, 0.0f, view_of(c.cos, {1, 6}),
                    view_of(c.sin, {1, 6})};
  EXPECT_EQ(qk_norm_rope_cpu(apart, narrow, apart, *stream).code(), StatusCode::kInvalidArgument);
  // No scratch for the weight's sums.
  std::vector<float> dweight(48);
  EXPECT_EQ(qk_norm_rope_backward_cpu(x, c.params(), y.heads_view(3), TensorView(), view_of(dweight, {48}), {}, *stream)
                .code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(y.untouched());
}

}  // namespace
}  // namespace tandem::kernels

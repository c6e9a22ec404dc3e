#include "kernels/linear/linear_backward.h"

#include <cmath>

#include "unit/kernels/linear/linear_backward_case.h"

namespace tandem::kernels {
namespace {

using namespace testing;

using Case = LinearBackwardCase;
using Got = Case::Gradients<float>;

Got run(const Case& c, Compute compute, int threads) {
  const auto stream = device::Stream::create_cpu(threads);
  GuardedRows x(c.T, c.K), dy(c.T, c.N), dx(c.T, c.K), dweight(c.N, c.K), dbias(1, c.N);
  x.set(c.x);
  dy.set(c.dy);
  dx.set(c.dx_before);
  dweight.set(c.dweight_before);
  dbias.set(c.dbias_before);
  std::vector<std::byte> scratch(linear_backward_scratch_bytes(c.T, c.K, c.N) + 64);
  const std::size_t skip = (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64;
  EXPECT_TRUE(linear_backward_cpu(x.view(), c.weight_view(), c.alpha, dy.view(),
                                  {dx.view(), dweight.view(), dbias.view().reshape({c.N})}, compute,
                                  std::span(scratch).subspan(skip), *stream)
                  .ok());
  EXPECT_TRUE(dx.guards_intact() && dweight.guards_intact() && dbias.guards_intact());
  return {dx.dense(), dweight.dense(), dbias.dense()};
}

TEST(LinearBackward, TheReferenceIsTheDerivative) {
  const Case c(3, 4, 5, 0.75f);
  const auto x = widened(c.x), weight = widened(c.weight);
  auto [dx, dweight, dbias] = c.reference<double>();
  for (std::size_t i = 0; i < dx.size(); ++i) dx[i] -= static_cast<double>(c.dx_before[i]);
  for (std::size_t i = 0; i < dweight.size(); ++i) dweight[i] -= static_cast<double>(c.dweight_before[i]);
  for (std::size_t i = 0; i < dbias.size(); ++i) dbias[i] -= static_cast<double>(c.dbias_before[i]);
  const auto loss = [&](std::span<const double> at_x, std::span<const double> at_w, std::span<const double> at_b) {
    double sum = 0.0;
    for (std::size_t t = 0; t < 3; ++t) {
      for (std::size_t n = 0; n < 5; ++n) {
        sum += static_cast<double>(c.dy[t * 5 + n]) * 0.75 *
               (dot<double>(at_x.subspan(t * 4, 4), at_w.subspan(n * 4, 4)) + at_b[n]);
      }
    }
    return sum;
  };
  const std::vector<double> bias(5, 0.3);
  expect_derivative([&](std::span<const double> at) { return loss(at, weight, bias); }, x, dx);
  expect_derivative([&](std::span<const double> at) { return loss(x, at, bias); }, weight, dweight);
  expect_derivative([&](std::span<const double> at) { return loss(x, weight, at); }, bias, dbias);
}

TEST(LinearBackward, AddsWhatDoublePrecisionDoes) {
  const Case cases[] = {{1, 1, 1, 1.0f},
                        {5, 3, 7, 0.5f},
                        {33, 65, 31, -1.25f},
                        {130, 40, 72, 1.0f, DType::kBf16},
                        {3, 1030, 5, 1.0f, DType::kF16},    // two strips of K
                        {3, 5, 1030, 1.0f, DType::kBf16}};  // two strips of N
  for (const Case& c : cases) {
    const Got got = run(c, Compute::kF32, 1);
    const auto plain = c.reference<float>();
    const auto exact = c.reference<double>();
    expect_as_good_as(got.dx, plain.dx, exact.dx);
    expect_as_good_as(got.dweight, plain.dweight, exact.dweight);
    expect_as_good_as(got.dbias, plain.dbias, exact.dbias);
  }
}

TEST(LinearBackward, InBf16TheProductsAreThoseOfRoundedFactors) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    const Case c(40, 72, 48, 0.5f, dtype);
    const Got got = run(c, Compute::kBf16, 1);
    const auto plain = c.reference<float>(true);
    const auto exact = c.reference<double>(true);
    expect_as_good_as(got.dx, plain.dx, exact.dx);
    expect_as_good_as(got.dweight, plain.dweight, exact.dweight);
    expect_as_good_as(got.dbias, plain.dbias, exact.dbias);
  }
}

TEST(LinearBackward, OfWholeNumbersIsExact) {
  Case c(50, 70, 90, 2.0f);
  c.x = random_integers(1, 50 * 70, 3);
  c.weight = random_integers(2, 90 * 70, 3);
  c.dy = random_integers(3, 50 * 90, 3);
  c.dx_before = random_integers(4, 50 * 70, 3);
  c.dweight_before = random_integers(5, 90 * 70, 3);
  c.dbias_before = random_integers(6, 90, 3);
  const auto expected = c.reference<float>();
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const Got got = run(c, compute, 2);
    EXPECT_TRUE(same_bits(got.dx, expected.dx));
    EXPECT_TRUE(same_bits(got.dweight, expected.dweight));
    EXPECT_TRUE(same_bits(got.dbias, expected.dbias));
  }
}

TEST(LinearBackward, GivesTheSameBitsTwiceAndOnAnyThreads) {
  const Case c(150, 131, 260, 0.7f, DType::kBf16);
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const Got one = run(c, compute, 1), again = run(c, compute, 1), two = run(c, compute, 2);
    for (const Got* other : {&again, &two}) {
      EXPECT_TRUE(same_bits(one.dx, other->dx) && same_bits(one.dweight, other->dweight) &&
                  same_bits(one.dbias, other->dbias));
    }
  }
}

TEST(LinearBackward, ComputesOnlyWhatIsWantedAndTakesNoTokens) {
  const Case c(9, 20, 30, 1.0f);
  const Got all = run(c, Compute::kF32, 1);
  const auto stream = device::Stream::create_cpu(1);
  std::vector<std::byte> scratch(linear_backward_scratch_bytes(9, 20, 30));
  std::vector<float> dx = c.dx_before, dweight = c.dweight_before;
  const TensorView dy = view_of(c.dy, {9, 30});
  ASSERT_TRUE(linear_backward_cpu(TensorView(), c.weight_view(), 1.0f, dy, {.dx = view_of(dx, {9, 20})}, Compute::kF32,
                                  scratch, *stream)
                  .ok());
  EXPECT_TRUE(same_bits(dx, all.dx));
  const TensorView none(static_cast<void*>(nullptr), DType::kF32, Shape{0, 30});
  const TensorView no_x(static_cast<void*>(nullptr), DType::kF32, Shape{0, 20});
  ASSERT_TRUE(linear_backward_cpu(no_x, c.weight_view(), 1.0f, none, {.dweight = view_of(dweight, {30, 20})},
                                  Compute::kF32, scratch, *stream)
                  .ok());
  EXPECT_TRUE(same_bits(dweight, c.dweight_before));
}

TEST(LinearBackward, RefusesWhatDoesNotFit) {
  const Case c(4, 6, 8, 1.0f);
  const auto stream = device::Stream::create_cpu(1);
  std::vector<std::byte> scratch(linear_backward_scratch_bytes(4, 6, 8));
  GuardedRows dx(4, 6), dweight(8, 6);
  const auto code = [&](const TensorView& x, const TensorView& dy, const TensorView& to, std::size_t bytes) {
    return linear_backward_cpu(x, c.weight_view(), 1.0f, dy, {.dx = dx.view(), .dweight = to}, Compute::kF32,
                               std::span(scratch).first(bytes), *stream)
        .code();
  };
  const TensorView x = view_of(c.x, {4, 6}), dy = view_of(c.dy, {4, 8});
  EXPECT_EQ(code(TensorView(), dy, dweight.view(), scratch.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, view_of(c.dy, {8, 4}), dweight.view(), scratch.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, dy, dweight.view().rows(0, 7), scratch.size()), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(x, dy, dweight.view(), scratch.size() - 1), StatusCode::kInvalidArgument);
  EXPECT_TRUE(dx.untouched() && dweight.untouched());
}

}  // namespace
}  // namespace tandem::kernels

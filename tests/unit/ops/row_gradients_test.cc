// Backwards of look-ups, gates and caps through a tape, on the CPU and on CUDA.
#include <gtest/gtest.h>

#include "ops/ops.h"
#include "unit/kernels/gradients.h"
#include "unit/ops/gradients_fixture.h"

namespace tandem::ops {
namespace {

using kernels::Activation;
using kernels::testing::as_real;
using kernels::testing::expect_as_good_as;
using kernels::testing::expect_derivative;
using kernels::testing::random_integers;
using kernels::testing::random_values;
using kernels::testing::same_bits;
using tensor::DType;
using tensor::Shape;

class RowGradients : public testing::Gradients {};
INSTANTIATE_TEST_SUITE_P(Cpu, RowGradients, ::testing::Values(testing::kCpuDevice));
INSTANTIATE_TEST_SUITE_P(Cuda, RowGradients, ::testing::Values(testing::kCudaDevice));

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf};

template <class Real>
struct Slope {
  Real value, slope;
};
template <class Real>
Slope<Real> slope_of(Activation activation, Real x) {
  if (activation == Activation::kGeluErf) {
    const Real share = std::erfc(-x * static_cast<Real>(M_SQRT1_2)) / 2;
    return {x * share, share + x * std::exp(-x * x / 2) * static_cast<Real>(0.3989422804014327)};
  }
  Real u = x, du = 1;
  if (activation == Activation::kGeluTanh) {
    const Real factor = static_cast<Real>(2 * std::sqrt(2 / M_PI)), cubic = static_cast<Real>(0.044715);
    u = factor * (x + cubic * x * x * x);
    du = factor * (1 + 3 * cubic * x * x);
  }
  const Real s = 1 / (1 + std::exp(-u));
  return {x * s, s + x * s * (1 - s) * du};
}

TEST(GateReference, IsTheDerivative) {
  for (const Activation activation : kActivations) {
    for (double x = -6.0; x < 6.0; x += 0.37) {
      const double slope[] = {slope_of(activation, x).slope};
      expect_derivative([&](std::span<const double> at) { return slope_of(activation, at[0]).value; }, {x}, slope);
    }
  }
}

TEST_P(RowGradients, OfAnEmbeddingThatNamesRowsTwice) {
  constexpr std::int64_t kV = 7, kC = 70;
  std::vector<std::int32_t> ids;
  for (int t = 0; t < 600; ++t) ids.push_back(t < 300 ? 3 : t * 5 % 6);  // never 6
  const auto T = static_cast<std::int64_t>(ids.size());
  const std::vector<float> table = random_integers(1, kV * kC, 9), dy = random_integers(2, T * kC, 9);
  const TensorView rows = put(table, {kV, kC});
  ASSERT_TRUE(tape_->watch(rows).ok());
  const TensorView y = embedding(context(), put_ids(ids), rows, 0.5f, &*tape_).value();
  const auto got = backward(y, dy, {rows})[0];
  std::vector<float> expected(table.size(), 0.0f);
  for (std::size_t i = 0; i < dy.size(); ++i)
    expected[static_cast<std::size_t>(ids[i / kC]) * kC + i % kC] += 0.5f * dy[i];
  EXPECT_TRUE(same_bits(got, expected)) << "sums of halves are exact";
}

TEST_P(RowGradients, OfRowsTakenFromWhatAnOpMade) {
  const std::vector<float> a = random_integers(1, 12, 9), dy = random_integers(2, 12, 9);
  const std::vector<std::int32_t> rows = {2, 0, 2};
  const TensorView x = put(a, {3, 4});
  ASSERT_TRUE(tape_->watch(x).ok());
  const TensorView made = add_scaled(context(), x, x, 1.0f, &*tape_).value();
  const TensorView y = gather_rows(context(), made, put_ids(rows), &*tape_).value();
  const auto got = backward(y, dy, {x})[0];
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(got[i], 2.0f * dy[4 + i]);
    EXPECT_EQ(got[4 + i], 0.0f);
    EXPECT_EQ(got[8 + i], 2.0f * (dy[i] + dy[8 + i]));
  }
}

TEST_P(RowGradients, OfAGate) {
  constexpr std::int64_t kT = 3, kF = 301;
  for (const Activation activation : kActivations) {
    std::vector<float> g = random_values(1, kT * kF, 6.0f);
    const std::vector<float> u = random_values(2, kT * kF, 2.0f), dy = random_values(3, kT * kF);
    g[0] = 40.0f, g[1] = -40.0f, g[2] = 3e4f, g[3] = -3e4f, g[4] = 0.0f;
    const TensorView gate_in = put(g, {kT, kF}), up = put(u, {kT, kF});
    Tape tape(place_->stream(), gradients_);
    ASSERT_TRUE(tape.watch(gate_in).ok() && tape.watch(up).ok());
    const TensorView y = gate(context(), gate_in, up, activation, &tape).value();
    place_->set(*tape.grad(y), dy);
    ASSERT_TRUE(tape.backward().ok());
    const auto expected = [&]<class Real>(Real) {
      std::vector<std::vector<Real>> sums(2);
      for (std::size_t i = 0; i < g.size(); ++i) {
        const Slope<Real> slope = slope_of<Real>(activation, static_cast<Real>(g[i]));
        sums[0].push_back(static_cast<Real>(dy[i]) * static_cast<Real>(u[i]) * slope.slope);
        sums[1].push_back(static_cast<Real>(dy[i]) * slope.value);
      }
      return sums;
    };
    auto got_gate = values_of(*tape.grad(gate_in)), got_up = values_of(*tape.grad(up));
    auto plain = expected(0.0f);
    auto exact = expected(0.0);
    for (std::size_t i = 0; i < 5; ++i) {  // beyond where the formula bends, one by one
      EXPECT_NEAR(got_gate[i], exact[0][i], 1e-6 * (1 + std::fabs(exact[0][i])));
      EXPECT_NEAR(got_up[i], exact[1][i], 1e-6 * (1 + std::fabs(exact[1][i])));
      got_gate[i] = got_up[i] = plain[0][i] = plain[1][i] = 0.0f;
      exact[0][i] = exact[1][i] = 0.0;
    }
    expect_as_good_as(got_gate, plain[0], exact[0]);
    expect_as_good_as(got_up, plain[1], exact[1]);
  }
}

TEST_P(RowGradients, OfACap) {
  constexpr float kCap = 3.0f;
  const std::vector<float> a = random_values(1, 2 * 99, 8.0f), dy = random_values(2, 2 * 99);
  const TensorView x = put(a, {2, 99});
  ASSERT_TRUE(tape_->watch(x).ok());
  const TensorView y = softcap(context(), x, kCap, &*tape_).value();
  EXPECT_TRUE(same_bits(values_of(x), a)) << "with a tape the input stays";
  const auto got = backward(y, dy, {x})[0];
  const auto expected = [&]<class Real>(Real) {
    std::vector<Real> sums;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const Real bent = std::tanh(static_cast<Real>(a[i]) / kCap);
      sums.push_back(static_cast<Real>(dy[i]) * (1 - bent * bent));
    }
    return sums;
  };
  expect_as_good_as(got, expected(0.0f), expected(0.0));
}

TEST_P(RowGradients, OfAGatedLayerAndItsBitsAreThoseWithoutATape) {
  constexpr std::size_t kT = 70, kC = 40, kF = 72;
  const std::vector<float> a = random_values(1, kT * kC), n = random_values(2, kC), g = random_values(3, kF * kC),
                           u = random_values(4, kF * kC), dy = random_values(5, kT * kF);
  const TensorView x = put(a, {kT, kC}), norm = put(n, {kC}), gate_weight = put(g, {kF, kC}), up = put(u, {kF, kC});
  for (const TensorView& leaf : {x, norm, gate_weight, up}) ASSERT_TRUE(tape_->watch(leaf).ok());
  const NormParams params{1e-5f, 1.0f};
  const auto run = [&](Tape* tape) {
    return norm_linear_gated(context(), x, norm, params, gate_weight, up, Activation::kSilu, tape).value();
  };
  const TensorView y = run(&*tape_);
  EXPECT_TRUE(same_bits(values_of(run(nullptr)), values_of(y)));
  const auto got = backward(y, dy, {x, norm, gate_weight, up});
  const auto expected = [&]<class Real>(Real eps) {
    const auto h = kernels::testing::norm_rows<Real>(as_real<Real>(a), as_real<Real>(n), eps, 1);
    std::vector<Real> dh(h.size()), dx(h.size()), dnorm(kC), dgate(g.size()), dup(u.size());
    for (std::size_t t = 0; t < kT; ++t) {
      for (std::size_t f = 0; f < kF; ++f) {
        Real gate_sum = 0, up_sum = 0;
        for (std::size_t c = 0; c < kC; ++c) {
          gate_sum += h[t * kC + c] * static_cast<Real>(g[f * kC + c]);
          up_sum += h[t * kC + c] * static_cast<Real>(u[f * kC + c]);
        }
        const Slope<Real> slope = slope_of<Real>(Activation::kSilu, gate_sum);
        const Real dg = static_cast<Real>(dy[t * kF + f]) * up_sum * slope.slope;
        const Real du = static_cast<Real>(dy[t * kF + f]) * slope.value;
        for (std::size_t c = 0; c < kC; ++c) {
          dgate[f * kC + c] += dg * h[t * kC + c];
          dup[f * kC + c] += du * h[t * kC + c];
          dh[t * kC + c] += dg * static_cast<Real>(g[f * kC + c]) + du * static_cast<Real>(u[f * kC + c]);
        }
      }
    }
    kernels::testing::norm_rows_backward<Real>(as_real<Real>(a), as_real<Real>(n), eps, 1, dh, dx, dnorm);
    return std::vector<std::vector<Real>>{dx, dnorm, dgate, dup};
  };
  const auto plain = expected(1e-5f);
  const auto exact = expected(static_cast<double>(1e-5f));
  for (std::size_t i = 0; i < got.size(); ++i) expect_as_good_as(got[i], plain[i], exact[i]);
}

// Where products read bf16: the same bits with a tape and without, for few rows and for many.
TEST_P(RowGradients, AGatedLayerOfBf16HasTheSameBitsWithATape) {
  if (!place_->is_cuda()) GTEST_SKIP() << "CUDA's alone";
  context().compute = kernels::Compute::kBf16;
  for (const std::int64_t T : {3, 200}) {
    constexpr std::int64_t kC = 128, kF = 264;
    const TensorView x = put(random_values(1, T * kC), {T, kC}), norm = put(random_values(2, kC), {kC});
    const TensorView gate_weight = place_->put(random_values(3, kF * kC), {kF, kC}, DType::kBf16);
    const TensorView up = place_->put(random_values(4, kF * kC), {kF, kC}, DType::kBf16);
    for (const Activation activation : kActivations) {
      Tape tape(place_->stream(), gradients_);
      for (const TensorView& leaf : {x, norm, gate_weight, up}) ASSERT_TRUE(tape.watch(leaf).ok());
      const auto run = [&](Tape* with) {
        return norm_linear_gated(context(), x, norm, {1e-5f, 0.0f}, gate_weight, up, activation, with).value();
      };
      const TensorView y = run(&tape), without = run(nullptr);
      EXPECT_TRUE(same_bits(values_of(y), values_of(without))) << T;
      place_->set(*tape.grad(y), random_values(5, T * kF));
      const Status status = tape.backward();
      EXPECT_TRUE(status.ok()) << status.to_string();
    }
  }
}

}  // namespace
}  // namespace tandem::ops

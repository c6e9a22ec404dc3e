#include "kernels/elementwise/activation.h"

#include <cmath>
#include <limits>

#include "kernels/elementwise/elementwise.h"
#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(ActivationRow);
TANDEM_EACH_TARGET(Gate);

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf};

double reference(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu: return silu(x);
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kGeluErf: return gelu_erf(x);
  }
  return 0.0;
}

std::vector<float> activate(const std::vector<float>& x, Activation activation) {
  const std::vector<float> ones(x.size(), 1.0f);
  std::vector<float> y(x.size());
  activate_gate_row(x.data(), ones.data(), static_cast<std::int64_t>(x.size()), activation, y.data());
  return y;
}

TEST_P(ActivationRow, IsAccurateOnBothTailsAndNearZero) {
  std::vector<float> x;
  for (int i = -30000; i <= 30000; ++i) x.push_back(static_cast<float>(i) * 1e-3f);
  for (float tiny = 1e-30f; tiny < 1.0f; tiny *= 1.7f) x.insert(x.end(), {tiny, -tiny});
  for (const Activation activation : kActivations) {
    // The tanh form squares and cubes its argument in f32 before the exponential, as every f32 implementation does.
    const double tail_error = activation == Activation::kGeluTanh ? 1.5e-5 : 1e-6;
    const std::vector<float> y = activate(x, activation);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = reference(activation, x[i]);
      const double relative = x[i] < -3.0f ? tail_error : 1e-6;
      ASSERT_LE(std::fabs(y[i] - expected), std::fabs(expected) * relative + 1e-35) << x[i];
    }
  }
}

TEST_P(ActivationRow, TreatsExtremesAndNaN) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Activation activation : kActivations) {
    const std::vector<float> y = activate({-kInfinity, -1e30f, kInfinity, 1e30f, 0.0f, std::nanf("")}, activation);
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_EQ(y[1], 0.0f);
    EXPECT_EQ(y[2], kInfinity);
    EXPECT_EQ(y[3], 1e30f);
    EXPECT_EQ(y[4], 0.0f);
    EXPECT_TRUE(std::isnan(y[5]));
  }
}

TEST_P(ActivationRow, DoesNotDependOnThePlaceInTheRow) {
  const std::vector<float> gate = random_values(1, 131, 6.0f), up = random_values(2, 131, 3.0f);
  for (const Activation activation : kActivations) {
    std::vector<float> whole(gate.size());
    activate_gate_row(gate.data(), up.data(), 131, activation, whole.data());
    for (std::size_t i = 0; i < gate.size(); ++i) {
      float alone = 0.0f;
      activate_gate_row(&gate[i], &up[i], 1, activation, &alone);
      ASSERT_TRUE(same_bits({&alone, 1}, {&whole[i], 1})) << i;
    }
  }
}

TEST_P(Gate, HasTheBitsOfTheRowFunctionAndMayRunInPlace) {
  constexpr std::int64_t kRows = 9, kWidth = 1030;
  const std::vector<float> gate = random_values(3, kRows * kWidth, 4.0f), up = random_values(4, kRows * kWidth, 4.0f);
  for (const Activation activation : kActivations) {
    std::vector<float> expected(gate.size());
    for (std::int64_t t = 0; t < kRows; ++t) {
      activate_gate_row(&gate[t * kWidth], &up[t * kWidth], kWidth, activation, &expected[t * kWidth]);
    }
    for (const int threads : {1, 2}) {
      const auto stream = device::Stream::create_cpu(threads);
      GuardedRows y(kRows, kWidth);
      y.set(gate);
      ASSERT_TRUE(gate_cpu(y.view(), view_of(up, {kRows, kWidth}), activation, y.view(), *stream).ok());
      EXPECT_TRUE(same_bits(y.dense(), expected));
      EXPECT_TRUE(y.guards_intact());
    }
  }
}

}  // namespace
}  // namespace tandem::kernels

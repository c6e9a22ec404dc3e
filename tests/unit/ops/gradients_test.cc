// Backwards of single ops through a tape: what each adds to the gradients of its inputs, also when one tensor comes in
// twice. That the kernels beneath are right is the business of their own tests; the whole layer's,
// attention_layer_test.
#include <gtest/gtest.h>

#include "ops/ops.h"
#include "unit/kernels/gradients.h"

namespace tandem::ops {
namespace {

using kernels::testing::as_real;
using kernels::testing::dot;
using kernels::testing::expect_as_good_as;
using kernels::testing::random_integers;
using kernels::testing::random_values;
using kernels::testing::same_bits;
using kernels::testing::view_of;
using tensor::DType;
using tensor::Shape;

std::vector<float> values_of(const TensorView& view) {
  const float* const data = view.as<float>();
  return {data, data + view.count()};
}

class Gradients : public ::testing::Test {
 protected:
  // Seeds `y` with dy, runs backward, and returns the gradient of each leaf.
  std::vector<std::vector<float>> backward(const TensorView& y, std::span<const float> dy,
                                           std::initializer_list<TensorView> leaves) {
    std::copy(dy.begin(), dy.end(), tape_.grad(y)->as<float>());
    const Status status = tape_.backward();
    EXPECT_TRUE(status.ok()) << status.to_string();
    std::vector<std::vector<float>> gradients;
    for (const TensorView& leaf : leaves) gradients.push_back(values_of(*tape_.grad(leaf)));
    return gradients;
  }

  std::unique_ptr<device::Stream> stream_ = device::Stream::create_cpu(2);
  device::Arena arena_ = device::Arena::create({}, 1 << 20).value();
  device::Arena gradients_ = device::Arena::create({}, 1 << 20).value();
  Context context_{*stream_, arena_, kernels::Compute::kF32};
  Tape tape_{*stream_, gradients_};
};

TEST_F(Gradients, OfATensorAddedToItselfIsTheSum) {
  const std::vector<float> a = random_integers(1, 12, 9), dy = random_integers(2, 12, 9);  // sums are exact
  const TensorView x = view_of(a, {3, 4});
  ASSERT_TRUE(tape_.watch(x).ok());
  const TensorView y = add_scaled(context_, x, x, 0.5f, &tape_).value();
  EXPECT_NE(y.data(), x.data());
  EXPECT_EQ(y.as<float>()[5], 1.5f * a[5]);
  const auto dx = backward(y, dy, {x})[0];
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(dx[i], 1.5f * dy[i]);
}

TEST_F(Gradients, OfALinearLayerWhoseInputIsItsResidual) {
  constexpr std::size_t kT = 5, kC = 6;
  const std::vector<float> a = random_values(1, kT * kC), w = random_values(2, kC * kC), b = random_values(3, kC),
                           dy = random_values(4, kT * kC);
  const TensorView x = view_of(a, {kT, kC}), weight = view_of(w, {kC, kC}), bias = view_of(b, {kC});
  ASSERT_TRUE(tape_.watch(x).ok() && tape_.watch(weight).ok() && tape_.watch(bias).ok());
  const TensorView y = linear(context_, x, weight, {.bias = bias, .alpha = 0.5f, .residual = x}, &tape_).value();
  EXPECT_TRUE(same_bits(a, values_of(x))) << "with a tape the residual stays";
  const auto got = backward(y, dy, {x, weight, bias});
  const auto expected = [&]<class Real>(Real half) {
    std::vector<std::vector<Real>> sums{as_real<Real>(dy), std::vector<Real>(kC * kC), std::vector<Real>(kC)};
    for (std::size_t t = 0; t < kT; ++t) {
      for (std::size_t n = 0; n < kC; ++n) {
        const Real g = half * static_cast<Real>(dy[t * kC + n]);
        sums[2][n] += g;
        for (std::size_t k = 0; k < kC; ++k) {
          sums[0][t * kC + k] += g * static_cast<Real>(w[n * kC + k]);
          sums[1][n * kC + k] += g * static_cast<Real>(a[t * kC + k]);
        }
      }
    }
    return sums;
  };
  const auto plain = expected(0.5f);
  const auto exact = expected(0.5);
  for (std::size_t i = 0; i < 3; ++i) expect_as_good_as(got[i], plain[i], exact[i]);
}

TEST_F(Gradients, OfANormThenARotation) {
  constexpr std::size_t kT = 4, kH = 3, kD = 10;
  const std::vector<float> a = random_values(1, kT * kH * kD), w = random_values(2, kD),
                           dy = random_values(3, a.size());
  const std::vector<float> cos = random_values(4, kT * 5), sin = random_values(5, kT * 5);
  const TensorView x = view_of(a, {kT, kH, kD}), weight = view_of(w, {kD});
  ASSERT_TRUE(tape_.watch(x).ok() && tape_.watch(weight).ok());
  const RopeTable table{view_of(cos, {kT, 5}), view_of(sin, {kT, 5})};
  const auto apart = [&] {
    const TensorView normalised = rms_norm(context_, x, weight, 1e-5f, 0.0f, &tape_).value();
    return norm_rope(context_, normalised, {}, {}, table, &tape_).value();
  };
  const TensorView y = apart();
  const std::vector<float> forward = values_of(y);
  const auto got = backward(y, dy, {x, weight});
  const auto expected = [&]<class Real>(Real eps) {
    auto back = as_real<Real>(dy);
    kernels::testing::turn_rows<Real>(back, as_real<Real>(cos), as_real<Real>(sin), kH, kD, -1);
    std::vector<std::vector<Real>> sums{std::vector<Real>(a.size()), std::vector<Real>(kD)};
    kernels::testing::norm_rows_backward<Real>(as_real<Real>(a), as_real<Real>(w), eps, 0, back, sums[0], sums[1]);
    return sums;
  };
  const auto plain = expected(1e-5f);
  const auto exact = expected(static_cast<double>(1e-5f));
  for (std::size_t i = 0; i < 2; ++i) expect_as_good_as(got[i], plain[i], exact[i]);

  // The two as one op: the same bits, forward and backward.
  Tape tape(*stream_, gradients_);
  ASSERT_TRUE(tape.watch(x).ok() && tape.watch(weight).ok());
  const TensorView fused = norm_rope(context_, x, weight, {1e-5f, 0.0f}, table, &tape).value();
  EXPECT_TRUE(same_bits(values_of(fused), forward));
  std::copy(dy.begin(), dy.end(), tape.grad(fused)->as<float>());
  ASSERT_TRUE(tape.backward().ok());
  EXPECT_TRUE(same_bits(values_of(*tape.grad(x)), got[0]));
  EXPECT_TRUE(same_bits(values_of(*tape.grad(weight)), got[1]));
}

// Attention's kernel writes its gradients; the op must add them where there is something already, or two inputs are
// one.
TEST_F(Gradients, OfAttentionThatRunsTwiceOrWhoseKeysAreItsValues) {
  constexpr std::int64_t kT = 6, kD = 8;
  const std::vector<float> a = random_values(1, kT * kD), b = random_values(2, kT * kD), dy = random_values(3, kT * kD);
  const std::vector<float> b_again = b, sink = {0.5f};
  const kernels::AttentionSegment segments[] = {{0, kT, 0, 0, 0, kT}};
  const auto plan =
      kernels::FusedAttentionPlan::create(segments, {.right = 0}, {kT, kT, 1, 1, kD}, kernels::AttentionPath::kCpu)
          .value();
  const Shape shape{kT, 1, kD};
  const TensorView q = view_of(a, shape), k = view_of(b, shape), v = view_of(b_again, shape),
                   sinks = view_of(sink, {1});
  const auto run = [&](const Projected& inputs, int times) {
    Tape tape(*stream_, gradients_);
    std::vector<std::vector<float>> got;
    for (const TensorView& leaf : {q, k, v, sinks}) EXPECT_TRUE(tape.watch(leaf).ok());
    for (int i = 0; i < times; ++i) {
      const TensorView out = fused_attention(context_, inputs, sinks, plan, {.scale = 0.5f}, &tape).value();
      std::copy(dy.begin(), dy.end(), tape.grad(out)->as<float>());
    }
    EXPECT_TRUE(tape.backward().ok());
    for (const TensorView& leaf : {q, k, v, sinks}) got.push_back(values_of(*tape.grad(leaf)));
    return got;
  };
  const auto once = run({q, k, v}, 1), twice = run({q, k, v}, 2), shared = run({q, k, k}, 1);
  for (std::size_t leaf = 0; leaf < once.size(); ++leaf) {
    for (std::size_t i = 0; i < once[leaf].size(); ++i) {
      EXPECT_EQ(twice[leaf][i], 2.0f * once[leaf][i]);
      EXPECT_EQ(shared[leaf][i], leaf == 1 ? once[1][i] + once[2][i] : leaf == 2 ? 0.0f : once[leaf][i]);
    }
  }
}

TEST_F(Gradients, OfNoTokensAreZero) {
  const std::vector<float> w = random_values(1, 12);
  const TensorView x = view_of(w, {0, 4}), weight = view_of(w, {3, 4});
  ASSERT_TRUE(tape_.watch(x).ok() && tape_.watch(weight).ok());
  const TensorView y = linear(context_, x, weight, {}, &tape_).value();
  EXPECT_EQ(backward(y, {}, {weight})[0], std::vector<float>(12, 0.0f));
}

TEST_F(Gradients, OpsWithoutABackwardRefuseATapeByName) {
  const std::vector<float> a(16, 1.0f);
  const std::vector<std::int32_t> ids(2, 0);
  const TensorView x = view_of(a, {4, 4}), rows = view_of(ids, {2});
  const auto refusal = [](const auto& result) {
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  const auto names = [](const std::string& message, const std::string& op) {
    return message.find(op) != std::string::npos && message.find("without a tape") != std::string::npos;
  };
  EXPECT_TRUE(names(refusal(embedding(context_, rows, x, 1.0f, &tape_)), "embedding"));
  EXPECT_TRUE(names(refusal(norm_linear_gated(context_, x, {}, {}, x, x, kernels::Activation::kSilu, &tape_)),
                    "norm_linear_gated"));
  EXPECT_TRUE(names(refusal(gate(context_, x, x, kernels::Activation::kSilu, &tape_)), "gate"));
  EXPECT_TRUE(names(refusal(gather_rows(context_, x, rows, &tape_)), "gather_rows"));
  EXPECT_TRUE(names(refusal(softcap(context_, x, 1.0f, &tape_)), "softcap"));
  EXPECT_TRUE(names(refusal(attention(context_, {}, {}, {}, {}, {}, {}, {}, &tape_)), "attention"));
  EXPECT_TRUE(names(refusal(mixture_of_experts(context_, x, x, {}, {}, {}, &tape_)), "mixture_of_experts"));
}

}  // namespace
}  // namespace tandem::ops

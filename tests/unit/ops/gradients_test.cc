// Backwards of single ops through a tape, on the CPU and on CUDA: what each adds to the gradients of its inputs, also
// when one tensor comes in twice. That the kernels beneath are right is the business of their own tests; the whole
// layer's, attention_layer_test.
#include <gtest/gtest.h>

#include "ops/ops.h"
#include "unit/kernels/gradients.h"
#include "unit/ops/gradients_fixture.h"

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
using testing::Gradients;

INSTANTIATE_TEST_SUITE_P(Cpu, Gradients, ::testing::Values(testing::kCpuDevice));
INSTANTIATE_TEST_SUITE_P(Cuda, Gradients, ::testing::Values(testing::kCudaDevice));

TEST_P(Gradients, OfATensorAddedToItselfIsTheSum) {
  const std::vector<float> a = random_integers(1, 12, 9), dy = random_integers(2, 12, 9);  // sums are exact
  const TensorView x = put(a, {3, 4});
  ASSERT_TRUE(tape_->watch(x).ok());
  const TensorView y = add_scaled(context(), x, x, 0.5f, &*tape_).value();
  EXPECT_NE(y.data(), x.data());
  EXPECT_EQ(values_of(y)[5], 1.5f * a[5]);
  const auto dx = backward(y, dy, {x})[0];
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(dx[i], 1.5f * dy[i]);
}

TEST_P(Gradients, OfALinearLayerWhoseInputIsItsResidual) {
  constexpr std::size_t kT = 5, kC = 6;
  const std::vector<float> a = random_values(1, kT * kC), w = random_values(2, kC * kC), b = random_values(3, kC),
                           dy = random_values(4, kT * kC);
  const TensorView x = put(a, {kT, kC}), weight = put(w, {kC, kC}), bias = put(b, {kC});
  ASSERT_TRUE(tape_->watch(x).ok() && tape_->watch(weight).ok() && tape_->watch(bias).ok());
  const TensorView y = linear(context(), x, weight, {.bias = bias, .alpha = 0.5f, .residual = x}, &*tape_).value();
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

TEST_P(Gradients, OfANormThenARotation) {
  constexpr std::size_t kT = 4, kH = 3, kD = 10;
  const std::vector<float> a = random_values(1, kT * kH * kD), w = random_values(2, kD),
                           dy = random_values(3, a.size());
  const std::vector<float> cos = random_values(4, kT * 5), sin = random_values(5, kT * 5);
  const TensorView x = put(a, {kT, kH, kD}), weight = put(w, {kD});
  ASSERT_TRUE(tape_->watch(x).ok() && tape_->watch(weight).ok());
  const RopeTable table{put(cos, {kT, 5}), put(sin, {kT, 5})};
  const auto apart = [&] {
    const TensorView normalised = rms_norm(context(), x, weight, 1e-5f, 0.0f, &*tape_).value();
    return norm_rope(context(), normalised, {}, {}, table, &*tape_).value();
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

  // The two as one op: on the CPU the same bits, forward and backward.
  Tape tape(place_->stream(), gradients_);
  ASSERT_TRUE(tape.watch(x).ok() && tape.watch(weight).ok());
  const TensorView fused = norm_rope(context(), x, weight, {1e-5f, 0.0f}, table, &tape).value();
  const std::vector<float> fused_values = values_of(fused);
  place_->set(*tape.grad(fused), dy);
  ASSERT_TRUE(tape.backward().ok());
  const std::vector<float> dx = values_of(*tape.grad(x)), dweight = values_of(*tape.grad(weight));
  expect_as_good_as(dx, plain[0], exact[0]);
  expect_as_good_as(dweight, plain[1], exact[1]);
  if (place_->is_cuda()) return;
  EXPECT_TRUE(same_bits(fused_values, forward) && same_bits(dx, got[0]) && same_bits(dweight, got[1]));
}

// Of one sequence and one head.
kernels::FusedAttentionPlan causal_plan(device::Device device, std::int32_t T, std::int64_t D) {
  const kernels::AttentionSegment segments[] = {{0, T, 0, 0, 0, T}};
  return kernels::FusedAttentionPlan::create(segments, {.right = 0}, {T, T, 1, 1, D},
                                             kernels::attention_path(device).value())
      .value();
}

// Attention's kernel writes its gradients; the op must add them where there is something already, or two inputs are
// one.
TEST_P(Gradients, OfAttentionThatRunsTwiceOrWhoseKeysAreItsValues) {
  constexpr std::int64_t kT = 6, kD = 8;
  const std::vector<float> a = random_values(1, kT * kD), b = random_values(2, kT * kD), dy = random_values(3, kT * kD);
  const std::vector<float> b_again = b, sink = {0.5f};
  const auto plan = causal_plan(GetParam(), kT, kD);
  if (place_->is_cuda()) context().compute = kernels::Compute::kBf16;
  const PlacedPlan placed = place(context(), plan).value();
  const Shape shape{kT, 1, kD};
  const TensorView q = put(a, shape), k = put(b, shape), v = put(b_again, shape), sinks = put(sink, {1});
  const auto run = [&](const Projected& inputs, int times) {
    Tape tape(place_->stream(), gradients_);
    std::vector<std::vector<float>> got;
    for (const TensorView& leaf : {q, k, v, sinks}) EXPECT_TRUE(tape.watch(leaf).ok());
    for (int i = 0; i < times; ++i) {
      const TensorView out = fused_attention(context(), inputs, sinks, placed, {.scale = 0.5f}, &tape).value();
      place_->set(*tape.grad(out), dy);
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

TEST_P(Gradients, OfAttentionWhoseValuesAreItsKeysOneRowOn) {
  constexpr std::int64_t kT = 6, kD = 8;
  const std::vector<float> a = random_values(1, kT * kD), b = random_values(2, (kT + 1) * kD),
                           dy = random_values(3, kT * kD);
  const auto plan = causal_plan(GetParam(), kT, kD);
  if (place_->is_cuda()) context().compute = kernels::Compute::kBf16;
  const PlacedPlan placed = place(context(), plan).value();
  const TensorView q = put(a, {kT, 1, kD}), both = put(b, {kT + 1, 1, kD});
  const std::vector<float> keys(b.begin(), b.end() - kD), values(b.begin() + kD, b.end());
  const TensorView k = put(keys, {kT, 1, kD}), v = put(values, {kT, 1, kD});
  const auto run = [&](const Projected& inputs, const TensorView& first, const TensorView& second) {
    tape_.emplace(place_->stream(), gradients_);
    for (const TensorView& leaf : {q, first, second}) EXPECT_TRUE(tape_->watch(leaf).ok());
    const TensorView out = fused_attention(context(), inputs, {}, placed, {.scale = 0.5f}, &*tape_).value();
    return backward(out, dy, {first, second});
  };
  const auto apart = run({q, k, v}, k, v);
  const auto shared = run({q, both.rows(0, kT), both.rows(1, kT + 1)}, both, both)[0];
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const float dk = i < apart[0].size() ? apart[0][i] : 0.0f, dv = i >= kD ? apart[1][i - kD] : 0.0f;
    EXPECT_EQ(shared[i], dk + dv) << i;
  }
}

// Turning happens in place: what may not be changed must be refused before.
TEST_P(Gradients, HeadsThatNoOpMadeAreRefusedUnturned) {
  constexpr std::size_t kT = 4, kH = 2, kD = 8;
  const std::vector<float> a = random_values(1, kT * kH * kD), b = a, half = random_values(2, kT * kD / 2);
  const TensorView q = put(a, {kT, kH, kD}), k = put(b, {kT, kH, kD});
  const RopeTable table{put(half, {kT, kD / 2}), put(half, {kT, kD / 2})};
  ASSERT_TRUE(tape_->watch(q).ok() && tape_->freeze(k).ok());
  const Status refused = norm_rope_heads(context(), {q, k, k}, {}, table, &*tape_).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("copy it"), std::string::npos) << refused.message();
  EXPECT_TRUE(same_bits(values_of(q), random_values(1, a.size())) && same_bits(values_of(k), values_of(q)));
}

TEST_P(Gradients, OfNoTokensAreZero) {
  const std::vector<float> w = random_values(1, 12);
  const TensorView x = put(w, {0, 4}), weight = put(w, {3, 4});
  ASSERT_TRUE(tape_->watch(x).ok() && tape_->watch(weight).ok());
  const TensorView y = linear(context(), x, weight, {}, &*tape_).value();
  EXPECT_EQ(backward(y, {}, {weight})[0], std::vector<float>(12, 0.0f));
}

TEST_P(Gradients, OpsWithoutABackwardRefuseATapeByName) {
  const std::vector<float> a(16, 1.0f);
  const TensorView x = put(a, {4, 4});
  const auto refusal = [](const auto& result) {
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  const auto names = [](const std::string& message, const std::string& op) {
    return message.find(op) != std::string::npos && message.find("without a tape") != std::string::npos;
  };
  EXPECT_TRUE(names(refusal(attention(context(), {}, {}, {}, {}, {}, {}, {}, &*tape_)), "attention"));
  EXPECT_TRUE(names(refusal(mixture_of_experts(context(), x, {}, {}, x, {}, {}, {}, &*tape_)), "mixture_of_experts"));
}

}  // namespace
}  // namespace tandem::ops

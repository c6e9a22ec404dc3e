// The attention layer on CUDA, forward and backward, through the tape: weights of products bf16, all else f32.
#include <gtest/gtest.h>

#include "ops/attention_layer.h"
#include "unit/ops/attention_layer_case.h"

namespace tandem::ops {
namespace {

using namespace testing;
using kernels::testing::same_bits;
using kernels::testing::worst_error;

std::vector<LayerShape> cuda_shapes() {
  std::vector<LayerShape> all = shapes();
  all.push_back(large_shape(HeadNorms::kNone, 64));
  all.push_back(large_shape(HeadNorms::kPerHead, 128));
  all.push_back(large_shape(HeadNorms::kWholeRow, 64));
  all.back().window.left = 40;
  return all;
}

// At most twice the error of the plain formula with bf16's roundings, plus one rounding of the largest value to bf16.
void expect_as_good_as_bf16(const std::vector<float>& got, const std::vector<float>& plain,
                            const std::vector<double>& exact) {
  double largest = 0.0;
  for (const double value : exact) largest = std::max(largest, std::fabs(value));
  EXPECT_LE(worst_error(got, exact), 2.0 * worst_error(plain, exact) + largest * 0x1p-9) << "largest " << largest;
}

TEST(AttentionLayerCuda, ForwardAndEveryGradientAgreeWithDoublePrecision) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  int index = 0;
  for (const LayerShape& shape : cuda_shapes()) {
    SCOPED_TRACE(::testing::Message() << "shape " << index++);
    const Layer layer(shape, true);
    const LayerRun got = run(layer, 1, 1, kCudaDevice, index % 2 == 0);
    const auto plain = layer.reference<float>(layer.values<float>(), true);
    const auto exact = layer.reference<double>(layer.values<double>());
    expect_as_good_as_bf16(got.y, plain.y(), exact.y());
    const auto plain_gradients = plain.backward(layer.dy());
    const auto exact_gradients = exact.backward(as_real<double>(layer.dy()));
    for (const auto& [name, gradient] : exact_gradients) {
      if (gradient.empty()) continue;
      SCOPED_TRACE(name);
      ASSERT_TRUE(got.gradients.contains(name));
      expect_as_good_as_bf16(got.gradients.at(name), plain_gradients.at(name), gradient);
    }
  }
}

TEST(AttentionLayerCuda, GivesTheSameBitsTwiceAndASecondBackwardAdds) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const HeadNorms norms : {HeadNorms::kNone, HeadNorms::kPerHead, HeadNorms::kWholeRow}) {
    const Layer layer(large_shape(norms, 64), true);
    const LayerRun one = run(layer, 1, 1, kCudaDevice), again = run(layer, 1, 1, kCudaDevice);
    const LayerRun both = run(layer, 1, 2, kCudaDevice);
    EXPECT_TRUE(same_bits(one.y, again.y));
    for (const auto& [name, gradient] : one.gradients) {
      EXPECT_TRUE(same_bits(gradient, again.gradients.at(name))) << name;
      float largest = 0.0f;
      for (const float value : gradient) largest = std::max(largest, std::fabs(value));
      const std::vector<float>& sum = both.gradients.at(name);
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        ASSERT_NEAR(sum[i], 2.0f * gradient[i], 1e-5f * largest) << name;
      }
    }
  }
}

// A row's y and dx depend on its own segment alone: the first segment's rows among the others, and by themselves.
TEST(AttentionLayerCuda, ASequenceHasTheSameBitsInAnyCompany) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  LayerShape shape = large_shape(HeadNorms::kPerHead, 128);
  const Layer packed(shape, true);
  const LayerRun all = run(packed, 1, 1, kCudaDevice);
  shape.T = 130;
  shape.segments.resize(1);
  Layer alone(shape, true);
  alone.take_first_rows_of(packed);
  const LayerRun own = run(alone, 1, 1, kCudaDevice);
  const auto first = [&](const std::vector<float>& rows) { return std::span(rows).first(own.y.size()); };
  EXPECT_TRUE(same_bits(own.y, first(all.y)));
  EXPECT_TRUE(same_bits(own.gradients.at("x"), first(all.gradients.at("x"))));
}

TEST(AttentionLayerCuda, HasTheSameBitsWithoutATapeInItsInputsMemory) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const LayerShape& shape : cuda_shapes()) {
    const Layer layer(shape, true);
    const LayerRun with_tape = run(layer, 1, 1, kCudaDevice);
    Bench bench(1, kCudaDevice);
    const PlacedLayer placed(layer, bench);
    const auto plan = layer.plan(kCudaDevice);
    const auto there = place(bench.context, plan).value();
    const TensorView y =
        attention_layer(bench.context, placed.x, placed.weights, layer.config(), placed.table, there, nullptr).value();
    EXPECT_EQ(y.data(), placed.x.data());
    EXPECT_TRUE(same_bits(bench.place.get(y), with_tape.y));
  }
}

TEST(AttentionLayerCuda, WhatIsFrozenGetsNoGradient) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const HeadNorms norms : {HeadNorms::kNone, HeadNorms::kPerHead, HeadNorms::kWholeRow}) {
    const Layer layer(rich_shape(norms), true);
    const LayerRun all = run(layer, 1, 1, kCudaDevice);
    Bench bench(1, kCudaDevice);
    const PlacedLayer placed(layer, bench);
    const auto plan = layer.plan(kCudaDevice);
    const auto there = place(bench.context, plan).value();
    for (const auto& [name, view] : placed.named) {
      ASSERT_TRUE((name == "wq" ? bench.tape.watch(view) : bench.tape.freeze(view)).ok());
    }
    const TensorView y =
        attention_layer(bench.context, placed.x, placed.weights, layer.config(), placed.table, there, &bench.tape)
            .value();
    bench.place.set(*bench.tape.grad(y), layer.dy());
    const Status status = bench.tape.backward();
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(same_bits(bench.place.get(*bench.tape.grad(placed.weights.qkv.q)), all.gradients.at("wq")));
    EXPECT_EQ(bench.tape.grad(placed.weights.o).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(AttentionLayerCuda, PlanningCountsWhatAStepTakesBackwardIncluded) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  for (const LayerShape& shape : cuda_shapes()) {
    const Layer layer(shape, true);
    Bench bench(1, kCudaDevice);
    const PlacedLayer placed(layer, bench);
    const auto plan = layer.plan(kCudaDevice);
    const auto step = [&](device::Arena& arena, device::Arena& gradients) {
      Context context{bench.place.stream(), arena, kernels::Compute::kBf16};
      Tape tape(context.stream, gradients);
      EXPECT_TRUE(tape.watch(placed.x).ok() && watch(tape, placed.weights).ok());
      const PlacedPlan there = place(context, plan).value();
      TensorView x = placed.x;
      for (int i = 0; i < 2; ++i) {
        x = attention_layer(context, x, placed.weights, layer.config(), placed.table, there, &tape).value();
      }
      EXPECT_TRUE(tape.grad(x).ok());
      const Status status = tape.backward();
      EXPECT_TRUE(status.ok()) << status.to_string();
    };
    device::Arena planned = device::Arena::create_planning(), planned_gradients = device::Arena::create_planning();
    step(planned, planned_gradients);
    device::Arena arena = device::Arena::create(kCudaDevice, planned.peak_bytes()).value();
    device::Arena gradients = device::Arena::create(kCudaDevice, planned_gradients.peak_bytes()).value();
    step(arena, gradients);
    EXPECT_EQ(arena.peak_bytes(), planned.peak_bytes());
    EXPECT_EQ(gradients.peak_bytes(), planned_gradients.peak_bytes());
    EXPECT_TRUE(bench.place.stream().synchronize().ok());
  }
}

TEST(AttentionLayerCuda, RefusesF32AttentionByName) {
  TANDEM_SKIP_WITHOUT(kCudaDevice);
  const Layer layer(plain_shape());
  Bench bench(1, kCudaDevice);
  bench.context.compute = kernels::Compute::kF32;
  const auto plan = layer.plan(kCudaDevice);
  const TensorView heads = bench.place.put(std::vector<float>(11 * 2 * 8), {11, 2, 8});
  const Status status =
      fused_attention(bench.context, {heads, heads, heads}, {}, place(bench.context, plan).value(), {}, nullptr)
          .status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("Compute::kBf16"), std::string::npos);
}

}  // namespace
}  // namespace tandem::ops

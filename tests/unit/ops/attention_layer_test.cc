#include "ops/attention_layer.h"

#include <gtest/gtest.h>

#include "unit/ops/attention_layer_case.h"

namespace tandem::ops {
namespace {

using namespace testing;
using kernels::testing::expect_as_good_as;
using kernels::testing::expect_derivative;
using kernels::testing::same_bits;

TEST(AttentionLayerReference, IsTheDerivative) {
  for (const LayerShape& shape : shapes()) {
    const Layer layer(shape);
    const auto values = layer.values<double>();
    const auto dy = as_real<double>(layer.dy());
    const auto gradients = layer.reference<double>(values).backward(dy);
    for (const auto& [name, gradient] : gradients) {
      if (gradient.empty()) continue;
      const auto loss = [&, name = name](std::span<const double> at) {
        auto moved = values;
        moved[name].assign(at.begin(), at.end());
        return kernels::testing::dot<double>(layer.reference<double>(moved).y(), dy);
      };
      SCOPED_TRACE(name);
      expect_derivative(loss, values.at(name), gradient, 1 + gradient.size() / 11);
    }
  }
}

TEST(AttentionLayer, ForwardAndEveryGradientAgreeWithDoublePrecision) {
  for (const LayerShape& shape : shapes()) {
    const Layer layer(shape);
    const LayerRun got = run(layer, 1);
    const auto plain = layer.reference<float>(layer.values<float>());
    const auto exact = layer.reference<double>(layer.values<double>());
    expect_as_good_as(got.y, plain.y(), exact.y());
    const auto plain_gradients = plain.backward(layer.dy());
    const auto exact_gradients = exact.backward(as_real<double>(layer.dy()));
    for (const auto& [name, gradient] : got.gradients) {
      SCOPED_TRACE(name);
      expect_as_good_as(gradient, plain_gradients.at(name), exact_gradients.at(name));
    }
  }
}

TEST(AttentionLayer, GivesTheSameBitsTwiceAndOnAnyThreads) {
  LayerShape shape = rich_shape(HeadNorms::kPerHead);
  shape.C = 160;  // enough for the work to be split
  const Layer layer(shape);
  const LayerRun one = run(layer, 1), again = run(layer, 1), two = run(layer, 2);
  for (const LayerRun* other : {&again, &two}) {
    EXPECT_TRUE(same_bits(one.y, other->y));
    for (const auto& [name, gradient] : one.gradients)
      EXPECT_TRUE(same_bits(gradient, other->gradients.at(name))) << name;
  }
}

TEST(AttentionLayer, ASecondBackwardAddsToTheLeaves) {
  const Layer layer(rich_shape(HeadNorms::kNone));
  const LayerRun once = run(layer, 1), twice = run(layer, 1, 2);
  for (const auto& [name, gradient] : once.gradients) {
    const std::vector<float>& both = twice.gradients.at(name);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      ASSERT_NEAR(both[i], 2.0f * gradient[i], 1e-5f * (1.0f + std::fabs(gradient[i]))) << name;
    }
  }
}

TEST(AttentionLayer, TwoLayersThatShareWeightsSumTheirGradientsInTheMemoryOfOne) {
  const Layer layer(rich_shape(HeadNorms::kPerHead));
  const auto plan = layer.plan();
  std::size_t used[3] = {};
  Named<float> got;
  for (const int layers : {1, 2, 3}) {
    Bench bench(1);
    ASSERT_TRUE(bench.tape.watch(layer.x()).ok() && watch(bench.tape, layer.weights()).ok());
    TensorView x = layer.x();
    for (int i = 0; i < layers; ++i) {
      x = attention_layer(bench.context, x, layer.weights(), layer.config(), layer.table(), plan, &bench.tape).value();
    }
    std::copy(layer.dy().begin(), layer.dy().end(), bench.tape.grad(x)->as<float>());
    ASSERT_TRUE(bench.tape.backward().ok());
    used[layers - 1] = bench.gradients.used_bytes();
    if (layers != 2) continue;
    for (const auto& [name, values] : layer.inputs()) {
      if (!values.empty()) got[name] = values_of(*bench.tape.grad(layer.named(name)));
    }
  }
  EXPECT_EQ(used[1], used[2]) << "gradients of what ops made are used again";

  const auto both = [&]<class Real>(Real) {
    auto values = layer.values<Real>();
    const auto first = layer.reference<Real>(values);
    values["x"] = first.y();
    auto sum = layer.reference<Real>(values).backward(as_real<Real>(layer.dy()));
    const auto gradients = first.backward(sum["x"]);
    sum["x"].assign(sum["x"].size(), 0);
    for (auto& [name, gradient] : sum) {
      for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] += gradients.at(name)[i];
    }
    return sum;
  };
  const auto plain = both(0.0f);
  const auto exact = both(0.0);
  for (const auto& [name, gradient] : got) {
    SCOPED_TRACE(name);
    expect_as_good_as(gradient, plain.at(name), exact.at(name));
  }
}

TEST(AttentionLayer, WhatIsFrozenGetsNoGradientAndWhatIsUnknownIsNamed) {
  const Layer layer(rich_shape(HeadNorms::kPerHead));
  const auto plan = layer.plan();
  const LayerRun all = run(layer, 1);
  Bench bench(1);
  ASSERT_TRUE(bench.tape.freeze(layer.x()).ok());
  const auto forward = [&] {
    return attention_layer(bench.context, layer.x(), layer.weights(), layer.config(), layer.table(), plan, &bench.tape);
  };
  const Status unknown = forward().status();
  EXPECT_EQ(unknown.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.message().find("watch()"), std::string::npos) << unknown.message();
  bench.tape.clear();
  for (const auto& [name, values] : layer.inputs()) {
    if (name == "x") continue;
    ASSERT_TRUE((name == "wq" ? bench.tape.watch(layer.named(name)) : bench.tape.freeze(layer.named(name))).ok());
  }
  const TensorView y = forward().value();
  std::copy(layer.dy().begin(), layer.dy().end(), bench.tape.grad(y)->as<float>());
  ASSERT_TRUE(bench.tape.backward().ok());
  EXPECT_TRUE(same_bits(values_of(*bench.tape.grad(layer.named("wq"))), all.gradients.at("wq")));
  EXPECT_EQ(bench.tape.grad(layer.named("wo")).status().code(), StatusCode::kInvalidArgument);
}

TEST(AttentionLayer, HasTheSameBitsWithoutATapeInItsInputsMemory) {
  for (const LayerShape& shape : shapes()) {
    const Layer layer(shape);
    const LayerRun with_tape = run(layer, 1);
    Bench bench(2);
    const auto plan = layer.plan();
    std::vector<float> x = values_of(layer.x());
    const TensorView view = view_of(x, layer.x().shape());
    const TensorView y =
        attention_layer(bench.context, view, layer.weights(), layer.config(), layer.table(), plan, nullptr).value();
    EXPECT_EQ(y.data(), view.data());
    EXPECT_TRUE(same_bits(values_of(y), with_tape.y));
  }
}

// The cached path's ops, one after another, on one causal sequence; `attend` gives [T,H*D].
template <class Attend>
std::vector<float> chain_of_ops(const Layer& layer, Bench& bench, const Attend& attend) {
  Context& context = bench.context;
  const AttentionLayerWeights w = layer.weights();
  const AttentionLayerConfig config = layer.config();
  const NormParams& norm = config.norm;
  const TensorView h = rms_norm(context, layer.x(), w.input_norm, norm.eps, norm.offset, nullptr).value();
  Projected p = norm_qkv_projection(context, h, {}, {}, w.qkv, config.H, config.G, config.D, nullptr).value();
  p.q = rms_norm(context, p.q, w.q_norm, norm.eps, norm.offset, nullptr).value();
  p.k = rms_norm(context, p.k, w.k_norm, norm.eps, norm.offset, nullptr).value();
  p.q = norm_rope(context, p.q, {}, {}, layer.table(), nullptr).value();
  p.k = norm_rope(context, p.k, {}, {}, layer.table(), nullptr).value();
  std::vector<float> x = values_of(layer.x());
  const TensorView y =
      linear(context, attend(p), w.o,
             {.bias = w.o_bias, .alpha = config.residual_scale, .residual = view_of(x, layer.x().shape())}, nullptr)
          .value();
  return values_of(y);
}

// Attention over a paged cache visits the same blocks of keys in the same order.
TEST(AttentionLayer, OfACausalSequenceHasTheBitsOfTheCachedPathsOps) {
  for (const int window : {0, 70}) {
    LayerShape shape = rich_shape(HeadNorms::kPerHead);
    shape.T = 150;
    shape.segments = {{0, 150, 0, 0, 0, 150}};
    if (window > 0) shape.window.left = window - 1;
    shape.softcap = window > 0 ? 5.0f : 0.0f;
    const Layer layer(shape);
    const AttentionLayerConfig config = layer.config();

    Bench bench(2);
    constexpr std::int32_t kBlocks = 10, kBlockTokens = 16;
    std::vector<std::int32_t> block_table;
    for (std::int32_t b = 0; b < kBlocks; ++b) block_table.push_back(kBlocks - 1 - b);
    std::vector<std::int64_t> slots;
    for (std::int32_t t = 0; t < 150; ++t) {
      slots.push_back(block_table[static_cast<std::size_t>(t / kBlockTokens)] * kBlockTokens + t % kBlockTokens);
    }
    const Shape cache{kBlocks, config.G, kBlockTokens, config.D};
    std::vector<float> keys(static_cast<std::size_t>(cache.count())), values(keys.size());
    const std::vector<std::int32_t> query_start = {0, 150}, context_len = {150};
    const kernels::PagedKv kv{view_of(keys, cache), view_of(values, cache), view_of(block_table, {1, kBlocks})};
    // The chain turns its heads itself; by these angles of zero they stay as they are.
    std::vector<float> ones(static_cast<std::size_t>(layer.table().cos.count()), 1.0f), zeros(ones.size(), 0.0f);
    const Shape angles = layer.table().cos.shape();
    const RopeTable stays{view_of(ones, angles), view_of(zeros, angles)};
    const std::vector<float> cached = chain_of_ops(layer, bench, [&](const Projected& p) {
      return attention(
                 bench.context, p, {}, stays, kv,
                 {TensorView::of(std::span(slots)), view_of(query_start, {2}), view_of(context_len, {1})},
                 layer.weights().sinks,
                 {static_cast<float>(config.attention.scale), static_cast<float>(config.attention.softcap), window},
                 nullptr)
          .value();
    });
    EXPECT_TRUE(same_bits(run(layer, 1).y, cached));
  }
}

TEST(AttentionLayer, PlanningCountsWhatAStepTakesBackwardIncluded) {
  for (const LayerShape& shape : shapes()) {
    const Layer layer(shape);
    const auto plan = layer.plan();
    const auto step = [&](Context context, device::Arena& gradients) {
      Tape tape(context.stream, gradients);
      EXPECT_TRUE(tape.watch(layer.x()).ok() && watch(tape, layer.weights()).ok());
      TensorView x = layer.x();
      for (int i = 0; i < 2; ++i) {
        x = attention_layer(context, x, layer.weights(), layer.config(), layer.table(), plan, &tape).value();
      }
      EXPECT_TRUE(tape.grad(x).ok());
      const Status status = tape.backward();
      EXPECT_TRUE(status.ok()) << status.to_string();
    };
    const auto stream = device::Stream::create_cpu(2);
    device::Arena planned = device::Arena::create_planning(), planned_gradients = device::Arena::create_planning();
    step({*stream, planned, kernels::Compute::kF32}, planned_gradients);
    // Exactly what was planned is enough: an arena that runs out aborts.
    device::Arena arena = device::Arena::create({}, planned.peak_bytes()).value();
    device::Arena gradients = device::Arena::create({}, planned_gradients.peak_bytes()).value();
    step({*stream, arena, kernels::Compute::kF32}, gradients);
    EXPECT_EQ(arena.peak_bytes(), planned.peak_bytes());
    EXPECT_EQ(gradients.peak_bytes(), planned_gradients.peak_bytes());
  }
}

TEST(AttentionLayer, RefusesAPlanOfOtherRowsAndArenasThatDoNotFit) {
  const Layer layer(plain_shape()), other(rich_shape(HeadNorms::kNone));
  Bench bench(1);
  const auto plan = layer.plan(), other_plan = other.plan();
  const auto code = [&](const kernels::FusedAttentionPlan& with, Tape* tape) {
    return attention_layer(bench.context, layer.x(), layer.weights(), layer.config(), layer.table(), with, tape)
        .status()
        .code();
  };
  EXPECT_EQ(code(other_plan, nullptr), StatusCode::kInvalidArgument);
  Tape same_arena(bench.place.stream(), bench.arena);
  EXPECT_EQ(code(plan, &same_arena), StatusCode::kInvalidArgument);
  device::Arena planning = device::Arena::create_planning();
  Tape only_one_plans(bench.place.stream(), planning);
  EXPECT_EQ(code(plan, &only_one_plans), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::ops

// Gradients of a read reach the tensors that entries were written from, through the tape.
#include "replay/soft_memory.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace tandem::replay {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::Tensor;
using tensor::TensorView;

constexpr std::int64_t kEntries = 30, kWidth = 2, kQueries = 7;
constexpr float kTau = 0.3f;

Tensor uniform(const Shape& shape, std::uint64_t stream, double low, double high) {
  Tensor tensor(DType::kF32, shape);
  std::uint64_t i = 0;
  for (float& value : tensor.span<float>()) {
    value = static_cast<float>(low + (high - low) * philox_uniform({1, stream}, i++));
  }
  return tensor;
}

struct Inputs {
  Tensor keys = uniform({kEntries}, 1, -1, 1), values = uniform({kEntries, kWidth}, 2, -1, 1);
  Tensor weights = uniform({kEntries}, 3, 0.5, 2), queries = uniform({kQueries}, 4, -1.2, 1.2);
};

struct Bench {
  std::unique_ptr<device::Stream> stream = device::Stream::create_cpu(1);
  device::Arena arena = device::Arena::create({}, 1 << 20).value(),
                gradients = device::Arena::create({}, 1 << 20).value();
  ops::Context context{*stream, arena, kernels::Compute::kF32};
  ops::Tape tape{*stream, gradients};
  SoftBTree<float> tree = SoftBTree<float>::create({.value_width = kWidth, .tau = kTau}).value();
};

// sum of all reads, each times its place plus one, in double precision.
double loss(const Inputs& in) {
  const auto k = in.keys.span<float>(), v = in.values.span<float>(), w = in.weights.span<float>();
  double total = 0;
  for (std::int64_t q = 0; q < kQueries; ++q) {
    double Z = 0, num[kWidth] = {};
    for (std::size_t i = 0; i < static_cast<std::size_t>(kEntries); ++i) {
      const double p =
          w[i] * std::exp(-std::abs(double{in.queries.span<float>()[static_cast<std::size_t>(q)]} - k[i]) / kTau);
      Z += p;
      for (std::size_t j = 0; j < kWidth; ++j) num[j] += p * v[i * kWidth + j];
    }
    for (std::int64_t j = 0; j < kWidth; ++j) total += static_cast<double>(q * kWidth + j + 1) * num[j] / Z;
  }
  return total;
}

TEST(SoftMemory, GradientsReachWhatWasWritten) {
  Inputs in;
  Bench bench;
  for (const Tensor* leaf : {&in.keys, &in.values, &in.weights, &in.queries}) ASSERT_TRUE(bench.tape.watch(*leaf).ok());
  const WrittenBatch first = soft_write(bench.context, bench.tree, in.keys, in.values, in.weights, &bench.tape).value();
  const TensorView reads = soft_read(bench.context, bench.tree.snapshot(), in.queries, {first}, &bench.tape).value();
  // What is written later does not change the backward of what was read.
  const float late_key = 0.1f, late_value[kWidth] = {100.0f, -100.0f};
  ASSERT_TRUE(bench.tree.insert(late_key, late_value, 50.0f).ok());
  const TensorView d_reads = bench.tape.grad(reads).value();
  for (std::int64_t i = 0; i < d_reads.count(); ++i) d_reads.as<float>()[i] = static_cast<float>(i + 1);
  ASSERT_TRUE(bench.tape.backward().ok());

  for (Tensor* leaf : {&in.keys, &in.values, &in.weights, &in.queries}) {
    const TensorView gradient = bench.tape.grad(*leaf).value();
    for (std::int64_t i = 0; i < gradient.count(); ++i) {
      float& value = leaf->span<float>()[static_cast<std::size_t>(i)];
      const float before = value;
      constexpr float kStep = 1e-3f;
      value = before + kStep;
      const double above = loss(in), up = value;
      value = before - kStep;
      const double below = loss(in), slope = (above - below) / (up - value);
      value = before;
      EXPECT_NEAR(gradient.as<float>()[i], slope, 2e-2 * (1 + std::abs(slope))) << "element " << i;
    }
  }
}

TEST(SoftMemory, PlanningCountsTheGradientsOfWhatWasWritten) {
  const Inputs in;
  const auto stream = device::Stream::create_cpu(1);
  const auto step = [&](device::Arena& arena, device::Arena& gradients) {
    ops::Context context{*stream, arena, kernels::Compute::kF32};
    ops::Tape tape(*stream, gradients);
    for (const Tensor* leaf : {&in.keys, &in.values, &in.weights, &in.queries}) ASSERT_TRUE(tape.watch(*leaf).ok());
    auto tree = SoftBTree<float>::create({.value_width = kWidth, .tau = kTau}).value();
    const WrittenBatch batch = soft_write(context, tree, in.keys, in.values, in.weights, &tape).value();
    const TensorView reads = soft_read(context, tree.snapshot(), in.queries, {batch}, &tape).value();
    ASSERT_TRUE(tape.grad(reads).ok());
    ASSERT_TRUE(tape.backward().ok());
  };
  device::Arena planned = device::Arena::create_planning(), planned_gradients = device::Arena::create_planning();
  step(planned, planned_gradients);
  device::Arena arena = device::Arena::create({}, 1 << 20).value(),
                gradients = device::Arena::create({}, 1 << 20).value();
  step(arena, gradients);
  EXPECT_EQ(arena.peak_bytes(), planned.peak_bytes());
  EXPECT_EQ(gradients.peak_bytes(), planned_gradients.peak_bytes());
}

TEST(SoftMemory, BadArgumentsAreNamed) {
  Inputs in;
  Bench bench;
  const auto narrow = uniform({kEntries, kWidth + 1}, 5, 0, 1);
  EXPECT_EQ(soft_write(bench.context, bench.tree, in.keys, narrow, in.weights, nullptr).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(soft_write(bench.context, bench.tree, in.keys, in.values, in.weights, &bench.tape).code(),
            StatusCode::kInvalidArgument);  // not on the tape
  EXPECT_EQ(bench.tree.size(), 0);
  EXPECT_EQ(soft_read(bench.context, bench.tree.snapshot(), in.queries, {}, nullptr).code(), StatusCode::kNotFound);
  const WrittenBatch batch = soft_write(bench.context, bench.tree, in.keys, in.values, TensorView(), nullptr).value();
  const auto before = bench.tree.snapshot();
  const WrittenBatch late = soft_write(bench.context, bench.tree, in.keys, in.values, TensorView(), nullptr).value();
  EXPECT_EQ(soft_read(bench.context, before, in.queries, {batch, late}, nullptr).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::replay

// Layers to test, their inputs, and runs of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ops/attention_layer.h"
#include "unit/ops/attention_layer_reference.h"

namespace tandem::ops::testing {

using kernels::testing::as_real;
using kernels::testing::random_values;
using kernels::testing::view_of;
using tensor::Shape;

// Segments, as query_begin, query_count, prefix_begin, prefix_count, key_begin, key_count.
inline const std::vector<kernels::AttentionSegment> kOneSequence = {{0, 11, 0, 0, 0, 11}};
// Two sequences, a row of padding, and a prompt of 4 tokens with two answers.
inline const std::vector<kernels::AttentionSegment> kPacked = {
    {0, 3, 0, 0, 0, 3}, {3, 2, 0, 0, 3, 2}, {6, 4, 0, 0, 6, 4}, {10, 2, 6, 4, 10, 2}, {12, 3, 6, 4, 12, 3}};

inline LayerShape plain_shape() {
  return {.T = 11, .C = 13, .H = 2, .G = 2, .D = 8, .half = 4, .segments = kOneSequence};
}
inline LayerShape rich_shape(HeadNorms norms) {
  return {.T = 15,
          .C = 13,
          .H = 4,
          .G = 2,
          .D = 16,
          .half = 6,
          .segments = kPacked,
          .head_norms = norms,
          .biases = true,
          .sinks = true,
          .alpha = 0.7f,
          .offset = 1.0f};
}
inline std::vector<LayerShape> shapes() {
  std::vector<LayerShape> all = {plain_shape()};
  for (const HeadNorms norms : {HeadNorms::kNone, HeadNorms::kPerHead, HeadNorms::kWholeRow}) {
    all.push_back(rich_shape(norms));
  }
  all.push_back(rich_shape(HeadNorms::kPerHead));
  all.back().window.left = 2;
  all.back().softcap = 2.0f;
  all.push_back(rich_shape(HeadNorms::kWholeRow));
  all.back().input_norm = false;
  all.back().output_norm = true;
  return all;
}

// The inputs of a layer, and runs of it.
class Layer {
 public:
  explicit Layer(const LayerShape& shape) : s_(shape) {
    const std::size_t q = s_.H * s_.D, k = s_.G * s_.D;
    const bool whole = s_.head_norms == HeadNorms::kWholeRow;
    const std::size_t norms = s_.head_norms == HeadNorms::kNone ? 0 : 1;
    set("x", s_.T * s_.C);
    set("input_norm", s_.input_norm ? s_.C : 0);
    set("wq", q * s_.C);
    set("wk", k * s_.C);
    set("wv", k * s_.C);
    set("bq", s_.biases ? q : 0);
    set("bk", s_.biases ? k : 0);
    set("bv", s_.biases ? k : 0);
    set("q_norm", norms * (whole ? q : s_.D));
    set("k_norm", norms * (whole ? k : s_.D));
    set("sinks", s_.sinks ? s_.H : 0);
    set("wo", s_.C * q);
    set("bo", s_.biases ? s_.C : 0);
    set("output_norm", s_.output_norm ? s_.C : 0);
    dy_ = random_values(99, count(s_.T * s_.C));
    for (const float angle : random_values(98, count(s_.T * s_.half), 10.0f)) {
      cos_.push_back(std::cos(angle));
      sin_.push_back(std::sin(angle));
    }
  }

  template <class Real>
  LayerReference<Real> reference(const Named<Real>& values) const {
    return LayerReference<Real>(s_, values, as_real<Real>(cos_), as_real<Real>(sin_));
  }
  template <class Real>
  Named<Real> values() const {
    Named<Real> named;
    for (const auto& [name, floats] : in_) named[name] = as_real<Real>(floats);
    return named;
  }
  const std::vector<float>& dy() const { return dy_; }
  const LayerShape& shape() const { return s_; }

  TensorView x() const { return view("x", {count(s_.T), count(s_.C)}); }
  AttentionLayerWeights weights() const {
    const std::int64_t C = count(s_.C), q = count(s_.H * s_.D), k = count(s_.G * s_.D);
    return {row("input_norm"),
            {view("wq", {q, C}), view("wk", {k, C}), view("wv", {k, C}), row("bq"), row("bk"), row("bv")},
            row("q_norm"),
            row("k_norm"),
            row("sinks"),
            view("wo", {C, q}),
            row("bo"),
            row("output_norm")};
  }
  AttentionLayerConfig config() const {
    return {count(s_.H), count(s_.G), count(s_.D), {s_.eps, s_.offset}, {s_.scale, s_.softcap, true}, s_.alpha};
  }
  RopeTable table() const {
    const Shape shape{count(s_.T), count(s_.half)};
    return {view_of(cos_, shape), view_of(sin_, shape)};
  }
  kernels::FusedAttentionPlan plan() const {
    const kernels::AttentionShape shape{count(s_.T), count(s_.T), count(s_.H), count(s_.G), count(s_.D)};
    return kernels::FusedAttentionPlan::create(s_.segments, s_.window, shape, kernels::AttentionPath::kCpu).value();
  }
  TensorView named(const std::string& name) const { return row(name); }
  const std::map<std::string, std::vector<float>>& inputs() const { return in_; }

 private:
  static std::int64_t count(std::size_t n) { return static_cast<std::int64_t>(n); }
  void set(const std::string& name, std::size_t size) {
    in_[name] = random_values(in_.size() + 1, count(size), name[0] == 'w' ? 0.4f : 1.0f);
  }
  TensorView view(const std::string& name, const Shape& shape) const { return view_of(in_.at(name), shape); }
  TensorView row(const std::string& name) const {
    const std::vector<float>& values = in_.at(name);
    return values.empty() ? TensorView() : view_of(values, {count(values.size())});
  }

  LayerShape s_;
  std::map<std::string, std::vector<float>> in_;
  std::vector<float> dy_, cos_, sin_;
};

// Memory that holds NaN: whoever reads what was not written is found out.
inline device::Arena poisoned_arena() {
  constexpr std::size_t kBytes = 16 << 20;
  device::Arena arena = device::Arena::create({}, kBytes).value();
  {
    const device::Arena::Scope scope(arena);
    std::memset(arena.take(kBytes), 0xff, kBytes);
  }
  return arena;
}

// What a forward and a backward need around them.
struct Bench {
  explicit Bench(int threads)
      : stream(device::Stream::create_cpu(threads)), context{*stream, arena, kernels::Compute::kF32} {}
  std::unique_ptr<device::Stream> stream;
  device::Arena arena = poisoned_arena(), gradients = poisoned_arena();
  Context context;
  Tape tape{*stream, gradients};
};

inline std::vector<float> values_of(const TensorView& view) {
  const float* const data = view.as<float>();
  return {data, data + view.count()};
}

struct LayerRun {
  std::vector<float> y;
  Named<float> gradients;
};

inline LayerRun run(const Layer& layer, int threads, int times = 1) {
  Bench bench(threads);
  const auto plan = layer.plan();
  LayerRun result;
  EXPECT_TRUE(bench.tape.watch(layer.x()).ok());
  EXPECT_TRUE(watch(bench.tape, layer.weights()).ok());
  for (int i = 0; i < times; ++i) {
    const device::Arena::Scope scope(bench.arena);
    const auto y =
        attention_layer(bench.context, layer.x(), layer.weights(), layer.config(), layer.table(), plan, &bench.tape);
    EXPECT_TRUE(y.ok()) << y.status().to_string();
    result.y = values_of(*y);
    const auto dy = bench.tape.grad(*y);
    std::copy(layer.dy().begin(), layer.dy().end(), dy->as<float>());
    const Status status = bench.tape.backward();
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  for (const auto& [name, values] : layer.inputs()) {
    if (values.empty()) continue;
    result.gradients[name] = values_of(*bench.tape.grad(layer.named(name)));
  }
  return result;
}

}  // namespace tandem::ops::testing

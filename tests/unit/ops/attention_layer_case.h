// Layers to test, their inputs, and runs of them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ops/attention_layer.h"
#include "unit/ops/attention_layer_reference.h"
#include "unit/ops/on_device.h"

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

// Large enough for several of CUDA's tiles.
inline LayerShape large_shape(HeadNorms norms, std::size_t D) {
  LayerShape shape = rich_shape(norms);
  shape.T = 300;
  shape.C = 264;
  shape.D = D;
  shape.half = D / 2;
  shape.scale = 0.02f;
  shape.segments = {
      {0, 130, 0, 0, 0, 130}, {131, 70, 0, 0, 131, 70}, {201, 40, 131, 70, 201, 40}, {241, 59, 131, 70, 241, 59}};
  return shape;
}

// The inputs of a layer, and runs of it. `rounds_weights`: those of products are bf16's values.
class Layer {
 public:
  explicit Layer(const LayerShape& shape, bool rounds_weights = false) : s_(shape) {
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
    if (!rounds_weights) return;
    for (const char* name : {"wq", "wk", "wv", "wo"}) {
      for (float& value : in_[name]) value = kernels::testing::rounded_to_bf16(value);
    }
  }

  // Its values, of as many rows as this has.
  void take_first_rows_of(const Layer& other) {
    const auto rows = [](std::vector<float>& own, const std::vector<float>& more) {
      own.assign(more.begin(), more.begin() + static_cast<std::ptrdiff_t>(own.size()));
    };
    for (auto& [name, values] : in_) rows(values, other.in_.at(name));
    rows(dy_, other.dy_);
    rows(cos_, other.cos_);
    rows(sin_, other.sin_);
  }

  template <class Real>
  LayerReference<Real> reference(const Named<Real>& values, bool rounds = false) const {
    return LayerReference<Real>(s_, values, as_real<Real>(cos_), as_real<Real>(sin_), rounds);
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
  kernels::FusedAttentionPlan plan(device::Device device = kCpuDevice) const {
    const kernels::AttentionShape shape{count(s_.T), count(s_.T), count(s_.H), count(s_.G), count(s_.D)};
    return kernels::FusedAttentionPlan::create(s_.segments, s_.window, shape, kernels::attention_path(device).value())
        .value();
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

// What a forward and a backward need around them.
struct Bench {
  explicit Bench(int threads, device::Device device = kCpuDevice)
      : place(device, threads),
        context{place.stream(), arena, place.is_cuda() ? kernels::Compute::kBf16 : kernels::Compute::kF32} {}
  OnDevice place;
  device::Arena arena = place.poisoned_arena(), gradients = place.poisoned_arena();
  Context context;
  Tape tape{place.stream(), gradients};
};

// A layer's inputs on a bench's device; weights of products bf16 on CUDA. `joined`: those of q, k and v one after
// another, as a checkpoint's are laid.
struct PlacedLayer {
  PlacedLayer(const Layer& layer, Bench& bench, bool joined = false) {
    const auto put = [&](const std::string& name, const Shape& shape, bool is_factor) {
      if (layer.inputs().at(name).empty()) return;
      named[name] = bench.place.put(layer.inputs().at(name), shape,
                                    is_factor && bench.place.is_cuda() ? DType::kBf16 : DType::kF32);
    };
    const AttentionLayerWeights host = layer.weights();
    put("x", layer.x().shape(), false);
    for (const auto& [name, view] :
         {std::pair{"wq", host.qkv.q}, {"wk", host.qkv.k}, {"wv", host.qkv.v}, {"wo", host.o}}) {
      put(name, view.shape(), true);
    }
    if (joined) {
      std::vector<float> all;
      for (const char* name : {"wq", "wk", "wv"}) {
        all.insert(all.end(), layer.inputs().at(name).begin(), layer.inputs().at(name).end());
      }
      const std::int64_t C = host.qkv.q.extent(1), rows = static_cast<std::int64_t>(all.size()) / C;
      const std::int64_t q = host.qkv.q.extent(0), k = q + host.qkv.k.extent(0);
      kept_.push_back(std::move(all));
      const TensorView whole =
          bench.place.put(kept_.back(), {rows, C}, bench.place.is_cuda() ? DType::kBf16 : DType::kF32);
      named["wq"] = whole.rows(0, q);
      named["wk"] = whole.rows(q, k);
      named["wv"] = whole.rows(k, rows);
    }
    for (const char* name : {"input_norm", "bq", "bk", "bv", "q_norm", "k_norm", "sinks", "bo", "output_norm"}) {
      put(name, {static_cast<std::int64_t>(layer.inputs().at(name).size())}, false);
    }
    x = named["x"];
    weights = {named["input_norm"], {named["wq"], named["wk"], named["wv"], named["bq"], named["bk"], named["bv"]},
               named["q_norm"],     named["k_norm"],
               named["sinks"],      named["wo"],
               named["bo"],         named["output_norm"]};
    const RopeTable angles = layer.table();
    table = {bench.place.put(values(angles.cos), angles.cos.shape()),
             bench.place.put(values(angles.sin), angles.sin.shape())};
  }
  std::map<std::string, TensorView> named;
  TensorView x;
  AttentionLayerWeights weights;
  RopeTable table;

 private:
  // Kept, as put() may give the values themselves.
  const std::vector<float>& values(const TensorView& view) {
    kept_.emplace_back(view.as<float>(), view.as<float>() + view.count());
    return kept_.back();
  }
  std::list<std::vector<float>> kept_;
};

inline std::vector<float> values_of(const TensorView& view) {
  const float* const data = view.as<float>();
  return {data, data + view.count()};
}

struct LayerRun {
  std::vector<float> y;
  Named<float> gradients;
};

inline LayerRun run(const Layer& layer, int threads, int times = 1, device::Device device = kCpuDevice,
                    bool joined = false) {
  Bench bench(threads, device);
  const PlacedLayer placed(layer, bench, joined);
  const auto plan = layer.plan(device);
  const PlacedPlan placed_plan = place(bench.context, plan).value();
  LayerRun result;
  EXPECT_TRUE(bench.tape.watch(placed.x).ok());
  EXPECT_TRUE(watch(bench.tape, placed.weights).ok());
  for (int i = 0; i < times; ++i) {
    const device::Arena::Scope scope(bench.arena);
    const auto y = attention_layer(bench.context, placed.x, placed.weights, layer.config(), placed.table, placed_plan,
                                   &bench.tape);
    EXPECT_TRUE(y.ok()) << y.status().to_string();
    if (!y.ok()) return result;
    result.y = bench.place.get(*y);
    bench.place.set(*bench.tape.grad(*y), layer.dy());
    const Status status = bench.tape.backward();
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  for (const auto& [name, view] : placed.named) {
    if (view) result.gradients[name] = bench.place.get(*bench.tape.grad(view));
  }
  return result;
}

}  // namespace tandem::ops::testing

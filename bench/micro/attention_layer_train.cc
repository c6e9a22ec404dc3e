// Times an attention layer's forward with a tape and its backward, on CUDA: rms_norm, projections, rotation, attention,
// output projection and residual, of the shape of Llama-3-8B, and the gradients of x and of every weight. Also a linear
// layer's backward by itself. One JSON line each; medians.
//
//   bench_attention_layer_train [--smoke] [--qk-norm] [--segments N] [--repeats N] [--linear]
//
// Floor: flops over the dense bf16 peak. Flops: 2 T N K of each product, three products a projection (forward, dx, dW);
// attention's 4 D of each visible pair and head, and 2.5 times that backward (its products; scores made again).
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "bench/micro/cuda_timer.h"
#include "device/memory.h"
#include "kernels/linear/linear_backward.h"
#include "kernels/linear/many_rows_sm90.h"
#include "ops/attention_layer.h"
#include "tensor/dtype.h"

namespace tandem::ops {
namespace {

using tensor::DType;
using tensor::Shape;
using namespace bench;

constexpr double kPeakFlops = 989.4e12;  // dense bf16 of an H100 or H200 SXM

struct Options {
  std::int64_t T = 4096, C = 4096, H = 32, G = 8, D = 128, segments = 4;
  int repeats = 20;
  bool qk_norm = false, linear = false;
};

// Tensors of random values in [-range, range), which live as long as this.
class Tensors {
 public:
  explicit Tensors(device::Stream& stream) : stream_(stream) {}
  TensorView random(DType dtype, const Shape& shape, float range) {
    const auto count = static_cast<std::size_t>(shape.count());
    const std::size_t bytes = count * static_cast<std::size_t>(tensor::dtype_bytes(dtype));
    std::vector<float> values(count);
    std::uint64_t state = 88172645463325252 + memories_.size();
    for (float& value : values) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      value = (static_cast<float>(state >> 40) * 0x1p-23f - 1.0f) * range;
    }
    std::vector<std::uint16_t> halves(dtype == DType::kBf16 ? count : 0);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = tensor::bf16_from_f32(values[i]);
    memories_.push_back(require(device::Memory::create(kCuda, bytes)));
    const void* const from = dtype == DType::kBf16 ? static_cast<const void*>(halves.data()) : values.data();
    require(device::copy(memories_.back().data(), from, bytes, stream_));
    require(stream_.synchronize());
    return TensorView(memories_.back().data(), dtype, shape, kCuda);
  }

 private:
  device::Stream& stream_;
  std::list<device::Memory> memories_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(const char* what, const Options& o, double us, double flops) {
  fmt::print(
      "{{\"op\": \"{}\", \"T\": {}, \"C\": {}, \"H\": {}, \"G\": {}, \"D\": {}, \"segments\": {}, \"qk_norm\": {}, "
      "\"us\": {:.1f}, \"tflops\": {:.1f}, \"floor_us\": {:.1f}, \"of_floor\": {:.3f}}}\n",
      what, o.T, o.C, o.H, o.G, o.D, o.segments, static_cast<int>(o.qk_norm), us, flops / us * 1e-6,
      flops / kPeakFlops * 1e6, flops / kPeakFlops * 1e6 / us);
  std::fflush(stdout);
}

void time_layer(const Options& o, device::Stream& stream) {
  Tensors tensors(stream);
  const std::int64_t q = o.H * o.D, k = o.G * o.D;
  AttentionLayerWeights weights;
  weights.input_norm = tensors.random(DType::kF32, {o.C}, 1.0f);
  const TensorView qkv = tensors.random(DType::kBf16, {q + 2 * k, o.C}, 0x1p-5f);
  // Buffers of their own, as the tape wants them, one after another, as the loader lays them.
  weights.qkv = {qkv.rows(0, q), qkv.rows(q, q + k), qkv.rows(q + k, q + 2 * k), {}, {}, {}};
  if (o.qk_norm) {
    weights.q_norm = tensors.random(DType::kF32, {o.D}, 1.0f);
    weights.k_norm = tensors.random(DType::kF32, {o.D}, 1.0f);
  }
  weights.o = tensors.random(DType::kBf16, {o.C, q}, 0x1p-5f);
  const TensorView x = tensors.random(DType::kF32, {o.T, o.C}, 1.0f);
  const TensorView dy = tensors.random(DType::kF32, {o.T, o.C}, 1.0f);
  const RopeTable table{tensors.random(DType::kF32, {o.T, o.D / 2}, 1.0f),
                        tensors.random(DType::kF32, {o.T, o.D / 2}, 1.0f)};
  const AttentionLayerConfig config{o.H, o.G, o.D, {1e-5f, 0.0f}, {.scale = 0.088f}, 1.0f};
  std::vector<kernels::AttentionSegment> segments;
  for (std::int64_t i = 0; i < o.segments; ++i) {
    const auto begin = static_cast<std::int32_t>(o.T * i / o.segments);
    const auto count = static_cast<std::int32_t>(o.T * (i + 1) / o.segments) - begin;
    segments.push_back({begin, count, 0, 0, begin, count});
  }
  const auto plan = require(kernels::FusedAttentionPlan::create(segments, {.right = 0}, {o.T, o.T, o.H, o.G, o.D},
                                                                require(kernels::attention_path(kCuda))));

  device::Arena planning = device::Arena::create_planning(), planning_gradients = device::Arena::create_planning();
  device::Event begin = require(device::Event::create(kCuda, true)),
                middle = require(device::Event::create(kCuda, true)),
                seeded = require(device::Event::create(kCuda, true)), end = require(device::Event::create(kCuda, true));
  const auto step = [&](Context& context, Tape& tape, const PlacedPlan& placed) {
    const bool runs = !context.arena.is_planning();
    const device::Arena::Scope scope(context.arena);
    if (runs) require(begin.record(stream));
    const TensorView y = require(attention_layer(context, x, weights, config, table, placed, &tape));
    if (runs) require(middle.record(stream));
    const TensorView seed = require(tape.grad(y));
    if (runs) require(device::copy(seed.data(), dy.data(), static_cast<std::size_t>(dy.bytes()), stream));
    if (runs) require(seeded.record(stream));  // a loss would have written it
    require(tape.backward());
    if (runs) require(end.record(stream));
  };
  const auto prepare = [&](Context& context, Tape& tape) {
    require(tape.watch(x));
    require(watch(tape, weights));
    return require(place(context, plan));
  };
  {
    Context context{stream, planning, kernels::Compute::kBf16};
    Tape tape(stream, planning_gradients);
    step(context, tape, prepare(context, tape));
  }
  device::Arena arena = require(device::Arena::create(kCuda, planning.peak_bytes()));
  device::Arena gradients = require(device::Arena::create(kCuda, planning_gradients.peak_bytes()));
  Context context{stream, arena, kernels::Compute::kBf16};
  Tape tape(stream, gradients);
  const PlacedPlan placed = prepare(context, tape);
  std::vector<double> forward, backward, both;
  for (int i = -3; i < o.repeats; ++i) {
    step(context, tape, placed);
    require(end.wait());
    if (i < 0) continue;
    forward.push_back(require(device::Event::microseconds_between(begin, middle)));
    backward.push_back(require(device::Event::microseconds_between(seeded, end)));
    both.push_back(forward.back() + backward.back());
  }
  const double products = 2.0 * static_cast<double>(o.T * o.C * (2 * q + 2 * k));
  const double attention = 4.0 * static_cast<double>(plan.visible_pairs * o.H * o.D);
  print("attention_layer_forward", o, median(forward), products + attention);
  print("attention_layer_backward", o, median(backward), 2.0 * products + 2.5 * attention);
  print("attention_layer_train", o, median(both), 3.0 * products + 3.5 * attention);
  fmt::print("{{\"op\": \"attention_layer_memory\", \"activations_bytes\": {}, \"gradients_bytes\": {}}}\n",
             planning.peak_bytes(), planning_gradients.peak_bytes());
}

// dx and dW of one projection, from f32 dy and bf16 x.
void time_linear(const Options& o, std::int64_t K, std::int64_t N, device::Stream& stream) {
  Tensors tensors(stream);
  const TensorView x = tensors.random(DType::kBf16, {o.T, K}, 1.0f), dy = tensors.random(DType::kF32, {o.T, N}, 1.0f);
  const TensorView weight = tensors.random(DType::kBf16, {N, K}, 0x1p-5f);
  const TensorView dx = tensors.random(DType::kF32, {o.T, K}, 1.0f), dw = tensors.random(DType::kF32, {N, K}, 1.0f);
  const auto scratch = require(
      device::Memory::create(kCuda, kernels::linear_backward_cuda_scratch_bytes(o.T, weight, kernels::Compute::kBf16)));
  device::Event begin = require(device::Event::create(kCuda, true)), end = require(device::Event::create(kCuda, true));
  const auto time_calls = [&](const std::string& what, double products, const auto& queue) {
    std::vector<double> us;
    for (int i = -3; i < o.repeats; ++i) {
      require(begin.record(stream));
      require(queue());
      require(end.record(stream));
      require(end.wait());
      if (i >= 0) us.push_back(require(device::Event::microseconds_between(begin, end)));
    }
    const double flops = products * 2.0 * static_cast<double>(o.T * K * N), took = median(us);
    fmt::print(
        "{{\"op\": \"{}\", \"T\": {}, \"K\": {}, \"N\": {}, \"us\": {:.1f}, \"tflops\": {:.1f}, \"of_floor\": "
        "{:.3f}}}\n",
        what, o.T, K, N, took, flops / took * 1e-6, flops / kPeakFlops * 1e6 / took);
  };
  const auto time = [&](const char* what, const kernels::LinearGradients& wanted, double products) {
    time_calls(what, products, [&] {
      return kernels::linear_backward_cuda(x, weight, 1.0f, dy, wanted, kernels::Compute::kBf16, scratch.span(),
                                           stream);
    });
  };
  const TensorView dy_rounded = tensors.random(DType::kBf16, {o.T, N}, 1.0f);
  const auto time_product = [&](const char* what, kernels::LinearCall call, const TensorView& to) {
    call.x_is_bf16 = call.weight_is_turned = true;
    call.x = dy_rounded.data(), call.x_stride = N, call.weight_stride = K;
    call.y = to.data(), call.y_stride = K;
    call.residual = to.as<float>(), call.residual_stride = K;
    const auto tiles = kernels::many_rows_turned_tiles();
    for (int tile = 0; tile < static_cast<int>(tiles.size()); ++tile) {
      for (const int band : {4, 8, 16}) {
        const kernels::ManyRowsTile& shape = tiles[static_cast<std::size_t>(tile)];
        time_calls(fmt::format("{}_{}x{}_band{}", what, shape.rows, shape.columns, band), 1.0, [&] {
          return kernels::linear_many_rows_turned_sm90_as(call, {.tile = tile, .band = band}, stream);
        });
      }
    }
  };
  time_product("dx", {.T = o.T, .K = N, .N = K, .weight = weight.data()}, dx);
  time_product("dweight", {.T = N, .K = o.T, .N = K, .weight = x.data(), .x_is_turned = true}, dw);
  time("linear_backward_dx", {.dx = dx}, 1.0);
  time("linear_backward_dweight", {.dweight = dw}, 1.0);
  time("linear_backward", {.dx = dx, .dweight = dw}, 2.0);
}

int run(int count, char** arguments) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i], value = i + 1 < count ? arguments[i + 1] : "";
    if (name == "--smoke") o = {512, 512, 8, 2, 64, 3, 3, true, true};
    if (name == "--qk-norm") o.qk_norm = true;
    if (name == "--linear") o.linear = true;
    if (name == "--segments") o.segments = std::stoll(value);
    if (name == "--repeats") o.repeats = std::stoi(value);
  }
  if (device::cuda_devices().empty()) {
    fmt::print("no CUDA device\n");
    return 0;
  }
  const auto stream = require(device::Stream::create_cuda(0));
  if (o.linear) {
    const std::int64_t q = o.H * o.D, k = o.G * o.D;
    for (const auto& [K, N] : {std::pair{o.C, q + 2 * k}, {q, o.C}, {o.C, k}}) time_linear(o, K, N, *stream);
  }
  time_layer(o, *stream);
  return 0;
}

}  // namespace
}  // namespace tandem::ops

int main(int count, char** arguments) { return tandem::ops::run(count, arguments); }

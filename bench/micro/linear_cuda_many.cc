// Linear layers of many rows on a GPU, one JSON line each: linear_many_rows_sm90() alone, without what chooses it.
//
//   bench_linear_cuda_many [--smoke] [--list] [--only NAME|,T|NAME,T] [--T A,B] [--tiles I,J] [--bands G,H] [--repeats
//   N] [--step]
//
// --T: a model's layers at these rows, instead of all cases.
// --step: with --T, a model's layers in turn as a CUDA graph, without the head (--tiles: one for each).
// Before each call, but with --step, the L2 cache is overwritten, which also keeps the GPU busy until the call is
// queued. Random values; median and 95th percentile of the calls. bench/micro/linear_cuda_many.py measures cuBLAS the
// same way beside it.
#ifdef TANDEM_WITH_CUDA
#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bench/micro/cuda_timer.h"
#include "device/memory.h"
#include "kernels/linear/many_rows_sm90.h"
#include "tensor/dtype.h"

namespace tandem::kernels {
namespace {

using namespace bench;

constexpr double kPeakFlops = 989.4e12;  // dense bf16 of an H100 or H200 SXM

struct Layer {
  const char* name;
  std::int64_t K, N;
  bool is_gated, has_residual, y_is_bf16;
  std::int64_t X = 1;  // experts
};
// Of Llama-3-8B, squares, and the experts of Mixtral-8x7B and Qwen3-30B-A3B (T is tokens times experts of each).
constexpr Layer kLayers[] = {
    {"qkv", 4096, 6144, false, false, false},    {"o", 4096, 4096, false, true, false},
    {"gate_up", 4096, 14336, true, false, true}, {"down", 14336, 4096, false, true, false},
    {"head", 4096, 128256, false, false, false},
};
struct Case {
  Layer layer;
  std::int64_t T;
};
std::vector<Case> cases(bool smoke, const std::vector<int>& rows) {
  if (smoke) return {{{"square", 512, 512, false, false, true}, 512}};
  std::vector<Case> all;
  for (const std::int64_t T : rows.empty() ? std::vector{4096, 512, 256, 128, 64} : rows) {
    for (const Layer& layer : kLayers) all.push_back({layer, T});
  }
  if (!rows.empty()) return all;
  for (const std::int64_t n : {4096, 8192}) all.push_back({{"square", n, n, false, false, true}, n});
  for (const std::int64_t T : {8192, 1024}) {
    all.push_back({{"moe8_up", 4096, 14336, true, false, true, 8}, T});
    all.push_back({{"moe8_down", 14336, 4096, false, false, true, 8}, T});
  }
  for (const std::int64_t T : {32768, 4096}) {
    all.push_back({{"moe128_up", 2048, 768, true, false, true, 128}, T});
    all.push_back({{"moe128_down", 768, 2048, false, false, true, 128}, T});
  }
  return all;
}

// Values in [-1, 1), or of weights in [-1/32, 1/32): the same 16 MiB of them over and over.
device::Memory random_memory(std::int64_t count, bool is_bf16, device::Stream& stream, float range = 1.0f) {
  const std::size_t bytes = static_cast<std::size_t>(count) * (is_bf16 ? 2 : 4);
  device::Memory memory = require(device::Memory::create(kCuda, bytes));
  static const auto values = [] {
    std::pair<std::vector<std::uint16_t>, std::vector<float>> all;
    std::uint64_t state = 88172645463325252;
    for (int i = 0; i < 8 << 20; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      const float value = static_cast<float>(state >> 40) * 0x1p-23f - 1.0f;
      all.first.push_back(tensor::bf16_from_f32(value));
      if (i < 4 << 20) all.second.push_back(value);
    }
    return all;
  }();
  constexpr std::size_t kPiece = 16 << 20;
  std::vector<std::uint16_t> halves = values.first;
  if (range != 1.0f) {
    for (auto& half : halves) half = tensor::bf16_from_f32(tensor::f32_from_bf16(half) * range);
  }
  const void* from = is_bf16 ? static_cast<const void*>(halves.data()) : values.second.data();
  for (std::size_t at = 0; at < bytes; at += kPiece) {
    require(device::copy(static_cast<std::byte*>(memory.data()) + at, from, std::min(kPiece, bytes - at), stream));
  }
  require(stream.synchronize());
  return memory;
}

class Bench {
 public:
  Bench(const Case& c, device::Stream& stream)
      : case_(c),
        x_(random_memory(c.T * c.layer.K, true, stream)),
        weight_(random_memory(c.layer.X * c.layer.N * c.layer.K, true, stream, 0x1p-5f)),
        up_(random_memory(c.layer.is_gated ? c.layer.X * c.layer.N * c.layer.K : 1, true, stream, 0x1p-5f)),
        y_(random_memory(c.T * c.layer.N, c.layer.y_is_bf16, stream)) {
    const Layer& layer = c.layer;
    call_.T = c.T, call_.K = layer.K, call_.N = layer.N;
    call_.x = x_.data(), call_.x_is_bf16 = true, call_.x_stride = layer.K;
    call_.weight = weight_.data(), call_.weight_stride = layer.K;
    if (layer.is_gated) call_.up = up_.data(), call_.up_stride = layer.K;
    call_.y = y_.data(), call_.y_is_bf16 = layer.y_is_bf16, call_.y_stride = layer.N;
    if (layer.has_residual) call_.residual = static_cast<const float*>(call_.y), call_.residual_stride = layer.N;
    // Shares between 1/2 and 3/2 of the average.
    std::vector<double> ends{0.0};
    for (std::int64_t e = 0; e < layer.X; ++e) {
      ends.push_back(ends.back() + 0.5 + static_cast<double>(e * 2654435761 % 1000) / 1000.0);
    }
    std::vector<std::int32_t> offsets;
    for (const double end : ends) {
      offsets.push_back(static_cast<std::int32_t>(end / ends.back() * static_cast<double>(c.T)));
    }
    offsets_ = require(device::Memory::create(kCuda, offsets.size() * sizeof(std::int32_t)));
    require(device::copy(offsets_.data(), offsets.data(), offsets_.bytes(), stream));
    require(stream.synchronize());
    if (layer.X > 1) {
      call_.offsets = static_cast<const std::int32_t*>(offsets_.data());
      call_.groups = layer.X;
      call_.group_stride = layer.N * layer.K;
    }
  }

  void run(const ManyRowsOrder& order, int repeats, const device::Memory& flush, device::Stream& stream) {
    std::vector<cudaEvent_t> events(static_cast<std::size_t>(2 * repeats));
    for (auto& event : events) cudaEventCreate(&event);
    const int warm = std::max(3, repeats / 4);
    for (int i = -warm; i < repeats; ++i) {
      cudaMemsetAsync(flush.data(), i & 0xff, flush.bytes(), stream.cuda());
      if (i >= 0) cudaEventRecord(events[static_cast<std::size_t>(2 * i)], stream.cuda());
      require(linear_many_rows_sm90_as(call_, order, stream));
      if (i >= 0) cudaEventRecord(events[static_cast<std::size_t>(2 * i + 1)], stream.cuda());
    }
    require(stream.synchronize());
    std::vector<float> us;
    for (int i = 0; i < repeats; ++i) {
      float ms = 0.0f;
      cudaEventElapsedTime(&ms, events[static_cast<std::size_t>(2 * i)], events[static_cast<std::size_t>(2 * i + 1)]);
      us.push_back(ms * 1e3f);
    }
    for (auto& event : events) cudaEventDestroy(event);
    std::sort(us.begin(), us.end());
    const auto& [layer, T] = case_;
    const double median = us[us.size() / 2], p95 = us[us.size() * 95 / 100];
    const double flops = 2.0 * static_cast<double>(T * layer.K * layer.N) * (layer.is_gated ? 2 : 1);
    const ManyRowsTile tile = many_rows_tiles()[static_cast<std::size_t>(order.tile)];
    std::printf(
        "{\"op\": \"%s\", \"T\": %ld, \"K\": %ld, \"N\": %ld, \"X\": %ld, \"gated\": %d, \"residual\": %d, \"bf16\": "
        "%d, \"tile\": "
        "\"%s\", \"index\": %d, \"band\": %d, \"us\": %.2f, \"us_p95\": %.2f, \"tflops\": "
        "%.1f, \"of_peak\": %.3f}\n",
        layer.name, T, layer.K, layer.N, layer.X, layer.is_gated, layer.has_residual, layer.y_is_bf16,
        tile.name().c_str(), order.tile, order.band, median, p95, flops / median * 1e-6,
        flops / median * 1e6 / kPeakFlops);
    std::fflush(stdout);
  }
  Status queue(const ManyRowsOrder& order, device::Stream& stream) {
    return linear_many_rows_sm90_as(call_, order, stream);
  }
  int chosen() const {
    return many_rows_tile_for(case_.T, case_.layer.K, case_.layer.N, case_.layer.is_gated,
                              require(device::cuda_multiprocessors(0)), case_.layer.X > 1 ? case_.layer.X : 0);
  }

 private:
  Case case_;
  device::Memory x_, weight_, up_, y_, offsets_;
  LinearCall call_;
};

std::vector<int> numbers(const std::string& text) {
  std::vector<int> all;
  std::stringstream stream(text);
  for (std::string piece; std::getline(stream, piece, ',');) all.push_back(std::stoi(piece));
  return all;
}

// A model's layers in turn, 32 times; microseconds of one time. `tiles`: of each, or none.
void run_step(std::int64_t T, std::vector<int> tiles, int repeats, device::Stream& stream) {
  constexpr int kTimes = 32;
  std::vector<std::unique_ptr<Bench>> layers;
  for (const Layer& layer : std::span(kLayers).first<4>()) {
    layers.push_back(std::make_unique<Bench>(Case{layer, T}, stream));
    if (tiles.size() < layers.size()) tiles.push_back(layers.back()->chosen());
  }
  const device::Graph graph = require(device::Graph::capture(stream, [&]() -> Status {
    for (std::size_t i = 0; i < kTimes * layers.size(); ++i) {
      TD_TRY(layers[i % layers.size()]->queue({.tile = tiles[i % layers.size()]}, stream));
    }
    return ok_status();
  }));
  const auto times =
      CudaTimer(stream).time({.repeats = repeats, .overwrites_l2_cache = false}, [&] { return graph.launch(stream); });
  std::string names;
  for (const int index : tiles) {
    if (!names.empty()) names += ' ';
    names += many_rows_tiles()[static_cast<std::size_t>(index)].name();
  }
  std::printf("{\"op\": \"step\", \"T\": %ld, \"tiles\": \"%s\", \"us\": %.2f, \"us_p95\": %.2f}\n", T, names.c_str(),
              times.median / kTimes, times.p95 / kTimes);
  std::fflush(stdout);
}

int run(int count, char** arguments) {
  bool smoke = false, list = false, step = false;
  std::string only, tiles;
  std::vector<int> rows, bands{ManyRowsOrder{}.band};
  int repeats = 30;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i], value = i + 1 < count ? arguments[i + 1] : "";
    if (name == "--smoke") smoke = true;
    if (name == "--list") list = true;
    if (name == "--step") step = true;
    if (name == "--only") only = value;
    if (name == "--T") rows = numbers(value);
    if (name == "--tiles") tiles = value;
    if (name == "--bands") bands = numbers(value);
    if (name == "--repeats") repeats = std::stoi(value);
  }
  if (step && (list || rows.empty())) return std::puts("--step: with --T, without --list"), 1;
  if (device::cuda_devices().empty() && !list) return std::puts("no CUDA device"), 0;
  std::unique_ptr<device::Stream> stream;
  device::Memory flush;
  if (!list) {
    stream = require(device::Stream::create_cuda(0));
    flush = require(device::Memory::create(kCuda, 256 << 20));
  }
  if (step) {
    for (const int T : rows) run_step(T, numbers(tiles), repeats, *stream);
    return 0;
  }
  for (const Case& c : cases(smoke, rows)) {
    const std::string name = c.layer.name, comma_T = "," + std::to_string(c.T);
    if (!only.empty() && only != name && only != comma_T && only != name + comma_T) continue;
    if (list) {
      std::puts((name + comma_T).c_str());
      continue;
    }
    Bench bench(c, *stream);
    const std::vector<int> chosen = tiles.empty() ? std::vector{bench.chosen()} : numbers(tiles);
    for (const int tile : chosen) {
      for (const int band : bands) bench.run({.tile = tile, .band = band}, repeats, flush, *stream);
    }
  }
  return 0;
}

}  // namespace
}  // namespace tandem::kernels

int main(int count, char** arguments) { return tandem::kernels::run(count, arguments); }
#else
#include <cstdio>
int main() { std::puts("built without CUDA"); }
#endif

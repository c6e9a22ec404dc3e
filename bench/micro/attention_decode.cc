// Times paged attention on CUDA: bytes of keys and values a second where a step decodes, FLOP/s of visible pairs where
// it brings a chunk of a prompt, each with the fraction of what the card's memory or tensor cores give. Pages in random
// order, bf16 or e4m3, L2 overwritten before each call, medians. One JSON line a case.
//   bench_attention_decode              a fixed list
//   bench_attention_decode CASE...      B,queries,context,H,G,D,P[,window[,bytes of an element: 2 or 1]]
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "bench/micro/cuda_timer.h"
#include "device/device.h"
#include "device/memory.h"
#include "kernels/attention/attention.h"

namespace tandem {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;
using namespace bench;

struct Case {
  std::int64_t B, queries, context, H, G, D, P, window, element_bytes = 2;
};

class Buffer {
 public:
  explicit Buffer(std::int64_t bytes)
      : memory_(std::move(device::Memory::create(kCuda, static_cast<std::size_t>(bytes))).value()) {}
  template <class T>
  Buffer(const std::vector<T>& values, device::Stream& stream)
      : Buffer(static_cast<std::int64_t>(values.size() * sizeof(T))) {
    require(device::copy(memory_.data(), values.data(), values.size() * sizeof(T), stream));
    require(stream.synchronize());
  }
  // Sums of four uniform numbers, over and over.
  template <class Bits>
  void fill_with(Bits (*narrow)(float), device::Stream& stream) {
    static const std::vector<Bits> values = [narrow] {
      std::vector<Bits> bits(std::size_t{1} << 22);
      for (std::size_t i = 0; i < bits.size(); ++i) {
        const auto words = philox({.seed = 1}, i);
        double sum = 0.0;
        for (const auto word : words) sum += static_cast<double>(word) / 4294967296.0 - 0.5;
        bits[i] = narrow(static_cast<float>(sum * 1.73));
      }
      return bits;
    }();
    const std::size_t part = values.size() * sizeof(Bits);
    for (std::size_t at = 0; at < memory_.bytes(); at += part) {
      require(device::copy(static_cast<std::byte*>(memory_.data()) + at, values.data(),
                           std::min(part, memory_.bytes() - at), stream));
    }
    require(stream.synchronize());
  }
  void fill(DType dtype, device::Stream& stream) {
    if (dtype == DType::kBf16) return fill_with(tensor::bf16_from_f32, stream);
    fill_with(tensor::f8e4m3_from_f32, stream);
  }
  TensorView view(DType dtype, const Shape& shape) const { return TensorView(memory_.data(), dtype, shape, kCuda); }
  device::Memory& memory() { return memory_; }

 private:
  device::Memory memory_;
};

void measure(const Case& c, CudaTimer& timer, device::Stream& stream) {
  const std::int64_t blocks_each = (c.context + c.P - 1) / c.P, blocks = c.B * blocks_each, T = c.B * c.queries;
  const DType dtype = c.element_bytes == 2 ? DType::kBf16 : DType::kF8E4m3;
  const std::int64_t cache_bytes = blocks * c.G * c.P * c.D * c.element_bytes;
  Buffer k(cache_bytes), v(cache_bytes), q(T * c.H * c.D * 2), out(T * c.H * c.D * 2);
  for (Buffer* buffer : {&k, &v}) buffer->fill(dtype, stream);
  q.fill(DType::kBf16, stream);
  std::vector<std::int32_t> table(static_cast<std::size_t>(blocks)), starts, contexts;
  std::iota(table.begin(), table.end(), 0);
  for (std::size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[philox({.seed = 2}, i)[0] % i]);
  for (std::int64_t b = 0; b <= c.B; ++b) starts.push_back(static_cast<std::int32_t>(b * c.queries));
  contexts.assign(static_cast<std::size_t>(c.B), static_cast<std::int32_t>(c.context));
  const Buffer tables(table, stream), query_start(starts, stream), context_len(contexts, stream);
  const Shape cache{blocks, c.G, c.P, c.D};
  const kernels::PagedKv kv{k.view(dtype, cache), v.view(dtype, cache), tables.view(DType::kI32, {c.B, blocks_each})};
  kernels::AttentionParams params{.scale = 1.0f / std::sqrt(static_cast<float>(c.D))};
  params.window = static_cast<int>(c.window);
  Buffer scratch(static_cast<std::int64_t>(kernels::attention_cuda_scratch_bytes(
      {.T = T, .B = c.B, .H = c.H, .G = c.G, .D = c.D, .context_max = c.context})));

  const CudaTimer::Times us = timer.time({}, [&] {
    return kernels::attention_cuda(q.view(DType::kBf16, {T, c.H, c.D}), kv, query_start.view(DType::kI32, {c.B + 1}),
                                   context_len.view(DType::kI32, {c.B}), TensorView(), params, c.context,
                                   out.view(DType::kBf16, {T, c.H, c.D}), scratch.memory().span(), stream);
  });
  const double seconds = us.median * 1e-6;
  double pairs = 0.0;
  for (std::int64_t i = 0; i < c.queries; ++i) {
    const std::int64_t sees = c.context - c.queries + i + 1;
    pairs += static_cast<double>(c.window > 0 ? std::min(sees, c.window) : sees);
  }
  const double flops = 4.0 * pairs * static_cast<double>(c.B * c.H * c.D);
  const std::int64_t keys = c.window > 0 ? std::min(c.context, c.window + c.queries - 1) : c.context;
  const double bytes = static_cast<double>(2 * c.element_bytes * c.B * c.G * keys * c.D);
  fmt::print(
      "{{\"op\":\"attention_cuda\",\"B\":{},\"queries\":{},\"context\":{},\"H\":{},\"G\":{},\"D\":{},\"P\":{},"
      "\"window\":{},\"kv\":\"{}\",\"us\":{:.1f},\"us_p95\":{:.1f},\"tb_per_s\":{:.3f},\"of_bandwidth\":{:.3f},"
      "\"tflops\":{:.1f},"
      "\"of_peak\":{:.3f}}}\n",
      c.B, c.queries, c.context, c.H, c.G, c.D, c.P, c.window, tensor::dtype_name(dtype), us.median, us.p95,
      bytes / seconds * 1e-12, bytes / seconds / kBytesPeak, flops / seconds * 1e-12, flops / seconds / kFlopsPeak);
}

Case parse(std::string_view text) {
  std::array<std::int64_t, 9> numbers{};
  numbers[8] = 2;
  std::size_t i = 0;
  for (const char* at = text.data(); at < text.data() + text.size() && i < numbers.size(); ++i) {
    at = std::from_chars(at, text.data() + text.size(), numbers[i]).ptr + 1;
  }
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7], numbers[8]};
}

int run(int count, char** texts) {
  if (device::cuda_devices().empty()) {
    fmt::print(stderr, "no CUDA device\n");
    return 1;
  }
  const auto stream = std::move(device::Stream::create_cuda(0)).value();
  CudaTimer timer(*stream);
  std::vector<Case> cases;
  for (int i = 0; i < count; ++i) cases.push_back(parse(texts[i]));
  if (cases.empty()) {
    for (const std::int64_t B : {1, 4, 16, 64}) {
      for (const std::int64_t context : {1024, 8192}) cases.push_back({B, 1, context, 32, 8, 128, 32, 0});
    }
    for (const std::int64_t P : {16, 64, 128}) cases.push_back({64, 1, 8192, 32, 8, 128, P, 0});
    cases.push_back({64, 1, 8192, 32, 8, 64, 32, 0});
    cases.push_back({64, 1, 8192, 32, 4, 256, 32, 0});
    cases.push_back({64, 1, 8192, 32, 32, 128, 32, 0});
    cases.push_back({64, 4, 8192, 32, 8, 128, 32, 0});
    for (const std::int64_t D : {64, 128}) cases.push_back({64, 1, 8192, 32, 8, D, 32, 0, 1});
    cases.push_back({64, 1, 8192, 32, 4, 256, 32, 0, 1});
    cases.push_back({16, 1, 8192, 32, 8, 128, 32, 0, 1});
    cases.push_back({64, 1, 1024, 32, 8, 128, 32, 0, 1});
    cases.push_back({1, 8192, 8192, 32, 8, 128, 32, 0, 1});
    cases.push_back({1, 1, 32768, 32, 8, 128, 32, 0});
    cases.push_back({1, 1, 131072, 32, 8, 128, 32, 0});
    for (const std::int64_t D : {64, 128, 256}) {
      cases.push_back({1, 8192, 8192, 32, 8, D, 32, 0});
      cases.push_back({1, 512, 8192, 32, 8, D, 32, 0});
      cases.push_back({4, 2048, 2048, 32, 8, D, 32, 0});
    }
  }
  for (const Case& c : cases) measure(c, timer, *stream);
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::run(argc - 1, argv + 1); }

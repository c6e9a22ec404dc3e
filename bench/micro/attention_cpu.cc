// Times CPU attention: prefill in GFLOP/s (unmasked work only) and as a fraction of the multiply-add peak, decode in
// GB/s of keys and values read and as a fraction of the read bandwidth. One JSON line per case; --smoke runs tiny cases
// once.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <string_view>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "base/rng.h"
#include "device/device.h"
#include "kernels/attention/attention.h"
#include "kernels/roofline/roofline.h"
#include "tensor/tensor.h"

namespace tandem {
namespace {

using tensor::DType;
using tensor::Shape;
using tensor::Tensor;
using tensor::TensorView;

struct Case {
  std::int64_t B, queries, context, H, G, D;  // per sequence
  DType cache_dtype;
  bool is_decode() const { return queries == 1; }
};

struct Ceilings {
  double flops_f32, flops_bf16, bytes;
};

void fill(Tensor& values, std::uint64_t seed) {
  const std::int64_t count = values.shape().count();
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(2.0 * philox_uniform({.seed = seed}, static_cast<std::uint64_t>(i)) - 1.0);
    if (values.dtype() == DType::kBf16) {
      values.view().as<std::uint16_t>()[i] = tensor::bf16_from_f32(value);
    } else {
      values.view().as<float>()[i] = value;
    }
  }
}

// Median seconds of a call.
double median_seconds(const std::function<void()>& call, bool smoke) {
  using Clock = std::chrono::steady_clock;
  call();
  std::vector<double> seconds;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    call();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  } while (!smoke && (seconds.size() < 5 || Clock::now() - begin < std::chrono::milliseconds(700)));
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

void measure(const Case& c, const Ceilings& ceilings, device::Stream& stream, bool smoke) {
  constexpr std::int64_t kBlockTokens = 64;
  const std::int64_t blocks_each = (c.context + kBlockTokens - 1) / kBlockTokens, blocks = c.B * blocks_each;
  const std::int64_t T = c.B * c.queries;
  Tensor q(DType::kF32, {T, c.H, c.D}), out(DType::kF32, {T, c.H, c.D}), lse(DType::kF32, {T, c.H});
  Tensor k(c.cache_dtype, {blocks, c.G, kBlockTokens, c.D}), v(c.cache_dtype, {blocks, c.G, kBlockTokens, c.D});
  fill(q, 1);
  fill(k, 2);
  fill(v, 3);
  std::vector<std::int32_t> table(static_cast<std::size_t>(blocks)), starts(static_cast<std::size_t>(c.B + 1));
  std::vector<std::int32_t> contexts(static_cast<std::size_t>(c.B), static_cast<std::int32_t>(c.context));
  std::iota(table.begin(), table.end(), 0);
  for (std::size_t b = 0; b < starts.size(); ++b)
    starts[b] = static_cast<std::int32_t>(b) * static_cast<std::int32_t>(c.queries);
  const auto ints = [](std::vector<std::int32_t>& values, const Shape& shape) {
    return TensorView(values.data(), DType::kI32, shape);
  };
  const kernels::PagedKv kv{k, v, ints(table, {c.B, blocks_each})};
  const kernels::AttentionParams params{.scale = 1.0f / std::sqrt(static_cast<float>(c.D))};
  std::vector<std::byte> scratch(kernels::attention_scratch_bytes(T, c.H, c.G, c.D, stream.pool().threads_count()));
  Status status;
  const double seconds = median_seconds(
      [&] {
        status = kernels::attention_cpu(q, kv, ints(starts, {c.B + 1}), ints(contexts, {c.B}), TensorView(), params,
                                        out, lse, scratch, stream);
      },
      smoke);
  if (!status.ok()) {
    fmt::print("{}\n", status.to_string());
    std::exit(1);
  }
  const double pairs = static_cast<double>(c.B * c.queries) * static_cast<double>(2 * c.context - c.queries + 1) / 2.0;
  const double flops = 4.0 * pairs * static_cast<double>(c.H * c.D);
  const double bytes = static_cast<double>(k.view().bytes() + v.view().bytes());
  const double flops_peak = c.cache_dtype == DType::kBf16 ? ceilings.flops_bf16 : ceilings.flops_f32;
  fmt::print(
      "{{\"op\":\"attention\",\"phase\":\"{}\",\"B\":{},\"queries\":{},\"context\":{},\"H\":{},\"G\":{},\"D\":{},"
      "\"cache\":\"{}\",\"threads\":{},\"ms\":{:.4f},\"gflops\":{:.1f},\"of_f32_peak\":{:.3f},\"of_dtype_peak\":{:.3f},"
      "\"gb_per_s\":{:.2f},\"of_bandwidth\":{:.3f}}}\n",
      c.is_decode() ? "decode" : "prefill", c.B, c.queries, c.context, c.H, c.G, c.D, tensor::dtype_name(c.cache_dtype),
      stream.pool().threads_count(), seconds * 1e3, flops / seconds * 1e-9, flops / seconds / ceilings.flops_f32,
      flops / seconds / flops_peak, bytes / seconds * 1e-9, bytes / seconds / ceilings.bytes);
}

int run(bool smoke) {
  const auto stream = device::Stream::create_cpu(smoke ? 2 : 0);
  const auto peak = [&](kernels::Compute compute) {
    return kernels::measure_matrix_peak(kernels::linear_paths(compute).front(), compute, *stream);
  };
  const Ceilings ceilings{peak(kernels::Compute::kF32), peak(kernels::Compute::kBf16),
                          kernels::measure_read_bandwidth(smoke ? 1 << 20 : 256 << 20, *stream)};
  fmt::print(
      "{{\"cpu\":\"{}\",\"threads\":{},\"f32_peak_gflops\":{:.1f},\"bf16_peak_gflops\":{:.1f},\"read_gb_per_s\":{:.2f}}"
      "}\n",
      cpu_name(), stream->pool().threads_count(), ceilings.flops_f32 * 1e-9, ceilings.flops_bf16 * 1e-9,
      ceilings.bytes * 1e-9);
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    if (smoke) {
      measure({1, 40, 100, 4, 2, 64, dtype}, ceilings, *stream, smoke);
      measure({2, 1, 100, 4, 2, 64, dtype}, ceilings, *stream, smoke);
      continue;
    }
    measure({1, 512, 512, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({1, 512, 512, 32, 8, 128, dtype}, ceilings, *stream, smoke);
    measure({1, 512, 512, 32, 32, 64, dtype}, ceilings, *stream, smoke);
    measure({1, 256, 4096, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({1, 64, 64, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({1, 1, 128, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({1, 1, 8192, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({16, 1, 8192, 32, 8, 64, dtype}, ceilings, *stream, smoke);
    measure({16, 1, 4096, 32, 8, 128, dtype}, ceilings, *stream, smoke);
    measure({16, 1, 4096, 8, 8, 128, dtype}, ceilings, *stream, smoke);
  }
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::run(argc > 1 && std::string_view(argv[1]) == "--smoke"); }

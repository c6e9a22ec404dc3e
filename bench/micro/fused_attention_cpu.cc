// Times fused attention on the CPU, forward and backward, in GFLOP/s (visible pairs only: 4 H D each forward, 10 H D
// backward) and as a fraction of the f32 multiply-add peak. Beside it, for f32 and one sequence, the same attention
// unfused: head by head, the whole square of scores in memory, from this project's matrix product and softmax. One JSON
// line per case; --smoke runs tiny cases once.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "base/rng.h"
#include "device/device.h"
#include "kernels/fused_attention/fused_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/roofline/roofline.h"
#include "kernels/softmax/softmax.h"
#include "tensor/tensor.h"

namespace tandem {
namespace {

using tensor::DType;
using tensor::Tensor;
using tensor::TensorView;

struct Case {
  std::int64_t sequences, length, H, G, D;
  DType dtype;
};

void fill(Tensor& values, std::uint64_t seed) {
  const std::int64_t count = values.shape().count();
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(2.0 * philox_uniform({.seed = seed}, static_cast<std::uint64_t>(i)) - 1.0);
    switch (values.dtype()) {
      case DType::kBf16: values.view().as<std::uint16_t>()[i] = tensor::bf16_from_f32(value); break;
      case DType::kF16: values.view().as<std::uint16_t>()[i] = tensor::f16_from_f32(value); break;
      default: values.view().as<float>()[i] = value;
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

void require_ok(const Status& status) {
  if (status.ok()) return;
  fmt::print("{}\n", status.to_string());
  std::exit(1);
}

// Causal attention of one head of one sequence by whole matrices. Between the products stand one transposition of each
// operand that needs it, and passes over the square.
class Unfused {
 public:
  Unfused(std::int64_t T, std::int64_t D, float scale, device::Stream& stream)
      : T_(T),
        D_(D),
        scale_(scale),
        stream_(stream),
        p_(DType::kF32, {T, T}),
        ds_(DType::kF32, {T, T}),
        turned_(DType::kF32, {T, T}),
        columns_(DType::kF32, {D, T}),
        scratch_(kernels::linear_scratch_bytes(T, std::max(T, D))) {}

  // All [T,D], rows anywhere.
  void forward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& out) {
    multiply(q, k, scale_, p_);
    each_row([&](std::int64_t t) {
      float* const row = p_.view().as<float>() + t * T_;
      std::fill(row + t + 1, row + T_, -std::numeric_limits<float>::infinity());
    });
    require_ok(kernels::softmax_cpu(p_, p_, stream_));
    multiply(p_, transposed(v, columns_), 1.0f, out);
  }
  // After forward of the same head. dk and dv are those of one query head.
  void backward(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& out,
                const TensorView& dout, const TensorView& dq, const TensorView& dk, const TensorView& dv) {
    multiply(dout, v, 1.0f, ds_);
    each_row([&](std::int64_t t) {
      const float *const o = row_of(out, t), *const d = row_of(dout, t), *const p = row_of(p_, t);
      float delta = 0.0f;
      for (std::int64_t i = 0; i < D_; ++i) delta += o[i] * d[i];
      float* const ds = row_of(ds_, t);
      for (std::int64_t j = 0; j < T_; ++j) ds[j] = p[j] * (ds[j] - delta);
    });
    multiply(ds_, transposed(k, columns_), scale_, dq);
    multiply(transposed(ds_, turned_), transposed(q, columns_), scale_, dk);
    multiply(transposed(p_, turned_), transposed(dout, columns_), 1.0f, dv);
  }

 private:
  static float* row_of(const TensorView& view, std::int64_t row) { return view.as<float>() + row * view.stride(0); }
  template <class Task>
  void each_row(const Task& task) {
    stream_.pool().parallel_for(T_ / 16, [&](std::int64_t i) {
      for (std::int64_t t = 16 * i; t < 16 * (i + 1); ++t) task(t);
    });
  }
  // y = alpha x w^T
  void multiply(const TensorView& x, const TensorView& w, float alpha, const TensorView& y) {
    require_ok(kernels::linear_cpu(x, w, {.alpha = alpha}, kernels::Compute::kF32, y, scratch_, stream_));
  }
  TensorView transposed(const TensorView& from, Tensor& to) {
    constexpr std::int64_t kBlock = 16;
    stream_.pool().parallel_for(T_ / kBlock, [&](std::int64_t b) {
      for (std::int64_t column = 0; column < from.extent(1); column += kBlock) {
        for (std::int64_t i = column; i < column + kBlock; ++i) {
          float* const row = row_of(to, i);
          for (std::int64_t t = kBlock * b; t < kBlock * (b + 1); ++t) row[t] = row_of(from, t)[i];
        }
      }
    });
    return to;
  }

  std::int64_t T_, D_;
  float scale_;
  device::Stream& stream_;
  Tensor p_, ds_, turned_, columns_;
  std::vector<std::byte> scratch_;
};

double measure_peak(device::Stream& stream) {
  return kernels::measure_matrix_peak(kernels::linear_paths(kernels::Compute::kF32).front(), kernels::Compute::kF32,
                                      stream);
}

void measure(const Case& c, device::Stream& stream, bool smoke) {
  const std::int64_t T = c.sequences * c.length;
  std::vector<kernels::AttentionSegment> segments;
  for (std::int64_t b = 0; b < c.sequences; ++b) {
    const auto row = static_cast<std::int32_t>(b * c.length), count = static_cast<std::int32_t>(c.length);
    segments.push_back({.query_begin = row, .query_count = count, .key_begin = row, .key_count = count});
  }
  const auto made = kernels::FusedAttentionPlan::create(segments, {kernels::AttentionWindow::kUnbounded, 0},
                                                        {T, T, c.H, c.G, c.D}, kernels::AttentionPath::kCpu);
  require_ok(made.status());
  const kernels::FusedAttentionPlan& plan = made.value();
  Tensor q(c.dtype, {T, c.H, c.D}), out(c.dtype, {T, c.H, c.D}), dout(c.dtype, {T, c.H, c.D}),
      dq(c.dtype, {T, c.H, c.D});
  Tensor k(c.dtype, {T, c.G, c.D}), v(c.dtype, {T, c.G, c.D}), dk(c.dtype, {T, c.G, c.D}), dv(c.dtype, {T, c.G, c.D});
  Tensor lse(DType::kF32, {c.H, T});
  fill(q, 1);
  fill(k, 2);
  fill(v, 3);
  fill(dout, 4);
  const kernels::FusedAttentionInputs inputs{q, k, v, TensorView()};
  const kernels::FusedAttentionParams params{.scale = 1.0f / std::sqrt(static_cast<float>(c.D))};
  const int threads = stream.pool().threads_count();
  std::vector<std::byte> scratch(std::max(kernels::fused_attention_forward_scratch_bytes(plan, threads),
                                          kernels::fused_attention_backward_scratch_bytes(plan, threads)));
  const double peak = measure_peak(stream);  // next to what it measures: neighbours come and go
  const double forward = median_seconds(
      [&] {
        require_ok(kernels::fused_attention_forward(inputs, plan, TensorView(), params, out, lse, scratch, stream));
      },
      smoke);
  const double backward = median_seconds(
      [&] {
        require_ok(kernels::fused_attention_backward(inputs, plan, TensorView(), params, out, lse, dout, TensorView(),
                                                     {dq, dk, dv, TensorView()}, scratch, stream));
      },
      smoke);
  const double pairs = static_cast<double>(plan.visible_pairs * c.H * c.D);
  const auto report = [&](const char* op, const char* phase, double seconds, double flops) {
    fmt::print(
        "{{\"op\":\"{}\",\"phase\":\"{}\",\"sequences\":{},\"length\":{},\"H\":{},\"G\":{},\"D\":{},"
        "\"dtype\":\"{}\",\"threads\":{},\"ms\":{:.4f},\"gflops\":{:.1f},\"f32_peak_gflops\":{:.1f},"
        "\"of_f32_peak\":{:.3f}}}\n",
        op, phase, c.sequences, c.length, c.H, c.G, c.D, tensor::dtype_name(c.dtype), threads, seconds * 1e3,
        flops / seconds * 1e-9, peak * 1e-9, flops / seconds / peak);
  };
  report("fused_attention", "forward", forward, 4.0 * pairs);
  report("fused_attention", "backward", backward, 10.0 * pairs);
  if (c.dtype != DType::kF32 || c.sequences > 1 || smoke) return;

  Unfused unfused(T, c.D, static_cast<float>(params.scale), stream);
  const auto head = [&](const Tensor& values, std::int64_t h) {
    const TensorView rows = values.view().reshape({T, values.shape()[1] * c.D});
    return rows.columns(h * c.D, (h + 1) * c.D);
  };
  const auto forward_of = [&](std::int64_t h) {
    const std::int64_t g = h / (c.H / c.G);
    unfused.forward(head(q, h), head(k, g), head(v, g), head(out, h));
  };
  const std::vector<float> expected(dq.view().as<float>(), dq.view().as<float>() + dq.shape().count());
  const double unfused_forward = median_seconds(
      [&] {
        for (std::int64_t h = 0; h < c.H; ++h) forward_of(h);
      },
      smoke);
  const double unfused_both = median_seconds(
      [&] {
        for (std::int64_t h = 0; h < c.H; ++h) {
          forward_of(h);  // its square is kept for the head only
          const std::int64_t g = h / (c.H / c.G);
          unfused.backward(head(q, h), head(k, g), head(v, g), head(out, h), head(dout, h), head(dq, h), head(dk, g),
                           head(dv, g));
        }
      },
      smoke);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::fabs(dq.view().as<float>()[i] - expected[i]) < 1e-4f) continue;
    fmt::print("fused and unfused disagree on dq\n");
    std::exit(1);
  }
  report("unfused_attention", "forward", unfused_forward, 4.0 * pairs);
  report("unfused_attention", "backward", unfused_both - unfused_forward, 10.0 * pairs);
}

int run(bool smoke) {
  const auto stream = device::Stream::create_cpu(smoke ? 2 : 0);
  fmt::print("{{\"cpu\":\"{}\",\"threads\":{}}}\n", cpu_name(), stream->pool().threads_count());
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    if (smoke) {
      measure({2, 70, 4, 2, 64, dtype}, *stream, smoke);
      continue;
    }
    measure({1, 512, 8, 8, 64, dtype}, *stream, smoke);
    measure({1, 512, 32, 8, 64, dtype}, *stream, smoke);
    measure({1, 512, 32, 8, 128, dtype}, *stream, smoke);
    measure({16, 64, 8, 8, 64, dtype}, *stream, smoke);
    measure({1, 2048, 8, 2, 64, dtype}, *stream, smoke);
  }
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int argc, char** argv) { return tandem::run(argc > 1 && std::string_view(argv[1]) == "--smoke"); }

// Linear layers on CUDA, as callers see them: whatever path is chosen, the numbers and the bits.
#include <cmath>

#include "kernels/linear/linear.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

struct Case {
  Compute compute;
  std::int64_t T, K, N;
  bool gated = false, has_norm = false, has_bias = false, has_residual = false, x_is_bf16 = false, y_is_bf16 = false;
  float alpha = 1.0f;
};

std::string name_of(const Case& c) {
  return fmt::format("{} T={} K={} N={} gated={} norm={} bias={} residual={} x16={} y16={}",
                     c.compute == Compute::kBf16 ? "bf16" : "f32", c.T, c.K, c.N, c.gated, c.has_norm, c.has_bias,
                     c.has_residual, c.x_is_bf16, c.y_is_bf16);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const bool is_bf16 = compute == Compute::kBf16;
    for (const auto& [T, K, N] : {std::tuple<int, int, int>{1, 64, 64},
                                  {3, 100, 17},
                                  {1, 7, 5},
                                  {64, 256, 96},
                                  {65, 256, 96},
                                  {130, 1000, 264},
                                  {200, 512, 512}}) {
      all.push_back({compute, T, K, N});
      all.push_back({.compute = compute, .T = T, .K = K, .N = N, .has_norm = true, .has_bias = true, .alpha = 0.5f});
      all.push_back({.compute = compute, .T = T, .K = K, .N = N, .has_residual = true, .x_is_bf16 = is_bf16});
      all.push_back(
          {.compute = compute, .T = T, .K = K, .N = N, .gated = true, .has_norm = true, .y_is_bf16 = is_bf16});
    }
  }
  return all;
}

struct Inputs {
  std::vector<float> x, weight, up, norm, bias, residual;
  explicit Inputs(const Case& c)
      : x(random_values(1, c.T * c.K, 2.0f)),
        weight(random_values(2, c.N * c.K)),
        up(random_values(3, c.N * c.K)),
        norm(random_values(4, c.K)),
        bias(random_values(5, c.N)),
        residual(random_values(6, c.T * c.N)) {
    if (c.x_is_bf16) x = rounded_to(DType::kBf16, x);
    if (c.compute == Compute::kBf16) {
      weight = rounded_to(DType::kBf16, weight);
      up = rounded_to(DType::kBf16, up);
    }
  }
};

constexpr float kEps = 1e-5f, kOffset = 1.0f;

std::vector<float> run(const Case& c, const Inputs& in, device::Stream& stream) {
  const DType weight_dtype = c.compute == Compute::kBf16 ? DType::kBf16 : DType::kF32;
  const CudaRows x(c.x_is_bf16 ? DType::kBf16 : DType::kF32, c.T, c.K, in.x, stream);
  const CudaRows weight(weight_dtype, c.N, c.K, in.weight, stream), up(weight_dtype, c.N, c.K, in.up, stream);
  const CudaRows norm(DType::kF32, 1, c.K, in.norm, stream), bias(DType::kF32, 1, c.N, in.bias, stream);
  CudaRows y(c.y_is_bf16 ? DType::kBf16 : DType::kF32, c.T, c.N, 8, 0, stream);
  if (c.has_residual) y.set(in.residual);
  const device::Memory memory = device::Memory::create(kCuda, linear_cuda_scratch_bytes(c.T, c.K)).value();
  InputNorm input_norm;
  if (c.has_norm) input_norm = {norm.vector_view(), kEps, kOffset};
  Status status;
  if (c.gated) {
    status = linear_gated_cuda(x.view(), input_norm, weight.view(), up.view(), Activation::kSilu, c.compute, y.view(),
                               memory.span(), stream);
  } else {
    LinearEpilogue epilogue{.alpha = c.alpha};
    if (c.has_bias) epilogue.bias = bias.vector_view();
    if (c.has_residual) epilogue.residual = y.view();
    status = linear_cuda(x.view(), input_norm, weight.view(), epilogue, c.compute, y.view(), memory.span(), stream);
  }
  EXPECT_TRUE(status.ok()) << status.message();
  return y.get();
}

// The formula in double precision, from the inputs as the product reads them, and how large an error is forgiven.
struct Wanted {
  double value, tolerance;
};
Wanted wanted(const Case& c, const Inputs& in, std::int64_t t, std::int64_t n) {
  const float* const x = in.x.data() + t * c.K;
  double squares = 0;
  for (std::int64_t k = 0; k < c.K; ++k) squares += double{x[k]} * x[k];
  const double scale = c.has_norm ? 1.0 / std::sqrt(squares / static_cast<double>(c.K) + kEps) : 1.0;
  double sum = 0, up_sum = 0, size = 0, up_size = 0;
  for (std::int64_t k = 0; k < c.K; ++k) {
    double value = c.has_norm ? x[k] * scale * (kOffset + in.norm[static_cast<std::size_t>(k)]) : x[k];
    if (c.compute == Compute::kBf16) value = rounded_to_bf16(static_cast<float>(value));
    sum += value * in.weight[static_cast<std::size_t>(n * c.K + k)];
    up_sum += value * in.up[static_cast<std::size_t>(n * c.K + k)];
    size += std::abs(value * in.weight[static_cast<std::size_t>(n * c.K + k)]);
    up_size += std::abs(value * in.up[static_cast<std::size_t>(n * c.K + k)]);
  }
  // A chain of K additions in f32, and (with a norm) an input that may round to the neighbour: one in 2^8 of a term.
  const double unit = 0x1p-24 * (static_cast<double>(c.K) + 8);
  const double turned = c.has_norm && c.compute == Compute::kBf16 ? 0x1p-8 / std::sqrt(static_cast<double>(c.K)) : 0.0;
  const double error = (unit + turned) * size, up_error = (unit + turned) * up_size;
  if (c.gated) {
    const double act = sum / (1 + std::exp(-sum));
    const double rounding = c.y_is_bf16 ? 0x1p-8 * std::abs(act * up_sum) : 0.0;
    return {act * up_sum, 1.2 * error * std::abs(up_sum) + up_error * std::abs(act) + 1e-5 * std::abs(act * up_sum) +
                              error * up_error + rounding + 1e-6};
  }
  double value = sum + (c.has_bias ? in.bias[static_cast<std::size_t>(n)] : 0.0);
  value *= c.alpha;
  if (c.has_residual) value += in.residual[static_cast<std::size_t>(t * c.N + n)];
  return {value, error + 1e-6 * (1 + std::abs(value))};
}

TEST(LinearCuda, AgreesWithDoublePrecision) {
  TANDEM_CUDA_STREAM(stream);
  for (const Case& c : cases()) {
    const Inputs in(c);
    const std::vector<float> y = run(c, in, stream);
    for (std::int64_t t = 0; t < c.T; t += 1 + c.T / 9) {
      for (std::int64_t n = 0; n < c.N; ++n) {
        const Wanted w = wanted(c, in, t, n);
        const double error = std::abs(y[static_cast<std::size_t>(t * c.N + n)] - w.value);
        ASSERT_TRUE(error <= w.tolerance) << name_of(c) << " at " << t << "," << n << ": " << error;  // NaN fails
      }
    }
  }
}

TEST(LinearCuda, ARowsBitsAreItsOwn) {
  TANDEM_CUDA_STREAM(stream);
  for (Case c : cases()) {
    const Inputs in(c);
    const std::vector<float> all = run(c, in, stream);
    ASSERT_TRUE(same_bits(run(c, in, stream), all)) << name_of(c) << ", again";
    for (const std::int64_t t : {std::int64_t{0}, c.T / 2, c.T - 1}) {
      Case one = c;
      one.T = 1;
      Inputs row = in;
      row.x.assign(in.x.begin() + t * c.K, in.x.begin() + (t + 1) * c.K);
      row.residual.assign(in.residual.begin() + t * c.N, in.residual.begin() + (t + 1) * c.N);
      const std::vector<float> wanted_row(all.begin() + t * c.N, all.begin() + (t + 1) * c.N);
      ASSERT_TRUE(same_bits(run(one, row, stream), wanted_row)) << name_of(c) << ", row " << t << " alone";
    }
  }
}

TEST(LinearCuda, GroupsTakeTheirOwnWeights) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t kGroups = 4, K = 96, N = 40, P = 75;
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    const DType dtype = compute == Compute::kBf16 ? DType::kBf16 : DType::kF32;
    const std::vector<float> weights = rounded_to(dtype, random_values(11, kGroups * N * K));
    const std::vector<float> rows = random_values(12, P * K);
    const std::int32_t offsets[] = {0, 30, 30, 31, 70};  // an empty group, and rows in none
    const CudaRows stack(dtype, kGroups * N, K, weights, stream), x(DType::kF32, P, K, rows, stream);
    const device::Memory on_device = device::Memory::create(kCuda, sizeof offsets).value();
    ASSERT_TRUE(device::copy(on_device.data(), offsets, sizeof offsets, stream).ok());
    const TensorView offsets_view(on_device.data(), DType::kI32, Shape{kGroups + 1}, kCuda);
    const TensorView stack_view = stack.view().reshape({kGroups, N, K});
    CudaRows y(DType::kF32, P, N, 0, 0, stream), gated(DType::kF32, P, N, 0, 0, stream);
    const device::Memory scratch = device::Memory::create(kCuda, linear_cuda_scratch_bytes(P, K)).value();
    ASSERT_TRUE(
        linear_grouped_cuda(x.view(), offsets_view, stack_view, compute, y.view(), scratch.span(), stream).ok());
    ASSERT_TRUE(linear_gated_grouped_cuda(x.view(), offsets_view, stack_view, stack_view, Activation::kSilu, compute,
                                          gated.view(), scratch.span(), stream)
                    .ok());
    const std::vector<float> all = y.get(), all_gated = gated.get();
    for (std::int64_t g = 0; g < kGroups; ++g) {
      const std::int64_t begin = offsets[g], count = offsets[g + 1] - begin;
      if (count == 0) continue;
      CudaRows one(DType::kF32, count, N, 0, 0, stream), one_gated(DType::kF32, count, N, 0, 0, stream);
      const TensorView weight = stack.view().rows(g * N, (g + 1) * N);
      const TensorView part = x.view().rows(begin, begin + count);
      ASSERT_TRUE(linear_cuda(part, {}, weight, {}, compute, one.view(), scratch.span(), stream).ok());
      ASSERT_TRUE(linear_gated_cuda(part, {}, weight, weight, Activation::kSilu, compute, one_gated.view(),
                                    scratch.span(), stream)
                      .ok());
      EXPECT_TRUE(same_bits(one.get(), {all.begin() + begin * N, all.begin() + (begin + count) * N})) << g;
      EXPECT_TRUE(same_bits(one_gated.get(), {all_gated.begin() + begin * N, all_gated.begin() + (begin + count) * N}));
    }
    for (std::int64_t i = 70 * N; i < P * N; ++i) ASSERT_TRUE(std::isnan(all[static_cast<std::size_t>(i)]));
  }
}

TEST(LinearCuda, BadArgumentsAreNamed) {
  TANDEM_CUDA_STREAM(stream);
  const CudaRows x(DType::kF32, 4, 64, 0, 0, stream), weight(DType::kF32, 8, 64, 0, 0, stream);
  const CudaRows narrow(DType::kF32, 8, 32, 0, 0, stream), y(DType::kF32, 4, 8, 0, 0, stream);
  const device::Memory memory = device::Memory::create(kCuda, linear_cuda_scratch_bytes(4, 64)).value();
  const auto message = [&](TensorView w, std::span<std::byte> scratch, Compute compute) {
    const Status status = linear_cuda(x.view(), {}, w, {}, compute, y.view(), scratch, stream);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(message(narrow.view(), memory.span(), Compute::kF32).find("weight"), std::string::npos);
  EXPECT_NE(message(weight.view(), memory.span(), Compute::kBf16).find("bf16"), std::string::npos);
  EXPECT_NE(message(weight.view(), {}, Compute::kF32).find("linear_cuda_scratch_bytes"), std::string::npos);
}

}  // namespace
}  // namespace tandem::kernels

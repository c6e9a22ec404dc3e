// The small kernels of a serving step on CUDA: embedding, norm of f32 rows, elementwise arithmetic, rotary tables.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/elementwise/elementwise.h"
#include "kernels/embedding/embedding.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "kernels/softmax/softmax.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

// An i32 vector on the device.
struct CudaIds {
  CudaIds(const std::vector<std::int32_t>& values, device::Stream& stream)
      : count(static_cast<std::int64_t>(values.size())),
        memory(device::Memory::create(kCuda, values.size() * sizeof(std::int32_t)).value()) {
    EXPECT_TRUE(device::copy(memory.data(), values.data(), memory.bytes(), stream).ok());
    EXPECT_TRUE(stream.synchronize().ok());
  }
  TensorView view() const { return TensorView(memory.data(), DType::kI32, Shape{count}, kCuda); }
  std::int64_t count;
  device::Memory memory;
};

TEST(ServingRowsCuda, EmbeddingTakesRows) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t V = 11, C = 300;
  const std::vector<std::int32_t> ids{0, 10, 3, 3, -1, 11};
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const std::vector<float> table_values = rounded_to(dtype, random_values(1, V * C));
    const CudaRows table(dtype, V, C, table_values, stream);
    const CudaIds on_device(ids, stream);
    CudaRows y(DType::kF32, 6, C, 5, 1, stream);
    ASSERT_TRUE(embedding_cuda(on_device.view(), table.view(), 1.5f, y.view(), stream).ok());
    const std::vector<float> rows = y.get();
    for (std::size_t t = 0; t < ids.size(); ++t) {
      for (std::int64_t i = 0; i < C; ++i) {
        const float value = rows[t * C + static_cast<std::size_t>(i)];
        if (ids[t] < 0 || ids[t] >= V) {
          ASSERT_TRUE(std::isnan(value));
        } else {
          ASSERT_EQ(value, 1.5f * table_values[static_cast<std::size_t>(ids[t] * C + i)]);
        }
      }
    }
    if (dtype != DType::kBf16) continue;
    CudaRows copied(dtype, 6, C, 0, 0, stream);
    ASSERT_TRUE(embedding_cuda(on_device.view(), table.view(), 1.0f, copied.view(), stream).ok());
    EXPECT_EQ(copied.get()[C], table_values[10 * C]);
  }
}

// Ids below zero stand for what an earlier kernel found.
TEST(ServingRowsCuda, EmbeddingTakesRowsOfFoundTokens) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t V = 11, C = 300;
  const std::vector<std::int32_t> ids{-4, 2, -1, -2, -3, -5, std::numeric_limits<std::int32_t>::min()};
  const std::vector<std::int32_t> found{7, 10, -1, 0};
  const std::vector<std::int32_t> wanted{0,  2,  7, 10,
                                         -1, -1, -1};  // of a row that was not found, or is not there: none
  const CudaRows table(DType::kBf16, V, C, rounded_to(DType::kBf16, random_values(1, V * C)), stream);
  const CudaIds on_device(ids, stream), found_there(found, stream), wanted_there(wanted, stream);
  CudaRows y(DType::kF32, 7, C, 0, 0, stream), expected(DType::kF32, 7, C, 0, 0, stream);
  const WithEmbedding with{.found = found_there.view()};
  ASSERT_TRUE(embedding_cuda(on_device.view(), table.view(), 2.0f, y.view(), stream, with).ok());
  ASSERT_TRUE(embedding_cuda(wanted_there.view(), table.view(), 2.0f, expected.view(), stream).ok());
  EXPECT_TRUE(same_bits(y.get(), expected.get()));
  EXPECT_TRUE(std::isnan(y.get()[4 * C]));
  EXPECT_FALSE(std::isnan(y.get()[3 * C]));
  EXPECT_FALSE(embedding_cuda(on_device.view(), table.view(), 2.0f, y.view(), stream, {.found = table.view()}).ok());
}

TEST(ServingRowsCuda, EmbeddingMakesTablesOfAngles) {
  TANDEM_CUDA_STREAM(stream);
  constexpr std::int64_t T = 5, V = 11, C = 300;
  const CudaIds ids({0, 10, 3, 3, 1}, stream), positions({0, 1, 4095, 131071, 1000000}, stream);
  const CudaRows table(DType::kF32, V, C, random_values(1, V * C), stream);
  CudaRows y(DType::kF32, T, C, 0, 0, stream), y_alone(DType::kF32, T, C, 0, 0, stream);
  std::vector<CudaRows> frequencies, tables;
  std::vector<AngleTable> angles;
  frequencies.reserve(2);
  tables.reserve(8);
  const auto add = [&](std::int64_t half) { return tables.emplace_back(DType::kF32, T, half, 0, 0, stream).view(); };
  for (const std::int64_t half : {5, 128}) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < half; ++i) values.push_back(std::pow(1e4f, -static_cast<float>(i) / 128.0f));
    const CudaRows& of = frequencies.emplace_back(DType::kF32, 1, half, values, stream);
    angles.push_back({of.vector_view(), half == 5 ? 1.0f : 1.25f, add(half), add(half)});
  }
  const WithEmbedding with{.positions = positions.view(), .angles = angles};
  ASSERT_TRUE(embedding_cuda(ids.view(), table.view(), 1.0f, y.view(), stream, with).ok());
  ASSERT_TRUE(embedding_cuda(ids.view(), table.view(), 1.0f, y_alone.view(), stream).ok());
  EXPECT_TRUE(same_bits(y.get(), y_alone.get()));
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const AngleTable& of = angles[i];
    const TensorView cos = add(of.inv_freq.extent(0)), sin = add(of.inv_freq.extent(0));
    ASSERT_TRUE(rope_table_cuda(positions.view(), of.inv_freq, of.attention_factor, cos, sin, stream).ok());
    EXPECT_TRUE(same_bits(tables[2 * i].get(), tables[tables.size() - 2].get()));
    EXPECT_TRUE(same_bits(tables[2 * i + 1].get(), tables[tables.size() - 1].get()));
  }
  const AngleTable three[] = {angles[0], angles[0], angles[0]};
  const WithEmbedding too_many{.positions = positions.view(), .angles = three};
  EXPECT_FALSE(embedding_cuda(ids.view(), table.view(), 1.0f, y.view(), stream, too_many).ok());
  const WithEmbedding without{.angles = angles};
  EXPECT_FALSE(embedding_cuda(ids.view(), table.view(), 1.0f, y.view(), stream, without).ok());
}

TEST(ServingRowsCuda, NormOfF32Rows) {
  TANDEM_CUDA_STREAM(stream);
  constexpr float kEps = 1e-5f, kOffset = 1.0f;
  for (const std::int64_t C : {1, 3, 64, 100, 255, 1024, 1030, 4096, 20000}) {
    constexpr std::int64_t T = 5;
    const std::vector<float> x_values = random_values(1, T * C, 3.0f), weights = random_values(2, C);
    for (const std::int64_t shift : {0, 1}) {
      CudaRows x(DType::kF32, T, C, 4 * shift, shift, stream), y(DType::kF32, T, C, 3, shift, stream);
      CudaRows rounded(DType::kBf16, T, C, 0, 0, stream);
      x.set(x_values);
      const CudaRows weight(DType::kF32, 1, C, weights, stream);
      ASSERT_TRUE(rms_norm_cuda(x.view(), weight.vector_view(), kEps, kOffset, y.view(), stream).ok());
      ASSERT_TRUE(rms_norm_cuda(x.view(), weight.vector_view(), kEps, kOffset, rounded.view(), stream).ok());
      const std::vector<float> out = y.get();
      ASSERT_TRUE(same_bits(rounded.get(), rounded_to(DType::kBf16, out)));
      for (std::int64_t t = 0; t < T; ++t) {
        double squares = 0;
        for (std::int64_t i = 0; i < C; ++i) {
          squares +=
              double{x_values[static_cast<std::size_t>(t * C + i)]} * x_values[static_cast<std::size_t>(t * C + i)];
        }
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(C) + kEps);
        for (std::int64_t i = 0; i < C; ++i) {
          const auto at = static_cast<std::size_t>(t * C + i);
          const double wanted = x_values[at] * scale * (kOffset + weights[static_cast<std::size_t>(i)]);
          ASSERT_LE(std::abs(out[at] - wanted), 1e-6 * std::abs(wanted) + 1e-7) << C << " at " << at;
        }
      }
      // A row alone has the same bits.
      CudaRows one(DType::kF32, 1, C, 0, 0, stream), one_y(DType::kF32, 1, C, 0, 0, stream);
      one.set({x_values.begin() + 2 * C, x_values.begin() + 3 * C});
      ASSERT_TRUE(rms_norm_cuda(one.view(), weight.vector_view(), kEps, kOffset, one_y.view(), stream).ok());
      ASSERT_TRUE(same_bits(one_y.get(), {out.begin() + 2 * C, out.begin() + 3 * C}));
    }
  }
}

TEST(ServingRowsCuda, ElementwiseAsOnTheCpu) {
  TANDEM_CUDA_STREAM(stream);
  const auto cpu = device::Stream::create_cpu(1);
  constexpr std::int64_t T = 7, C = 333;
  const std::vector<float> a_values = random_values(1, T * C, 6.0f), b_values = random_values(2, T * C, 2.0f);
  CudaRows a(DType::kF32, T, C, 3, 1, stream), b(DType::kF32, T, C, a_values, stream),
      y(DType::kF32, T, C, 0, 0, stream);
  a.set(a_values);
  b.set(b_values);
  std::vector<float> wanted(T * C), in_a = a_values, in_b = b_values;
  const auto host = [&](std::vector<float>& values) { return TensorView(values.data(), DType::kF32, Shape{T, C}); };
  const auto check = [&](const Status& status, const char* what) {
    ASSERT_TRUE(status.ok()) << status.message();
    const std::vector<float> got = y.get();
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::abs(got[i] - wanted[i]), 4e-6f * std::abs(wanted[i]) + 1e-7f) << what << " of " << a_values[i];
    }
  };
  ASSERT_TRUE(add_scaled_cpu(host(in_a), host(in_b), 0.3f, host(wanted), *cpu).ok());
  check(add_scaled_cuda(a.view(), b.view(), 0.3f, y.view(), stream), "add_scaled");
  ASSERT_TRUE(softcap_cpu(host(in_a), 3.0f, host(wanted), *cpu).ok());
  check(softcap_cuda(a.view(), 3.0f, y.view(), stream), "softcap");
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
    ASSERT_TRUE(gate_cpu(host(in_a), host(in_b), activation, host(wanted), *cpu).ok());
    check(gate_cuda(a.view(), b.view(), activation, y.view(), stream), "gate");
  }
}

TEST(ServingRowsCuda, SumsAndRoundingsOfBf16) {
  TANDEM_CUDA_STREAM(stream);
  for (const auto& [T, C, gap, shift] : {std::tuple<int, int, int, int>{7, 333, 3, 1}, {5, 336, 8, 0}, {6, 64, 0, 0}}) {
    const std::vector<float> a_values = random_values(1, T * C, 6.0f);
    const std::vector<float> b_values = rounded_to(DType::kBf16, random_values(2, T * C, 2.0f));
    CudaRows a(DType::kF32, T, C, gap, shift, stream), b(DType::kBf16, T, C, gap, shift, stream);
    CudaRows sum(DType::kF32, T, C, 5, 2, stream), rounded(DType::kBf16, T, C, gap, shift, stream);
    CudaRows widened(DType::kF32, T, C, gap, shift, stream);
    a.set(a_values);
    b.set(b_values);
    ASSERT_TRUE(add_scaled_cuda(a.view(), b.view(), 0.5f, sum.view(), stream).ok());
    ASSERT_TRUE(scale_cuda(a.view(), 2.0f, rounded.view(), stream).ok());
    ASSERT_TRUE(scale_cuda(b.view(), 1.0f, widened.view(), stream).ok());
    const std::vector<float> sums = sum.get(), roundings = rounded.get();
    for (std::size_t i = 0; i < sums.size(); ++i) {
      ASSERT_EQ(sums[i], std::fma(0.5f, b_values[i], a_values[i]));
      ASSERT_EQ(roundings[i], rounded_to_bf16(2.0f * a_values[i]));
    }
    EXPECT_TRUE(same_bits(widened.get(), b_values));
  }
}

TEST(ServingRowsCuda, RotaryTable) {
  TANDEM_CUDA_STREAM(stream);
  const auto cpu = device::Stream::create_cpu(1);
  std::vector<std::int32_t> positions{0, 1, 17, 4095, 131071};
  std::vector<float> freq(32);
  for (std::size_t i = 0; i < freq.size(); ++i) freq[i] = std::pow(10000.0f, -static_cast<float>(i) / 32.0f);
  const CudaIds on_device(positions, stream);
  const CudaRows inv_freq(DType::kF32, 1, 32, freq, stream);
  CudaRows cos(DType::kF32, 5, 32, 0, 0, stream), sin(DType::kF32, 5, 32, 0, 0, stream);
  ASSERT_TRUE(rope_table_cuda(on_device.view(), inv_freq.vector_view(), 1.25f, cos.view(), sin.view(), stream).ok());
  const std::vector<float> cosines = cos.get(), sines = sin.get();
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::size_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(static_cast<float>(positions[t]) * freq[i]);
      ASSERT_NEAR(cosines[t * 32 + i], 1.25 * std::cos(angle), 1e-6);
      ASSERT_NEAR(sines[t * 32 + i], 1.25 * std::sin(angle), 1e-6);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels

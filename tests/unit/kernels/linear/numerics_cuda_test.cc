// What docs/kernels/numerics.md builds on: the value of a bf16 product on this chip depends on the order of its steps
// along K alone, not on the instruction.
#ifdef TANDEM_WITH_CUDA
#include <cmath>

#include "unit/kernels/cuda_rows.h"
#include "unit/kernels/linear/chain_cuda.h"

namespace tandem::kernels {
namespace {

using namespace testing;

enum class Values { kUniform, kLogUniform, kOffset };

std::vector<std::uint16_t> values_of(Values kind, std::uint64_t seed, std::int64_t count) {
  std::vector<float> values = random_values(seed, count);
  for (float& value : values) {
    if (kind == Values::kLogUniform) value = std::copysign(std::pow(10.0f, 3.5f * (std::fabs(value) - 1.0f)), value);
    if (kind == Values::kOffset) value += 1.0f;
  }
  return to_bf16(values);
}

TEST(NumericsCuda, EveryTensorCoreInstructionGivesTheSameBits) {
  TANDEM_CUDA_STREAM(stream);
  if (*device::cuda_compute_capability(0) != 90) GTEST_SKIP() << "not Hopper";
  constexpr int kK = 4096;
  for (const Values kind : {Values::kUniform, Values::kLogUniform, Values::kOffset}) {
    const auto w = values_of(kind, 1, std::int64_t{kChainRows} * kK),
               x = values_of(kind, 2, std::int64_t{kChainColumns} * kK);
    const std::vector<float> expected = sums_by(ChainBy::kGroup256, w, x, kK, stream);
    for (const ChainBy by : {ChainBy::kWarpLeft, ChainBy::kWarpRight, ChainBy::kGroup8, ChainBy::kGroup16,
                             ChainBy::kGroup32, ChainBy::kGroup64, ChainBy::kGroup128, ChainBy::kGroupRegisters64}) {
      EXPECT_TRUE(same_bits(sums_by(by, w, x, kK, stream), expected))
          << "instruction " << static_cast<int>(by) << ", values " << static_cast<int>(kind);
    }
    // And the sums are sums: within what 4096 roundings, each to f32 of the magnitudes' sum, can do.
    for (const int row : {0, 17, 63}) {
      for (const int column : {0, 100, 255}) {
        double sum = 0.0, magnitudes = 0.0;
        for (int k = 0; k < kK; ++k) {
          const double product = double{tensor::f32_from_bf16(w[static_cast<std::size_t>(row * kK + k)])} *
                                 double{tensor::f32_from_bf16(x[static_cast<std::size_t>(column * kK + k)])};
          sum += product;
          magnitudes += std::fabs(product);
        }
        EXPECT_NEAR(expected[static_cast<std::size_t>(row * kChainColumns + column)], sum, magnitudes * kK * 0x1p-24);
      }
    }
  }
}

// The order does matter, or the test above could not fail.
TEST(NumericsCuda, AnotherOrderGivesOtherBits) {
  TANDEM_CUDA_STREAM(stream);
  if (*device::cuda_compute_capability(0) != 90) GTEST_SKIP() << "not Hopper";
  constexpr int kK = 4096;
  const auto backwards = [](const std::vector<std::uint16_t>& rows) {
    std::vector<std::uint16_t> turned(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::size_t row = i / kK, k = i % kK;
      turned[row * kK + (kK / 16 - 1 - k / 16) * 16 + k % 16] = rows[i];
    }
    return turned;
  };
  const auto w = values_of(Values::kUniform, 1, std::int64_t{kChainRows} * kK);
  const auto x = values_of(Values::kUniform, 2, std::int64_t{kChainColumns} * kK);
  EXPECT_FALSE(same_bits(sums_by(ChainBy::kGroup64, backwards(w), backwards(x), kK, stream),
                         sums_by(ChainBy::kGroup64, w, x, kK, stream)));
}

}  // namespace
}  // namespace tandem::kernels
#endif

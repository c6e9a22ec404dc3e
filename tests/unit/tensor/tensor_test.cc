#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::tensor {
namespace {

TEST(Shape, CountsAndCatchesOverflow) {
  EXPECT_EQ((Shape{2, 3, 4}).count(), 24);
  EXPECT_EQ(Shape{}.count(), 1);
  EXPECT_EQ((Shape{2, 0}).checked_count(), 0);
  EXPECT_EQ((Shape{-1, 2}).checked_count(), std::nullopt);
  EXPECT_EQ((Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}).checked_count(), std::nullopt);
  EXPECT_EQ((Shape{8, 4}).to_string(), "[8,4]");
}

TEST(DType, NamesRoundTrip) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBf16, DType::kF16, DType::kI64, DType::kBool}) {
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_name("f33"), std::nullopt);
}

// Every 16-bit pattern widens and narrows back to itself.
TEST(DType, SixteenBitFloatsRoundTrip) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (std::isnan(f32_from_bf16(half))) {
      EXPECT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(f32_from_bf16(half)))));
    } else {
      EXPECT_EQ(bf16_from_f32(f32_from_bf16(half)), half);
    }
    if (std::isnan(f32_from_f16(half))) {
      EXPECT_TRUE(std::isnan(f32_from_f16(f16_from_f32(f32_from_f16(half)))));
    } else {
      EXPECT_EQ(f16_from_f32(f32_from_f16(half)), half);
    }
  }
}

// Between two neighbours, the nearer one is chosen, and of two equally near the even one.
TEST(DType, NarrowingRoundsToNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x7bff; bits += 37) {
    const auto lower = static_cast<std::uint16_t>(bits), upper = static_cast<std::uint16_t>(bits + 1);
    const double a = f32_from_f16(lower), b = f32_from_f16(upper);
    EXPECT_EQ(f16_from_f32(static_cast<float>(a + 0.25 * (b - a))), lower);
    EXPECT_EQ(f16_from_f32(static_cast<float>(a + 0.75 * (b - a))), upper);
    EXPECT_EQ(f16_from_f32(static_cast<float>(0.5 * (a + b))), lower % 2 == 0 ? lower : upper);
    const double c = f32_from_bf16(lower), d = f32_from_bf16(upper);
    EXPECT_EQ(bf16_from_f32(static_cast<float>(0.5 * (c + d))), lower % 2 == 0 ? lower : upper);
  }
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(65519.0f), 0x7bff);
  EXPECT_EQ(bf16_from_f32(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(DType, E4m3RoundsToTheNearestAndSaturates) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<std::uint8_t>(bits);
    const float value = f32_from_f8e4m3(code);
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(f8e4m3_from_f32(value), 0x7f);
      continue;
    }
    EXPECT_EQ(f8e4m3_from_f32(value), code);
    if ((bits & 0x7f) >= 0x7e) continue;
    const auto next = static_cast<std::uint8_t>(bits + 1);
    const double low = value, high = f32_from_f8e4m3(next);
    EXPECT_GT(std::fabs(high), std::fabs(low));
    const auto between = [&](double part) { return f8e4m3_from_f32(static_cast<float>(low + part * (high - low))); };
    EXPECT_EQ(between(0.499), code);
    EXPECT_EQ(between(0.5), bits % 2 == 0 ? code : next);
    EXPECT_EQ(between(0.501), next);
  }
  EXPECT_EQ(f32_from_f8e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(f32_from_f8e4m3(0x38), 1.0f);
  EXPECT_EQ(f32_from_f8e4m3(0x7e), 448.0f);
  for (const float large : {449.0f, 464.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(f8e4m3_from_f32(large), 0x7e);
    EXPECT_EQ(f8e4m3_from_f32(-large), 0xfe);
  }
  EXPECT_EQ(f8e4m3_from_f32(0x1p-10f), 0x00);
  EXPECT_EQ(f8e4m3_from_f32(-0x1p-40f), 0x80);
}

TEST(TensorView, RowsColumnsAndReshape) {
  Tensor tensor(DType::kF32, Shape{4, 6});
  for (std::size_t i = 0; i < 24; ++i) tensor.span<float>()[i] = static_cast<float>(i);
  const TensorView columns = tensor.view().columns(2, 5);
  EXPECT_EQ(columns.shape(), (Shape{4, 3}));
  EXPECT_FALSE(columns.is_dense());
  EXPECT_TRUE(columns.is_dense_from(1));
  EXPECT_EQ(columns.rows(1, 3).as<float>()[0], 8.0f);
  EXPECT_EQ(tensor.view().reshape(Shape{2, 12}).stride(0), 12);
  EXPECT_FALSE(TensorView());
}

TEST(Tensor, IsAlignedZeroedAndCloned) {
  Tensor tensor(DType::kBf16, Shape{3, 5});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.view().data()) % 64, 0u);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(tensor.view().as<std::uint16_t>()[i], 0);
  tensor.view().as<std::uint16_t>()[7] = 9;
  const Tensor copy = tensor.clone();
  tensor.view().as<std::uint16_t>()[7] = 1;
  EXPECT_EQ(copy.view().as<const std::uint16_t>()[7], 9);
  EXPECT_TRUE(Tensor(DType::kF32, Shape{0}).view());
}

}  // namespace
}  // namespace tandem::tensor

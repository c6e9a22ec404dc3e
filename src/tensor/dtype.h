// Element types, and the conversions between 16-bit or 8-bit floats and f32.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tandem::tensor {

enum class DType : std::uint8_t { kF64, kF32, kBf16, kF16, kF8E4m3, kF8E5m2, kI64, kI32, kI16, kI8, kU8, kBool };

constexpr int dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64: return 8;
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kBf16:
    case DType::kF16:
    case DType::kI16: return 2;
    default: return 1;
  }
}

const char* dtype_name(DType dtype);                          // "bf16"
std::optional<DType> dtype_from_name(std::string_view name);  // "bf16", "f32"...

// bf16 is the upper half of an f32. Rounds to nearest, ties to even; NaN stays NaN.
constexpr std::uint16_t bf16_from_f32(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
constexpr float f32_from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// IEEE half. Rounds to nearest, ties to even; overflow gives infinity; subnormals are kept.
std::uint16_t f16_from_f32(float value);
float f32_from_f16(std::uint16_t bits);

// e4m3 without infinities (OCP FP8): up to 448, multiples of 2^-9 below 2^-6. Rounds to nearest, ties to even; what is
// larger than 448, infinity too, becomes 448; NaN becomes the NaN 0x7f.
std::uint8_t f8e4m3_from_f32(float value);
float f32_from_f8e4m3(std::uint8_t bits);

}  // namespace tandem::tensor

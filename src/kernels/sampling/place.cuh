// A logit and its token as one integer, and a logit's weight, on the device.
//
// Place: larger for what comes earlier in the order "larger logit, then lower token". NaN and +infinity have none.
#pragma once

#include <cstdint>

namespace tandem::kernels {

inline constexpr std::uint64_t kBadPlace = ~std::uint64_t{0};
inline constexpr std::uint64_t kLastFinitePlace = std::uint64_t{0x00800000} << 32;  // -infinity is before it
inline constexpr float kLargestFloat = 3.402823466e38f;

// Integers in the order of floats; -0 is 0.
__device__ __forceinline__ std::uint32_t ordered(float logit) {
  const std::uint32_t bits = logit == 0.0f ? 0u : __float_as_uint(logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ std::uint64_t place_of(float logit, int token) {
  return std::uint64_t{ordered(logit)} << 32 | ~static_cast<std::uint32_t>(token);
}
// Of any token with that logit, none is lower.
__device__ __forceinline__ std::uint64_t lowest_place_of(float logit) { return std::uint64_t{ordered(logit)} << 32; }
__device__ __forceinline__ float logit_at(std::uint64_t place) {
  const auto bits = static_cast<std::uint32_t>(place >> 32);
  return __uint_as_float((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits);
}
__device__ __forceinline__ int token_at(std::uint64_t place) {
  return static_cast<int>(~static_cast<std::uint32_t>(place));
}

struct Scale {
  float max, inverse_temperature;
};

// e^((logit - max) * inverse_temperature) in units of kWeightUnit: operation for operation what engine/logits_row.cc
// does, so that the bits are the same.
__device__ __forceinline__ std::uint64_t weight_of(Scale scale, float logit) {
  const float x = __fmul_rn(__fsub_rn(logit, scale.max), scale.inverse_temperature);
  if (!(x >= -32.0f)) return 0;  // below half a unit
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f);
  const float n = __fsub_rn(shifted, 12582912.0f);
  const float r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, 2.12194440e-4f));
  float p = __fadd_rn(__fmul_rn(r, 0x1.6a21cep-10f), 0x1.123b68p-7f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.5558fap-5f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.55549p-3f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.fffffcp-2f);
  p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
  const float power = __int_as_float((__float_as_int(shifted) + 127) << 23);
  return __float2ull_rn(__fmul_rn(__fmul_rn(p, power), 0x1p44f));
}

}  // namespace tandem::kernels

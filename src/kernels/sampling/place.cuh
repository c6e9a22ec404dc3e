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

// e^((logit - max) * inverse_temperature): operation for operation what engine/logits_row.cc does, so that the bits are
// the same, but for what is far below half a kWeightUnit.
__device__ __forceinline__ float fraction_of(Scale scale, float logit) {
  const float x = fmaxf(__fmul_rn(__fsub_rn(logit, scale.max), scale.inverse_temperature), -80.0f);
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), 12582912.0f);
  const float n = __fsub_rn(shifted, 12582912.0f);
  const float r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, 2.12194440e-4f));
  float p = __fadd_rn(__fmul_rn(r, 0x1.6a21cep-10f), 0x1.123b68p-7f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.5558fap-5f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.55549p-3f);
  p = __fadd_rn(__fmul_rn(p, r), 0x1.fffffcp-2f);
  p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
  return __fmul_rn(p, __int_as_float((__float_as_int(shifted) + 127) << 23));
}
// The same in units.
__device__ __forceinline__ std::uint64_t weight_of(Scale scale, float logit) {
  return __float2ull_rn(__fmul_rn(fraction_of(scale, logit), 0x1p44f));
}

// A sum of up to 256 weights, in 32-bit integers that additions of floats leave in the last places of their results: of
// each weight the multiple of 2^-22 nearest to it, and what is then left of it in units.
class WeightSum {
 public:
  __device__ void add(float fraction) {
    const float shifted = __fadd_rn(fraction, kNear22);
    high_ += __float_as_uint(shifted) - __float_as_uint(kNear22);
    const float left = __fsub_rn(fraction, __fsub_rn(shifted, kNear22));  // exact
    low_ += __float_as_uint(__fadd_rn(left, kNear44)) - __float_as_uint(kNear44);
  }
  __device__ std::uint64_t value() const {
    return (std::uint64_t{high_} << 22) + static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(low_)});
  }

 private:
  static constexpr float kNear22 = 0x1p1f, kNear44 = 0x1.8p-21f;  // whose last places are 2^-22 and 2^-44
  std::uint32_t high_ = 0, low_ = 0;
};

}  // namespace tandem::kernels

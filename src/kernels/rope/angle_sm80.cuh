// The cosine and sine of one position and frequency, for those that make tables of them.
#pragma once

#include <cstdint>

namespace tandem::kernels {

struct Angle {
  float cosine, sine;
};
__device__ __forceinline__ Angle angle_of(std::int32_t position, float inv_freq, float attention_factor) {
  float sine, cosine;
  sincosf(__fmul_rn(static_cast<float>(position), inv_freq), &sine, &cosine);
  return {__fmul_rn(attention_factor, cosine), __fmul_rn(attention_factor, sine)};
}

}  // namespace tandem::kernels

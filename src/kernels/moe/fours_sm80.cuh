// Four columns of a row at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/sm80.cuh"

namespace tandem::kernels::sm80 {

// Four columns; with kAligned all are there, else the first `count`. Read past the L1 cache, as what may be read before
// the kernel ahead has ended must be.
template <bool kAligned>
__device__ __forceinline__ float4 load_four(const float* from, int count) {
  if constexpr (kAligned) return __ldcg(reinterpret_cast<const float4*>(from));
  return {__ldcg(from), count > 1 ? __ldcg(from + 1) : 0.0f, count > 2 ? __ldcg(from + 2) : 0.0f,
          count > 3 ? __ldcg(from + 3) : 0.0f};
}

template <bool kAligned>
__device__ __forceinline__ void store_four(float* to, int count, float4 values) {
  if constexpr (kAligned) {
    *reinterpret_cast<float4*>(to) = values;
  } else {
    to[0] = values.x;
    if (count > 1) to[1] = values.y;
    if (count > 2) to[2] = values.z;
    if (count > 3) to[3] = values.w;
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_four(std::uint16_t* to, int count, float4 values) {
  const uint2 packed{Bf16::pack(values.x, values.y), Bf16::pack(values.z, values.w)};
  if constexpr (kAligned) {
    *reinterpret_cast<uint2*>(to) = packed;
  } else {
    to[0] = static_cast<std::uint16_t>(packed.x);
    if (count > 1) to[1] = static_cast<std::uint16_t>(packed.x >> 16);
    if (count > 2) to[2] = static_cast<std::uint16_t>(packed.y);
    if (count > 3) to[3] = static_cast<std::uint16_t>(packed.y >> 16);
  }
}

}  // namespace tandem::kernels::sm80

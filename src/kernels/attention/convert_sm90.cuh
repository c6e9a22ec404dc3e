// A tile of e4m3 keys or values, as the copy engine brought it, written as the bf16 tile that products read.
//
//   bytes   [keys][D], dense
//   tile    D/64 slabs of [keys][64] bf16 in the 128-byte swizzle (sm90.cuh)
// A lane takes 8 elements at a time: 8 bytes to read, and 16 bytes, one piece of the swizzle, to write. Neighbouring
// lanes take neighbouring ones, so that neither meets a bank twice. A warp takes eight keys at a time, since the
// swizzle repeats then.
#pragma once

#include "kernels/common/sm90.cuh"

namespace tandem::kernels::sm90 {

constexpr int kConvertingWarps = 3;

// Two e4m3 as two bf16. NaN stays NaN.
__device__ __forceinline__ std::uint32_t bf16_of_f8(std::uint16_t pair) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  const float2 wide = __half22float2(*reinterpret_cast<const __half2*>(&halves));
  return pack<__nv_bfloat16>(wide.x, wide.y);
}

// Warp `member` of kConvertingWarps does its part.
template <int kKeys, int kD>
__device__ __forceinline__ void convert_tile(const std::byte* bytes, std::byte* tile, int member) {
  constexpr int kPieces = kD / 8, kAtOnce = 32 / kPieces, kSteps = 8 / kAtOnce;  // of a key; keys of a warp; to 8 keys
  const int lane = static_cast<int>(threadIdx.x) % 32, key = lane / kPieces, piece = lane % kPieces;
  const std::byte* const from = bytes + key * kD + piece * 8;
  std::byte* const to = tile + piece / 8 * kKeys * 128 + key * 128;
  const auto load = [&](int group, int i) {
    return *reinterpret_cast<const uint2*>(from + (group * 8 + i * kAtOnce) * kD);
  };
  const auto store = [&](int group, int i, const uint2& words) {
    const uint4 wide{
        bf16_of_f8(static_cast<std::uint16_t>(words.x)), bf16_of_f8(static_cast<std::uint16_t>(words.x >> 16)),
        bf16_of_f8(static_cast<std::uint16_t>(words.y)), bf16_of_f8(static_cast<std::uint16_t>(words.y >> 16))};
    const int at = (group * 8 + i * kAtOnce) * 128 + ((piece % 8) ^ (i * kAtOnce + key)) * 16;
    *reinterpret_cast<uint4*>(to + at) = wide;
  };
  // Reading ahead pays where a key is short.
  constexpr bool kReadsAhead = kD == 64;
  uint2 words[kSteps];
  if constexpr (kReadsAhead) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) words[i] = load(member, i);
  }
  for (int group = member; group < kKeys / 8; group += kConvertingWarps) {
    const int next = group + kConvertingWarps;
    if constexpr (!kReadsAhead) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) words[i] = load(group, i);
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const uint2 own = words[i];
      if (kReadsAhead && next < kKeys / 8) words[i] = load(next, i);
      store(group, i, own);
    }
  }
}

}  // namespace tandem::kernels::sm90

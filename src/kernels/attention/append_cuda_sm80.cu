// Norm and rotation of a step's packed heads, and their append to the paged cache (attention.h).
//   grid   at most 2048 blocks of 256 threads; D = 128: 8 threads to a head (rope/head_sm80.cuh), 32 heads to a block
//   regs   a head is read once and stays in registers
// Bound  bytes: 4*T*(H+2G)*D read, 1 to 4 times as many written; memory bound, and for few tokens one launch.
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/attention/cuda_paths.h"
#include "kernels/attention/new_head_sm80.cuh"
#include "kernels/common/launch.cuh"

namespace tandem::kernels {
namespace sm80 {

constexpr std::int64_t kAppendBlocksMax = 2048;

enum class Cache { kF32, kBf16, kF8 };

// Divided by the scale, rounded to e4m3.
template <bool kAligned>
__device__ __forceinline__ void store_f8(std::uint8_t* to, int count, const float (&values)[kChunk], float scale) {
  std::uint32_t words[kChunk / 4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; i += 2) {
    const float2 pair{__fdiv_rn(values[i], scale), __fdiv_rn(values[i + 1], scale)};
    const std::uint32_t bits = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    words[i / 4] |= bits << (8 * (i % 4));
  }
  if constexpr (kAligned) {
    if (count > 0) *reinterpret_cast<uint2*>(to) = {words[0], words[1]};
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) to[i] = static_cast<std::uint8_t>(words[i / 4] >> (8 * (i % 4)));
    }
  }
}

template <bool kBf16, bool kAligned>
__device__ __forceinline__ void store_values(void* to, std::int64_t at, int count, const float (&values)[kChunk]) {
  if constexpr (kBf16) {
    store_chunk<kAligned>(static_cast<std::uint16_t*>(to) + at, count, narrow<Bf16>(values));
  } else {
    float* const floats = static_cast<float*>(to) + at;
    if constexpr (kAligned) {
      if (count <= 0) return;
      reinterpret_cast<float4*>(floats)[0] = {values[0], values[1], values[2], values[3]};
      reinterpret_cast<float4*>(floats)[1] = {values[4], values[5], values[6], values[7]};
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        if (i < count) floats[i] = values[i];
      }
    }
  }
}

template <Cache kCache, bool kAligned>
__global__ void __launch_bounds__(kQkNormRopeThreads)
    norm_rope_append_sm80_kernel(const __grid_constant__ NormRopeAppendCall call, int threads) {
  start_next();
  wait_for_previous();
  if (call.cleared != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *call.cleared = 0;
  const HeadPart part(call.D, call.half, threads);
  const std::int64_t heads = call.H + 2 * call.G, rows = call.T * heads;
  for (std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * part.groups; base < rows;
       base += static_cast<std::int64_t>(gridDim.x) * part.groups) {
    const std::int64_t row = base + part.group;
    const bool is_row = row < rows;  // the others still meet their warp at its shuffles
    const std::int64_t token = row / heads;
    const int head = static_cast<int>(row - token * heads);
    const bool is_v = head >= call.H + call.G, is_q = head < call.H;
    float gains[2][kChunk], values[2][kChunk];
    load_head_gains<kAligned>(call, part, head, gains);
    norm_and_turn<kAligned>(call, part, token, head, is_row, gains, values);
    if (!is_row) continue;
    void* to = call.q;
    float scale = 1.0f;
    std::int64_t at = (token * call.H + head) * call.D;
    if (!is_q) {
      const std::int64_t slot = call.slots[token];
      if (slot < 0) continue;
      const std::int64_t page = slot / call.P, g = head - call.H - (is_v ? call.G : 0);
      to = is_v ? call.v : call.k;
      if constexpr (kCache == Cache::kF8) {
        const float* const scales = is_v ? call.v_scale : call.k_scale;
        if (scales != nullptr) scale = scales[g];
      }
      at = ((page * call.G + g) * call.P + (slot - page * call.P)) * call.D;
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const std::int64_t begin = at + part.begins[k];
      if (kCache == Cache::kF8 && !is_q) {
        store_f8<kAligned>(static_cast<std::uint8_t*>(to) + begin, part.counts[k], values[k], scale);
      } else {
        store_values<kCache != Cache::kF32, kAligned>(to, begin, part.counts[k], values[k]);
      }
    }
  }
}

}  // namespace sm80

Status norm_rope_append_sm80(const NormRopeAppendCall& call, device::Stream& stream) {
  const std::int64_t at_once = qk_norm_rope_heads_at_once(call.D, call.half);
  const std::int64_t blocks = (call.T * (call.H + 2 * call.G) + at_once - 1) / at_once;
  const dim3 grid(static_cast<unsigned>(std::min(blocks, sm80::kAppendBlocksMax)));
  const auto queue = [&](auto kernel) {
    return launch("norm_rope_append", kernel, {grid, kQkNormRopeThreads, 0, /*overlaps_previous=*/true}, stream, call,
                  kQkNormRopeThreads / static_cast<int>(at_once));
  };
  const auto queue_for = [&](auto cache) {
    return call.is_aligned ? queue(sm80::norm_rope_append_sm80_kernel<cache(), true>)
                           : queue(sm80::norm_rope_append_sm80_kernel<cache(), false>);
  };
  using sm80::Cache;
  if (call.kv_dtype == tensor::DType::kF32) return queue_for(std::integral_constant<Cache, Cache::kF32>());
  if (call.kv_dtype == tensor::DType::kBf16) return queue_for(std::integral_constant<Cache, Cache::kBf16>());
  return queue_for(std::integral_constant<Cache, Cache::kF8>());
}

}  // namespace tandem::kernels

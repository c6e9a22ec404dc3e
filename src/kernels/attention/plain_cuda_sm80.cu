// Paged attention on any card, for any page size and head dim: what f32 caches use, and others before Hopper.
//
//   grid   T*H warps, four to a block; a warp computes one row: one query token and head
//   scores lane i has keys i and i + 32 of the 64 of a block, each a chain over D
//   sums   lane i has columns i, i + 32, ...; each a chain over the keys, ascending
// A row walks the blocks that it sees something of, so its order is its own. Rows of a kv head share K and V through
// the caches only: this is the simple kernel.
#include <cuda_runtime.h>

#include "kernels/attention/cuda_paths.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kWarps = 4, kKeys = kAttentionKeyBlock, kColumnsMax = kAttentionCudaWidthMax / 32;
constexpr unsigned kWarp = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float widen(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}
__device__ __forceinline__ float rounded(float x) { return __uint_as_float(sm80::Bf16::pack(x, 0.0f) << 16); }

enum class Element { kF32, kBf16, kF8 };

// Its bits as those of an f32 mean 2^-120 times as much, whether normal or not.
__device__ __forceinline__ float widen_f8(std::uint32_t bits) {
  const float magnitude = (bits & 0x7fu) == 0x7fu ? NAN : __uint_as_float((bits & 0x7fu) << 20) * 0x1p120f;
  return (bits & 0x80u) != 0 ? -magnitude : magnitude;
}

template <Element kElement>
__device__ __forceinline__ float load(const void* from, std::int64_t at) {
  if constexpr (kElement == Element::kF8) {
    return widen_f8(static_cast<const std::uint8_t*>(from)[at]);
  } else if constexpr (kElement == Element::kBf16) {
    return widen(static_cast<const std::uint16_t*>(from)[at]);
  } else {
    return static_cast<const float*>(from)[at];
  }
}

// <q, K row>, four columns at a time, ascending.
template <Element kElement>
__device__ __forceinline__ float dot(const float* q, const void* k, std::int64_t at, int D) {
  float sum = 0.0f;
  for (int i = 0; i < D; i += 4) {
    float4 x;
    if constexpr (kElement == Element::kF8) {
      const std::uint32_t four = *reinterpret_cast<const std::uint32_t*>(static_cast<const std::uint8_t*>(k) + at + i);
      x = {widen_f8(four), widen_f8(four >> 8), widen_f8(four >> 16), widen_f8(four >> 24)};
    } else if constexpr (kElement == Element::kBf16) {
      const uint2 pairs = *reinterpret_cast<const uint2*>(static_cast<const std::uint16_t*>(k) + at + i);
      const float2 low = sm80::Bf16::unpack(pairs.x), high = sm80::Bf16::unpack(pairs.y);
      x = {low.x, low.y, high.x, high.y};
    } else {
      x = *reinterpret_cast<const float4*>(static_cast<const float*>(k) + at + i);
    }
    const float4 y = *reinterpret_cast<const float4*>(q + i);
    sum = __fmaf_rn(x.x, y.x, sum);
    sum = __fmaf_rn(x.y, y.y, sum);
    sum = __fmaf_rn(x.z, y.z, sum);
    sum = __fmaf_rn(x.w, y.w, sum);
  }
  return sum;
}

// The sequence that owns token t, or -1: query_start ascends.
__device__ __forceinline__ int sequence_of(const std::int32_t* query_start, int B, int t) {
  if (t >= query_start[B]) return -1;
  int low = 0, high = B;  // query_start[low] <= t < query_start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (query_start[middle] <= t ? low : high) = middle;
  }
  return low;
}

template <Element kElement>
__global__ void __launch_bounds__(32 * kWarps)
    attention_plain_sm80_kernel(const __grid_constant__ PagedAttentionCall call) {
  __shared__ alignas(16) float qs[kWarps][kAttentionCudaWidthMax];
  wait_for_previous();
  start_next();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, D = call.D;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (row >= call.T * call.H) return;
  const int t = static_cast<int>(row / call.H), h = static_cast<int>(row % call.H), g = h / (call.H / call.G);
  const int b = sequence_of(call.query_start, static_cast<int>(call.B), t);
  if (b < 0) return;
  const int position = call.context_len[b] - call.query_start[b + 1] + t;
  const int begin = call.window > 0 ? max(0, position - call.window + 1) : 0;
  const std::int32_t* const table = call.block_table + b * call.table_stride;
  const int P = static_cast<int>(call.P);

  float* const q = qs[warp];
  constexpr Element kQuery = kElement == Element::kF32 ? Element::kF32 : Element::kBf16;
  for (int i = lane; i < D; i += 32) {
    q[i] = load<kQuery>(call.q, t * call.q_token_stride + h * call.q_head_stride + i);
  }
  __syncwarp();
  float sums[kColumnsMax] = {}, max_log2 = -INFINITY, total = 0.0f;
  const float scale = call.k_scale != nullptr ? call.scale * call.k_scale[g] : call.scale, scale_log2 = scale * kLog2E;
  for (int first = begin / kKeys * kKeys; first <= position; first += kKeys) {
    std::int64_t at[2];
    float s[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = first + lane + 32 * i;
      at[i] = 0;
      s[i] = -INFINITY;
      if (j < begin || j > position) continue;
      const int page = j / P;
      at[i] = ((table[page] * static_cast<std::int64_t>(call.G) + g) * P + (j - page * P)) * D;
      const float product = dot<kElement>(q, call.k, at[i], D);
      s[i] = call.softcap > 0.0f ? call.softcap * tanhf(product * scale / call.softcap) * kLog2E : product * scale_log2;
    }
    float block_max = fmaxf(s[0], s[1]);
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      block_max = fmaxf(block_max, __shfl_xor_sync(kWarp, block_max, lanes));
    }
    const float next_max = fmaxf(max_log2, block_max);
    const float shift = next_max == -INFINITY ? 0.0f : next_max;
    const float fade = exp2f(max_log2 - shift);
    max_log2 = next_max;
    float p[2] = {exp2f(s[0] - shift), exp2f(s[1] - shift)};
    float sum = p[0] + p[1];
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kWarp, sum, lanes);
    total = __fmaf_rn(total, fade, sum);
    if constexpr (kElement != Element::kF32) {
      p[0] = rounded(p[0]);
      p[1] = rounded(p[1]);
    }
#pragma unroll
    for (int c = 0; c < kColumnsMax; ++c) sums[c] *= fade;
    const int key_begin = max(begin - first, 0), key_end = min(position + 1 - first, kKeys);
#pragma unroll(kElement == Element::kF8 ? 1 : 4)
    for (int key = key_begin; key < key_end; ++key) {
      const bool is_low = key < 32;
      const float weight = __shfl_sync(kWarp, is_low ? p[0] : p[1], key % 32);
      const std::int64_t from = __shfl_sync(kWarp, is_low ? at[0] : at[1], key % 32);
#pragma unroll
      for (int c = 0; c < kColumnsMax; ++c) {
        const int column = lane + 32 * c;
        if (column < D) sums[c] = __fmaf_rn(weight, load<kElement>(call.v, from + column), sums[c]);
      }
    }
  }
  float fade = 1.0f;
  if (call.sinks != nullptr) {
    const float sink = call.sinks[h] * kLog2E, with_sink = fmaxf(max_log2, sink);
    if (with_sink != -INFINITY) {
      fade = exp2f(max_log2 - with_sink);
      total = __fmaf_rn(total, fade, exp2f(sink - with_sink));
    }
  }
  const float out_scale = call.v_scale != nullptr ? call.v_scale[g] : 1.0f;
  const float inverse = (total == 0.0f ? 0.0f : fade / total) * out_scale;
  const std::int64_t to = t * call.out_token_stride + h * call.out_head_stride;
#pragma unroll
  for (int c = 0; c < kColumnsMax; ++c) {
    const int column = lane + 32 * c;
    if (column >= D) continue;
    const float value = sums[c] * inverse;
    if (call.out_is_bf16) {
      static_cast<std::uint16_t*>(call.out)[to + column] = static_cast<std::uint16_t>(sm80::Bf16::pack(value, 0.0f));
    } else {
      static_cast<float*>(call.out)[to + column] = value;
    }
  }
}

}  // namespace

Status attention_plain_sm80(const PagedAttentionCall& call, device::Stream& stream) {
  const dim3 grid(static_cast<unsigned>((call.T * call.H + kWarps - 1) / kWarps));
  const LaunchShape shape{grid, 32 * kWarps, 0};
  const auto queue = [&](auto kernel) { return launch("attention", kernel, shape, stream, call); };
  if (call.kv_dtype == tensor::DType::kF32) return queue(attention_plain_sm80_kernel<Element::kF32>);
  if (call.kv_dtype == tensor::DType::kBf16) return queue(attention_plain_sm80_kernel<Element::kBf16>);
  return queue(attention_plain_sm80_kernel<Element::kF8>);
}

}  // namespace tandem::kernels

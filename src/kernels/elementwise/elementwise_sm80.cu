// Four elements a thread, rows in a stride over the grid. Memory bound: bytes 4 (or 2) of each tensor's elements.
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/elementwise/paths.h"
#include "kernels/linear/epilogue.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256, kEach = 4;

__device__ __forceinline__ float apply(const ElementwiseCall& call, float a, float b) {
  switch (call.kind) {
    case Elementwise::kAddScaled: return __fmaf_rn(call.factor, b, a);
    case Elementwise::kScale: return __fmul_rn(call.factor, a);
    case Elementwise::kGate: return finish_pair_any(call.activation, a, b);
    default: return __fmul_rn(call.factor, tanhf(__fdiv_rn(a, call.factor)));
  }
}

// The first `count` of four elements; with kAligned there are four, on as many of their bytes.
template <bool kAligned>
__device__ __forceinline__ void load_four(const ElementwiseRows& rows, std::int64_t at, int count,
                                          float (&values)[kEach]) {
  if (rows.is_bf16) {
    const auto* const from = static_cast<const std::uint16_t*>(rows.data) + at;
    if constexpr (kAligned) {
      const uint2 words = *reinterpret_cast<const uint2*>(from);
      const float2 low = sm80::Bf16::unpack(words.x), high = sm80::Bf16::unpack(words.y);
      values[0] = low.x, values[1] = low.y, values[2] = high.x, values[3] = high.y;
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) values[i] = i < count ? __uint_as_float(std::uint32_t{from[i]} << 16) : 0.0f;
    }
    return;
  }
  const float* const from = static_cast<const float*>(rows.data) + at;
  if constexpr (kAligned) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
  } else {
#pragma unroll
    for (int i = 0; i < kEach; ++i) values[i] = i < count ? from[i] : 0.0f;
  }
}

template <bool kAligned>
__device__ __forceinline__ void store_four(const ElementwiseRows& rows, std::int64_t at, int count,
                                           const float (&values)[kEach]) {
  if (rows.is_bf16) {
    auto* const to = static_cast<__nv_bfloat16*>(rows.data) + at;
    if constexpr (kAligned) {
      *reinterpret_cast<uint2*>(to) = {sm80::Bf16::pack(values[0], values[1]), sm80::Bf16::pack(values[2], values[3])};
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (i < count) to[i] = __float2bfloat16_rn(values[i]);
      }
    }
    return;
  }
  float* const to = static_cast<float*>(rows.data) + at;
  if constexpr (kAligned) {
    *reinterpret_cast<float4*>(to) = {values[0], values[1], values[2], values[3]};
  } else {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (i < count) to[i] = values[i];
    }
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) elementwise(const __grid_constant__ ElementwiseCall call) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads * kEach;
  for (std::int64_t row = blockIdx.y; row < call.rows; row += gridDim.y) {
    for (std::int64_t column = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kEach; column < call.width;
         column += step) {
      const int count = static_cast<int>(min(std::int64_t{kEach}, call.width - column));
      float a[kEach], b[kEach] = {};
      load_four<kAligned>(call.a, row * call.a.stride + column, count, a);
      if (call.b.data != nullptr) load_four<kAligned>(call.b, row * call.b.stride + column, count, b);
#pragma unroll
      for (int i = 0; i < kEach; ++i) a[i] = apply(call, a[i], b[i]);
      store_four<kAligned>(call.y, row * call.y.stride + column, count, a);
    }
  }
}

}  // namespace

Status elementwise_sm80(const ElementwiseCall& call, device::Stream& stream) {
  constexpr std::int64_t kBlocksMax = 132 * 16;
  ElementwiseCall flat = call;
  bool is_aligned = true, is_dense = true;
  for (const ElementwiseRows* rows : {&call.a, &call.b, &call.y}) {
    if (rows->data == nullptr) continue;
    is_aligned = is_aligned && reinterpret_cast<std::uintptr_t>(rows->data) % (rows->is_bf16 ? 8 : 16) == 0 &&
                 (call.rows == 1 || rows->stride % kEach == 0);
    is_dense = is_dense && rows->stride == call.width;
  }
  if (is_dense) flat.width = call.rows * call.width, flat.rows = 1;
  is_aligned = is_aligned && flat.width % kEach == 0;
  const std::int64_t across = std::min(kBlocksMax, (flat.width + kThreads * kEach - 1) / (kThreads * kEach));
  const std::int64_t down = across == 0 ? 0 : std::min(flat.rows, (kBlocksMax + across - 1) / across);
  return launch("elementwise", is_aligned ? elementwise<true> : elementwise<false>,
                {dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), kThreads, 0}, stream, flat);
}

}  // namespace tandem::kernels

// Normalises rows of f32, one block a row: norm/row_f32.cuh has the order. What is read is asked for at once, the
// weight before the kernel that makes x has ended.
#include "kernels/common/launch.cuh"
#include "kernels/norm/paths.h"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels {
namespace {

// A row of up to kKeptWidth elements stays in registers, four of them in a piece; their order is norm_part()'s.
constexpr int kPieces = 8, kPieceStride = 4 * kNormThreads, kKeptWidth = kPieces * kPieceStride;

__device__ __forceinline__ void store(const RmsNormF32& call, std::int64_t at, const float4& y) {
  if (call.y_is_bf16) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(y.x, y.y), high = __floats2bfloat162_rn(y.z, y.w);
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(call.y) + at) = {*reinterpret_cast<const unsigned*>(&low),
                                                                           *reinterpret_cast<const unsigned*>(&high)};
  } else {
    *reinterpret_cast<float4*>(static_cast<float*>(call.y) + at) = y;
  }
}
__device__ __forceinline__ void store(const RmsNormF32& call, std::int64_t at, float y) {
  if (call.y_is_bf16) {
    static_cast<__nv_bfloat16*>(call.y)[at] = __float2bfloat16_rn(y);
  } else {
    static_cast<float*>(call.y)[at] = y;
  }
}

template <bool kKept>
__global__ void __launch_bounds__(kNormThreads) rms_norm_row(const __grid_constant__ RmsNormF32 call) {
  __shared__ float of_warps[kNormWarps];
  start_next();
  const std::int64_t token = blockIdx.x / call.heads, head = blockIdx.x % call.heads;
  const float* const x = call.x + token * call.x_stride + head * call.x_head_stride;
  const std::int64_t y_at = token * call.y_stride + head * call.y_head_stride;
  const int thread = static_cast<int>(threadIdx.x), width = static_cast<int>(call.width);
  [[maybe_unused]] float4 gains[kPieces], pieces[kPieces];
  float sum = 0.0f;
  if constexpr (kKept) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int i = 4 * thread + p * kPieceStride;
      gains[p] = i < width ? *reinterpret_cast<const float4*>(call.weight + i) : float4{};
    }
    wait_for_previous();
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int i = 4 * thread + p * kPieceStride;
      pieces[p] = i < width ? *reinterpret_cast<const float4*>(x + i) : float4{};
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {  // the zeros past the end change nothing
      sum = __fmaf_rn(pieces[p].x, pieces[p].x, sum);
      sum = __fmaf_rn(pieces[p].y, pieces[p].y, sum);
      sum = __fmaf_rn(pieces[p].z, pieces[p].z, sum);
      sum = __fmaf_rn(pieces[p].w, pieces[p].w, sum);
    }
  } else {
    wait_for_previous();
    sum = norm_part(x, width, thread);
  }
  sum = norm_warp_sum(sum);
  if (thread % 32 == 0) of_warps[thread / 32] = sum;
  __syncthreads();
  const float scale = norm_scale(of_warps, width, call.eps);
  if constexpr (kKept) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int i = 4 * thread + p * kPieceStride;
      const float4 &from = pieces[p], &gain = gains[p];
      if (i < width) {
        store(call, y_at + i,
              float4{normalised(from.x, scale, gain.x, call.offset), normalised(from.y, scale, gain.y, call.offset),
                     normalised(from.z, scale, gain.z, call.offset), normalised(from.w, scale, gain.w, call.offset)});
      }
    }
  } else {
    for (int i = thread; i < width; i += kNormThreads) {
      store(call, y_at + i, normalised(x[i], scale, call.weight[i], call.offset));
    }
  }
}

bool is_kept(const RmsNormF32& call) {
  const auto on_16 = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; };
  const std::int64_t strides = call.x_stride | call.x_head_stride | call.y_stride | call.y_head_stride;
  return call.width <= kKeptWidth && call.width % 4 == 0 && strides % 4 == 0 && on_16(call.x) && on_16(call.weight) &&
         on_16(call.y);
}

}  // namespace

Status rms_norm_forward_f32_sm80(const RmsNormF32& call, device::Stream& stream) {
  const LaunchShape shape{dim3(static_cast<unsigned>(call.rows)), kNormThreads, 0, /*overlaps_previous=*/true};
  return launch("rms_norm", is_kept(call) ? rms_norm_row<true> : rms_norm_row<false>, shape, stream, call);
}

}  // namespace tandem::kernels

// The backward's sums rounded and written as rows (backward_finish_sm90.cuh).
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/backward_finish_sm90.cuh"
#include "kernels/fused_attention/interval.h"

namespace tandem::kernels::sm90 {
namespace {

constexpr const char* kOp = "fused attention backward";

// Eight pieces of a thread: two rows eight apart, of which it has two columns of every eight.
template <class Half, int kStride>
__device__ __forceinline__ void place_rounded(const float4 (&pieces)[8], float scale, Half (*tile)[kStride], int row,
                                              int column) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 x = pieces[i];
    *reinterpret_cast<std::uint32_t*>(&tile[row][column + 8 * i]) = pack<Half>(x.x * scale, x.y * scale);
    *reinterpret_cast<std::uint32_t*>(&tile[row + 8][column + 8 * i]) = pack<Half>(x.z * scale, x.w * scale);
  }
}

//   grid (steps, H), 256 threads
template <int kD, class Half>
__global__ __launch_bounds__(256) void fused_attention_finish_queries_sm90_kernel(const BackwardStep* steps, int left,
                                                                                  int right, const float* sums,
                                                                                  float scale, Half* dq,
                                                                                  std::int64_t row_stride,
                                                                                  std::int64_t head_stride, int D) {
  constexpr int kRows = kD == 64 ? 128 : 64;
  __shared__ alignas(16) Half tile[kRows][kD + 8];
  wait_for_previous();
  const BackwardStep step = steps[blockIdx.x];
  const std::int64_t head = blockIdx.y;
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const float4* const from = reinterpret_cast<const float4*>(sums + (head * gridDim.x + blockIdx.x) * kRows * kD) +
                             warpgroup * (kRows * kD / 8) + thread;
  float4 pieces[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) pieces[i] = __ldcs(from + i * 128);
  place_rounded(pieces, scale, tile, (kD == 64 ? warpgroup * 64 : 0) + warp * 16 + lane / 4,
                (kD == 64 ? 0 : warpgroup * 64) + 2 * (lane % 4));
  __syncthreads();
  constexpr int kChunks = kD / 8;
  const RowInterval interval{left, right, step.context};
  for (int i = threadIdx.x; i < kRows * kChunks; i += 256) {
    const int r = i / kChunks, chunk = i % kChunks, position = step.position + r;
    if (r >= step.rows || chunk * 8 >= D) continue;
    const bool sees_some = interval.begin(position) < interval.end(position);  // nobody added to the others
    *reinterpret_cast<uint4*>(dq + (step.query_row + r) * row_stride + head * head_stride + chunk * 8) =
        sees_some ? *reinterpret_cast<const uint4*>(&tile[r][chunk * 8]) : make_uint4(0, 0, 0, 0);
  }
}

// 64 columns of dk or dv of a tile.   grid (tiles cut, W/64, 2), 256 threads
template <int kD, class Half>
__global__ __launch_bounds__(256) void fused_attention_finish_keys_sm90_kernel(
    const KeySums* tiles, const float4* sums, float scale, Half* dk, std::int64_t dk_row_stride,
    std::int64_t dk_head_stride, Half* dv, std::int64_t dv_row_stride, std::int64_t dv_head_stride, int D) {
  __shared__ alignas(16) Half rounded[128][64 + 8];
  wait_for_previous();
  const KeySums tile = tiles[blockIdx.x];
  const bool is_dk = blockIdx.z == 0;
  const int first_column = static_cast<int>(blockIdx.y) * 64;
  const float4* from =
      sums +
      (static_cast<std::int64_t>(tile.begin) * (kD / 4) + (is_dk ? 0 : kD / 8) + static_cast<int>(blockIdx.y) * 8) *
          256 +
      threadIdx.x;
  float4 pieces[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) pieces[i] = __ldcs(from + i * 256);
  for (int item = 1; item < tile.count; ++item) {
    from += kD / 4 * 256;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 x = __ldcs(from + i * 256);
      pieces[i].x += x.x, pieces[i].y += x.y, pieces[i].z += x.z, pieces[i].w += x.w;
    }
  }
  const int lane = threadIdx.x % 32;
  place_rounded(pieces, is_dk ? scale : 1.0f, rounded, static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4,
                2 * (lane % 4));
  __syncthreads();
  Half* const to = (is_dk ? dk + tile.key_row * dk_row_stride + tile.kv_head * dk_head_stride
                          : dv + tile.key_row * dv_row_stride + tile.kv_head * dv_head_stride) +
                   first_column;
  const std::int64_t row_stride = is_dk ? dk_row_stride : dv_row_stride;
  for (int i = threadIdx.x; i < tile.keys * 8; i += 256) {
    const int r = i / 8, chunk = i % 8;
    if (first_column + chunk * 8 >= D) continue;
    *reinterpret_cast<uint4*>(to + r * row_stride + chunk * 8) =
        *reinterpret_cast<const uint4*>(&rounded[r][chunk * 8]);
  }
}

template <int kD, class Half>
Status launch_finish_queries(const FusedBackwardCall& call, const float* sums) {
  const FusedAttentionPlan& plan = call.plan;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(plan.steps_count), static_cast<unsigned>(plan.shape().H)),
                          .threads = 256,
                          .overlaps_previous = true};
  return launch(kOp, fused_attention_finish_queries_sm90_kernel<kD, Half>, shape, call.stream,
                reinterpret_cast<const BackwardStep*>(call.words + plan.backward_steps.offset), plan.window().left,
                plan.window().right, sums, call.params.scale, static_cast<Half*>(call.dq.data()), call.dq.stride(0),
                call.dq.stride(1), static_cast<int>(plan.shape().D));
}

template <int kD, class Half>
Status launch_finish_keys(const FusedBackwardCall& call, const float4* sums) {
  const FusedAttentionPlan& plan = call.plan;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(plan.backward_sums.count), kD / 64, 2),
                          .threads = 256,
                          .overlaps_previous = true};
  return launch(kOp, fused_attention_finish_keys_sm90_kernel<kD, Half>, shape, call.stream,
                reinterpret_cast<const KeySums*>(call.words + plan.backward_sums.offset), sums, call.params.scale,
                static_cast<Half*>(call.dk.data()), call.dk.stride(0), call.dk.stride(1),
                static_cast<Half*>(call.dv.data()), call.dv.stride(0), call.dv.stride(1),
                static_cast<int>(plan.shape().D));
}

}  // namespace

Status finish_queries(const FusedBackwardCall& call, const float* sums) {
  const bool is_bf16 = call.q.dtype() == tensor::DType::kBf16;
  if (call.plan.shape().D <= 64) {
    return is_bf16 ? launch_finish_queries<64, __nv_bfloat16>(call, sums)
                   : launch_finish_queries<64, __half>(call, sums);
  }
  return is_bf16 ? launch_finish_queries<128, __nv_bfloat16>(call, sums)
                 : launch_finish_queries<128, __half>(call, sums);
}

Status finish_keys(const FusedBackwardCall& call, const float4* sums) {
  const bool is_bf16 = call.q.dtype() == tensor::DType::kBf16;
  if (call.plan.shape().D <= 64) {
    return is_bf16 ? launch_finish_keys<64, __nv_bfloat16>(call, sums) : launch_finish_keys<64, __half>(call, sums);
  }
  return is_bf16 ? launch_finish_keys<128, __nv_bfloat16>(call, sums) : launch_finish_keys<128, __half>(call, sums);
}

}  // namespace tandem::kernels::sm90

// Few tokens to their experts (moe.h, moe_route_cuda): what router_sm80.cu, group_sm80.cu and the gather of
// rows_sm80.cu do, after a norm of x if there is one, in one launch.
//   grid  a block of 256 threads for each pair and one more; each chooses the experts of all tokens itself, a warp a
//         token, so that no block waits for another. Block p < T*topk then knows where pair p goes and writes its row;
//         the last block writes the weights and the offsets.
// The norm's order is norm/row_f32.cuh's.
// Bound  a few hundred KB from L2: the time of a launch
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/moe/fours_sm80.cuh"
#include "kernels/moe/paths.h"
#include "kernels/moe/router_row.cuh"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels {
namespace sm80 {

inline constexpr int kRoutePieceStride = 4 * kNormThreads;
inline constexpr int kRoutePieces = static_cast<int>(kMoeRouteWidthMax) / kRoutePieceStride;
static_assert(kMoeRoutePairsMax <= kNormThreads);

// Its own part of a row, as norm/row_f32.cuh deals it out.
template <bool kAligned>
struct RoutePart {
  float4 of[kRoutePieces];
  __device__ __forceinline__ void load(const float* row, int width) {
#pragma unroll
    for (int p = 0; p < kRoutePieces; ++p) {
      const int column = 4 * static_cast<int>(threadIdx.x) + p * kRoutePieceStride;
      of[p] = row != nullptr && column < width ? load_four<kAligned>(row + column, width - column) : float4{};
    }
  }
};

template <int kLogits, class Element, bool kAligned>
__global__ void __launch_bounds__(kNormThreads)
    moe_route_sm80_kernel(const __grid_constant__ RouteArguments arguments) {
  __shared__ std::int32_t expert_of[kMoeRoutePairsMax];
  __shared__ float of_warps[kNormWarps];
  start_next();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int top_k = arguments.top_k, pairs = arguments.tokens * top_k, width = arguments.width;
  const int own = static_cast<int>(blockIdx.x);  // pair
  const bool writes_row = own < pairs, has_norm = arguments.norm_weight != nullptr;
  RoutePart<kAligned> gains, values;
  gains.load(writes_row ? arguments.norm_weight : nullptr, width);
  wait_for_previous();
  values.load(writes_row ? arguments.x + own / top_k * arguments.x_stride : nullptr, width);

  for (int token = warp; token < arguments.tokens; token += kNormWarps) {
    const RouterChoice choice = choose_experts<kLogits>(arguments.logits + token * arguments.logits_stride,
                                                        {arguments.X, top_k, arguments.norm});
    if (lane < top_k) {
      expert_of[token * top_k + lane] = choice.expert;
      if (!writes_row) arguments.weights[token * top_k + lane] = choice.weight;
    }
  }
  if (has_norm) {
    float sum = 0.0f;  // the zeros past the end change nothing
#pragma unroll
    for (int p = 0; p < kRoutePieces; ++p) {
      sum = __fmaf_rn(values.of[p].x, values.of[p].x, sum);
      sum = __fmaf_rn(values.of[p].y, values.of[p].y, sum);
      sum = __fmaf_rn(values.of[p].z, values.of[p].z, sum);
      sum = __fmaf_rn(values.of[p].w, values.of[p].w, sum);
    }
    sum = norm_warp_sum(sum);
    if (lane == 0) of_warps[warp] = sum;
  }
  __syncthreads();  // experts and sums are there
  if (!writes_row) {
    for (int expert = thread; expert <= arguments.X; expert += kNormThreads) {
      int before = 0;
      for (int pair = 0; pair < pairs; ++pair) before += expert_of[pair] < expert;
      arguments.offsets[expert] = before;
    }
    return;
  }
  // Pairs of lower experts, and earlier ones of its own, lie before it.
  const std::int32_t expert = expert_of[own];
  const bool is_before =
      thread < pairs && (expert_of[thread] < expert || (expert_of[thread] == expert && thread < own));
  const int place = __syncthreads_count(is_before);
  if (thread == 0) arguments.pair_of[own] = place;
  const float scale = has_norm ? norm_scale(of_warps, width, arguments.norm_eps) : 1.0f;
  Element* const row = static_cast<Element*>(arguments.y) + place * arguments.y_stride;
#pragma unroll
  for (int p = 0; p < kRoutePieces; ++p) {
    const int column = 4 * thread + p * kRoutePieceStride;
    if (column >= width) break;
    float4 four = values.of[p];
    if (has_norm) {
      four.x = normalised(four.x, scale, gains.of[p].x, arguments.norm_offset);
      four.y = normalised(four.y, scale, gains.of[p].y, arguments.norm_offset);
      four.z = normalised(four.z, scale, gains.of[p].z, arguments.norm_offset);
      four.w = normalised(four.w, scale, gains.of[p].w, arguments.norm_offset);
    }
    store_four<kAligned>(row + column, width - column, four);
  }
}

template <class Element, bool kAligned>
auto route_kernel_for(int X) {
  return X <= 32    ? moe_route_sm80_kernel<1, Element, kAligned>
         : X <= 128 ? moe_route_sm80_kernel<4, Element, kAligned>
                    : moe_route_sm80_kernel<kMoeExpertsMax / 32, Element, kAligned>;
}

}  // namespace sm80

Status moe_route_sm80(const RouteArguments& arguments, bool is_bf16, bool is_aligned, device::Stream& stream) {
  const LaunchShape shape{dim3(static_cast<unsigned>(arguments.tokens * arguments.top_k) + 1), kNormThreads, 0,
                          /*overlaps_previous=*/true};
  const auto kernel = is_bf16 ? (is_aligned ? sm80::route_kernel_for<std::uint16_t, true>(arguments.X)
                                            : sm80::route_kernel_for<std::uint16_t, false>(arguments.X))
                              : (is_aligned ? sm80::route_kernel_for<float, true>(arguments.X)
                                            : sm80::route_kernel_for<float, false>(arguments.X));
  return launch("moe_route", kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

// Rows to the experts and back (moe.h says what is computed).
//   gather   x [T,C] f32, tokens [T*topk] i32 -> y [T*topk,C] f32 or bf16
//   combine  expert_out [T*topk,C] f32, weights and pair_of [T,topk], residual [T,C] -> y [T,C] f32
//   grid     a block of 256 threads for each row, a thread for 4 columns at a time
// Combine adds a column's choices in ascending order, by multiply-adds; so the bits are those of the CPU's with AVX2.
// Bound  bytes: gather 4*T*C + (4 or 2)*T*topk*C; combine 4*T*topk*C + (4 or 8)*T*C
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm80.cuh"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace sm80 {

inline constexpr int kRowThreads = 256;

// Four columns; with kAligned all are there, else the first `count`.
template <bool kAligned>
__device__ __forceinline__ float4 load_four(const float* from, int count) {
  if constexpr (kAligned) return *reinterpret_cast<const float4*>(from);
  return {from[0], count > 1 ? from[1] : 0.0f, count > 2 ? from[2] : 0.0f, count > 3 ? from[3] : 0.0f};
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

__device__ __forceinline__ float4 multiply_add(float factor, float4 x, float4 sum) {
  return {__fmaf_rn(factor, x.x, sum.x), __fmaf_rn(factor, x.y, sum.y), __fmaf_rn(factor, x.z, sum.z),
          __fmaf_rn(factor, x.w, sum.w)};
}

template <class Element, bool kAligned>
__global__ void __launch_bounds__(kRowThreads) moe_gather_sm80_kernel(const GatherArguments arguments) {
  const std::int64_t pair = blockIdx.x;
  const std::uint32_t token = static_cast<std::uint32_t>(arguments.tokens[pair]);
  const bool is_token = token < static_cast<std::uint32_t>(arguments.x_rows);
  const float* const from = arguments.x + (is_token ? token : 0) * arguments.x_stride;
  Element* const to = static_cast<Element*>(arguments.y) + pair * arguments.y_stride;
  for (int column = 4 * static_cast<int>(threadIdx.x); column < arguments.width; column += 4 * kRowThreads) {
    const int count = arguments.width - column;
    const float4 values = is_token ? load_four<kAligned>(from + column, count) : float4{NAN, NAN, NAN, NAN};
    store_four<kAligned>(to + column, count, values);
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kRowThreads) moe_combine_sm80_kernel(const CombineArguments arguments) {
  const std::int64_t token = blockIdx.x;
  const std::int32_t* const pair_of = arguments.pair_of + token * arguments.top_k;
  const float* const weights = arguments.weights + token * arguments.top_k;
  for (int column = 4 * static_cast<int>(threadIdx.x); column < arguments.width; column += 4 * kRowThreads) {
    const int count = arguments.width - column;
    float4 sum{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int choice = 0; choice < arguments.top_k; ++choice) {
      const std::uint32_t pair = static_cast<std::uint32_t>(pair_of[choice]);
      const bool is_pair = pair < static_cast<std::uint32_t>(arguments.pairs);
      const float4 row =
          is_pair ? load_four<kAligned>(arguments.expert_out + pair * arguments.expert_out_stride + column, count)
                  : float4{NAN, NAN, NAN, NAN};
      sum = multiply_add(weights[choice], row, sum);
    }
    float4 y{arguments.alpha * sum.x, arguments.alpha * sum.y, arguments.alpha * sum.z, arguments.alpha * sum.w};
    if (arguments.residual != nullptr) {
      const float* const residual = arguments.residual + token * arguments.residual_stride + column;
      y = multiply_add(arguments.alpha, sum, load_four<kAligned>(residual, count));
    }
    store_four<kAligned>(arguments.y + token * arguments.y_stride + column, count, y);
  }
}

}  // namespace sm80

Status moe_gather_sm80(const GatherArguments& arguments, bool is_bf16, bool is_aligned, device::Stream& stream) {
  using sm80::moe_gather_sm80_kernel;
  const LaunchShape shape{dim3(static_cast<unsigned>(arguments.pairs)), sm80::kRowThreads, 0};
  const auto kernel =
      is_bf16
          ? (is_aligned ? moe_gather_sm80_kernel<std::uint16_t, true> : moe_gather_sm80_kernel<std::uint16_t, false>)
          : (is_aligned ? moe_gather_sm80_kernel<float, true> : moe_gather_sm80_kernel<float, false>);
  return launch("moe_gather", kernel, shape, stream, arguments);
}

Status moe_combine_sm80(const CombineArguments& arguments, bool is_aligned, device::Stream& stream) {
  using sm80::moe_combine_sm80_kernel;
  const LaunchShape shape{dim3(static_cast<unsigned>(arguments.tokens)), sm80::kRowThreads, 0};
  const auto kernel = is_aligned ? moe_combine_sm80_kernel<true> : moe_combine_sm80_kernel<false>;
  return launch("moe_combine", kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

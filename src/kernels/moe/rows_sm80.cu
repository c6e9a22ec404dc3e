// Rows to the experts and back (moe.h says what is computed).
//   gather   x [T,C] f32 or bf16, tokens [T*topk] i32 -> y [T*topk,C] of f32, or bf16
//   combine  expert_out [T*topk,C] f32, weights and pair_of [T,topk], residual [T,C] -> y [T,C] f32
//   grid     256 threads for each row, a thread for 16 bytes at a time; combine has a block for each 1024 columns
// Combine adds a column's choices in ascending order, by multiply-adds; so the bits are those of the CPU's with AVX2.
// Bound  bytes: gather (4 or 2)*T*C + (4 or 2)*T*topk*C; combine 4*T*topk*C + (4 or 8)*T*C
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/moe/fours_sm80.cuh"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace sm80 {

inline constexpr int kRowThreads = 256;

__device__ __forceinline__ float4 multiply_add(float factor, float4 x, float4 sum) {
  return {__fmaf_rn(factor, x.x, sum.x), __fmaf_rn(factor, x.y, sum.y), __fmaf_rn(factor, x.z, sum.z),
          __fmaf_rn(factor, x.w, sum.w)};
}

// Columns of a row, as many as 16 bytes of `from` hold; with kAligned all are there, else the first `count`.
template <bool kAligned, class To>
__device__ __forceinline__ void copy_columns(const float* from, To* to, int count) {
  store_four<kAligned>(to, count, from == nullptr ? float4{NAN, NAN, NAN, NAN} : load_four<kAligned>(from, count));
}
template <bool kAligned>
__device__ __forceinline__ void copy_columns(const std::uint16_t* from, std::uint16_t* to, int count) {
  constexpr std::uint16_t kNan = 0x7fff;  // as a float's is rounded
  if constexpr (kAligned) {
    constexpr std::uint32_t kNans = kNan << 16 | kNan;
    *reinterpret_cast<uint4*>(to) =
        from == nullptr ? uint4{kNans, kNans, kNans, kNans} : __ldcg(reinterpret_cast<const uint4*>(from));
  } else {
    for (int i = 0; i < min(count, 8); ++i) to[i] = from == nullptr ? kNan : __ldcg(from + i);
  }
}

template <class From, class To, bool kAligned>
__global__ void __launch_bounds__(kRowThreads) moe_gather_sm80_kernel(const GatherArguments arguments) {
  constexpr int kColumns = 16 / sizeof(From);
  start_next();
  wait_for_previous();
  const std::int64_t pair = blockIdx.x;
  const std::uint32_t token = static_cast<std::uint32_t>(arguments.tokens[pair]);
  const bool is_token = token < static_cast<std::uint32_t>(arguments.x_rows);
  const From* const from = static_cast<const From*>(arguments.x) + (is_token ? token : 0) * arguments.x_stride;
  To* const to = static_cast<To*>(arguments.y) + pair * arguments.y_stride;
  for (int column = kColumns * static_cast<int>(threadIdx.x); column < arguments.width;
       column += kColumns * kRowThreads) {
    copy_columns<kAligned>(is_token ? from + column : nullptr, to + column, arguments.width - column);
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kRowThreads) moe_combine_sm80_kernel(const CombineArguments arguments) {
  constexpr int kChoices = 8;  // whose loads are under way together
  start_next();
  if (!arguments.is_settled) wait_for_previous();
  const std::int64_t token = blockIdx.x;
  const int column = 4 * static_cast<int>(blockIdx.y * kRowThreads + threadIdx.x), count = arguments.width - column;
  float4 residual{}, sum{};
  if (arguments.residual != nullptr && count > 0) {
    residual = load_four<kAligned>(arguments.residual + token * arguments.residual_stride + column, count);
  }
  for (int first = 0; first < arguments.top_k; first += kChoices) {
    std::uint32_t pairs[kChoices];
    float weights[kChoices];
#pragma unroll
    for (int i = 0; i < kChoices; ++i) {
      const std::int64_t at = token * arguments.top_k + min(first + i, arguments.top_k - 1);
      pairs[i] = static_cast<std::uint32_t>(__ldcg(arguments.pair_of + at));
      weights[i] = __ldcg(arguments.weights + at);
    }
    if (first == 0) wait_for_previous();  // again, where that has been: what follows is of the kernel before
    if (count <= 0) return;
#pragma unroll
    for (int i = 0; i < kChoices; ++i) {
      if (first + i >= arguments.top_k) break;
      const float4 row =
          pairs[i] < static_cast<std::uint32_t>(arguments.pairs)
              ? load_four<kAligned>(arguments.expert_out + pairs[i] * arguments.expert_out_stride + column, count)
              : float4{NAN, NAN, NAN, NAN};
      sum = multiply_add(weights[i], row, sum);
    }
  }
  wait_for_previous();  // without any choice, too
  if (count <= 0) return;
  float4 y{arguments.alpha * sum.x, arguments.alpha * sum.y, arguments.alpha * sum.z, arguments.alpha * sum.w};
  if (arguments.residual != nullptr) y = multiply_add(arguments.alpha, sum, residual);
  store_four<kAligned>(arguments.y + token * arguments.y_stride + column, count, y);
}

}  // namespace sm80

Status moe_gather_sm80(const GatherArguments& arguments, bool is_aligned, device::Stream& stream) {
  using sm80::moe_gather_sm80_kernel;
  using Half = std::uint16_t;
  const LaunchShape shape{dim3(static_cast<unsigned>(arguments.pairs)), sm80::kRowThreads, 0,
                          /*overlaps_previous=*/true};
  const auto start = [&](auto* aligned, auto* any) {
    return launch("moe_gather", is_aligned ? aligned : any, shape, stream, arguments);
  };
  if (arguments.x_is_bf16) {
    return start(moe_gather_sm80_kernel<Half, Half, true>, moe_gather_sm80_kernel<Half, Half, false>);
  }
  return arguments.y_is_bf16
             ? start(moe_gather_sm80_kernel<float, Half, true>, moe_gather_sm80_kernel<float, Half, false>)
             : start(moe_gather_sm80_kernel<float, float, true>, moe_gather_sm80_kernel<float, float, false>);
}

Status moe_combine_sm80(const CombineArguments& arguments, bool is_aligned, device::Stream& stream) {
  using sm80::moe_combine_sm80_kernel;
  constexpr int kColumns = 4 * sm80::kRowThreads;
  const dim3 grid(static_cast<unsigned>(arguments.tokens),
                  static_cast<unsigned>((arguments.width + kColumns - 1) / kColumns));
  const LaunchShape shape{grid, sm80::kRowThreads, 0, /*overlaps_previous=*/true};
  const auto kernel = is_aligned ? moe_combine_sm80_kernel<true> : moe_combine_sm80_kernel<false>;
  return launch("moe_combine", kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

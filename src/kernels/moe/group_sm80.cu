// Sorts the pairs of tokens and choices by expert, stably (moe.h says what is computed).
//   in    experts [T,topk] i32     out  offsets [X+1], tokens [T*topk], pair_of [T,topk] i32
//   grid  X+1 blocks: block b places the pairs of expert b, the last those of no expert
// Every block reads all pairs twice: it counts those of lower experts, which is where its own begin, and its own, warp
// by warp; then each warp places its own in order. No block waits for another and nothing is left to the order of
// atomics.
//   pairs  |warp 0     |warp 1     |...   a run for each warp; a step takes 32 of it
// Bound  2*4*(X+1)*T*topk bytes from L2; X = 128, T*topk = 65536: 68 MB
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/moe/paths.h"

namespace tandem::kernels {
namespace sm80 {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kGroupThreads = 512, kGroupWarps = kGroupThreads / 32;
inline constexpr int kSteps = 8;  // whose loads are under way together

__global__ void __launch_bounds__(kGroupThreads) moe_group_sm80_kernel(const GroupArguments arguments) {
  __shared__ std::int32_t lower_of_warp[kGroupWarps], own_of_warp[kGroupWarps];
  start_next();
  wait_for_previous();
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const std::uint32_t own = blockIdx.x, X = static_cast<std::uint32_t>(arguments.X);
  const int run = (arguments.pairs + 32 * kGroupWarps - 1) / (32 * kGroupWarps) * 32;
  const int begin = min(arguments.pairs, run * warp), end = min(arguments.pairs, begin + run);
  // The expert of a pair; X for one that has none, as negative and too large ones do, and X+1 after the end.
  const auto expert_of = [&](int pair) {
    return pair < end ? min(static_cast<std::uint32_t>(arguments.experts[pair]), X) : X + 1;
  };

  int lower_count = 0, own_count = 0;
  for (int base = begin; base < end; base += 32 * kSteps) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const std::uint32_t expert = expert_of(base + 32 * step + lane);
      lower_count += expert < own;
      own_count += expert == own;
    }
  }
  lower_count = __reduce_add_sync(kAllLanes, lower_count);
  own_count = __reduce_add_sync(kAllLanes, own_count);
  if (lane == 0) lower_of_warp[warp] = lower_count, own_of_warp[warp] = own_count;
  __syncthreads();  // all warps have counted
  int next = 0;
  for (int w = 0; w < kGroupWarps; ++w) next += lower_of_warp[w];
  if (threadIdx.x == 0) arguments.offsets[own] = next;
  if (own_count == 0) return;
  for (int w = 0; w < warp; ++w) next += own_of_warp[w];

  const std::uint32_t lanes_before = (1u << lane) - 1;
  for (int base = begin; base < end; base += 32 * kSteps) {
    std::uint32_t experts[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) experts[step] = expert_of(base + 32 * step + lane);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const std::uint32_t of_own = __ballot_sync(kAllLanes, experts[step] == own);
      if (experts[step] == own) {
        const int pair = base + 32 * step + lane, place = next + __popc(of_own & lanes_before);
        arguments.tokens[place] = own < X ? pair / arguments.top_k : -1;
        arguments.pair_of[pair] = place;
      }
      next += __popc(of_own);
    }
  }
}

}  // namespace sm80

Status moe_group_sm80(const GroupArguments& arguments, device::Stream& stream) {
  const LaunchShape shape{dim3(static_cast<unsigned>(arguments.X) + 1), sm80::kGroupThreads, 0,
                          /*overlaps_previous=*/true};
  return launch("moe_group", sm80::moe_group_sm80_kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

// The experts of each token and their weights (moe.h says what is computed).
//   in    logits [T,X] f32     out  weights [T,topk] f32, experts [T,topk] i32
//   grid  a warp for each token, 8 to a block; lane l has logits l, l+32, ... in registers
// Bound  a decode step's T*X are a few KB: the time of a launch
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/moe/paths.h"
#include "kernels/moe/router_row.cuh"

namespace tandem::kernels {
namespace sm80 {

inline constexpr int kTokensPerBlock = 8;

template <int kLogits>  // of a lane
__global__ void __launch_bounds__(32 * kTokensPerBlock) router_top_k_sm80_kernel(const RouterArguments arguments) {
  start_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t token = std::int64_t{blockIdx.x} * kTokensPerBlock + threadIdx.x / 32;
  if (token >= arguments.tokens) return;  // a whole warp
  const RouterChoice choice = choose_experts<kLogits>(arguments.logits + token * arguments.stride,
                                                      {arguments.X, arguments.top_k, arguments.norm});
  if (lane < arguments.top_k) {
    const std::int64_t to = token * arguments.top_k + lane;
    arguments.weights[to] = choice.weight;
    arguments.experts[to] = choice.expert;
  }
}

}  // namespace sm80

Status router_top_k_sm80(const RouterArguments& arguments, device::Stream& stream) {
  const dim3 grid(static_cast<unsigned>((arguments.tokens + sm80::kTokensPerBlock - 1) / sm80::kTokensPerBlock));
  const LaunchShape shape{grid, 32 * sm80::kTokensPerBlock, 0, /*overlaps_previous=*/true};
  const auto kernel = arguments.X <= 32    ? sm80::router_top_k_sm80_kernel<1>
                      : arguments.X <= 128 ? sm80::router_top_k_sm80_kernel<4>
                                           : sm80::router_top_k_sm80_kernel<kMoeExpertsMax / 32>;
  return launch("router_top_k", kernel, shape, stream, arguments);
}

}  // namespace tandem::kernels

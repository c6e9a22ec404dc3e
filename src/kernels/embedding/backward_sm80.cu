// Backward of row look-ups: a block for each token, which does nothing unless it is the first with its id. Then it adds
// the gradients of all tokens with that id, ascending, to the one row; a thread adds to its own columns only. So there
// is one order of additions, and no two blocks meet.
// Cost   every block reads up to all ids, 4 T^2 bytes from the L2 cache in all; and a row named n times is added to n
//        times by one block.   Bound   bytes 12 T C where ids differ; memory bound
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/embedding/paths.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;

struct Arguments {
  const std::int32_t* ids;
  std::int64_t tokens, vocab, width;
  const float* dy;
  std::int64_t dy_stride;
  float scale;
  float* dtable;
  std::int64_t dtable_stride;
};

__global__ void __launch_bounds__(kThreads) embedding_backward(const __grid_constant__ Arguments arguments) {
  __shared__ unsigned matches[kThreads / 32];
  const std::int64_t token = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int32_t id = arguments.ids[token];
  if (id < 0 || id >= arguments.vocab) return;
  bool is_later = false;
  for (std::int64_t t = thread; t < token; t += kThreads) is_later = is_later || arguments.ids[t] == id;
  if (__syncthreads_or(is_later)) return;
  float* const to = arguments.dtable + id * arguments.dtable_stride;
  for (std::int64_t begin = token; begin < arguments.tokens; begin += kThreads) {
    const bool is_same = begin + thread < arguments.tokens && arguments.ids[begin + thread] == id;
    const unsigned of_warp = __ballot_sync(0xffffffffu, is_same);
    if (thread % 32 == 0) matches[thread / 32] = of_warp;
    __syncthreads();  // all warps' matches are there
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      for (unsigned left = matches[warp]; left != 0; left &= left - 1) {
        const float* const from =
            arguments.dy + (begin + warp * 32 + __ffs(static_cast<int>(left)) - 1) * arguments.dy_stride;
        for (std::int64_t i = thread; i < arguments.width; i += kThreads) {
          to[i] = __fadd_rn(to[i], __fmul_rn(arguments.scale, from[i]));
        }
      }
    }
    __syncthreads();  // all have read them
  }
}

}  // namespace

Status embedding_backward_sm80(const tensor::TensorView& ids, const tensor::TensorView& dy, float scale,
                               const tensor::TensorView& dtable, device::Stream& stream) {
  const Arguments arguments{ids.as<const std::int32_t>(),
                            ids.extent(0),
                            dtable.extent(0),
                            dtable.extent(1),
                            dy.as<const float>(),
                            dy.stride(0),
                            scale,
                            dtable.as<float>(),
                            dtable.stride(0)};
  return launch("embedding backward", embedding_backward, {dim3(static_cast<unsigned>(ids.extent(0))), kThreads, 0},
                stream, arguments);
}

}  // namespace tandem::kernels

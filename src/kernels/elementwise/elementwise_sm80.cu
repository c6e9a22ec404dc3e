// One thread an element, in a stride over the grid.
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/elementwise/paths.h"
#include "kernels/linear/epilogue.cuh"

namespace tandem::kernels {
namespace {

__device__ float apply(const ElementwiseCall& call, float a, float b) {
  switch (call.kind) {
    case Elementwise::kAddScaled: return __fmaf_rn(call.factor, b, a);
    case Elementwise::kGate: return finish_pair_any(call.activation, a, b);
    default: return __fmul_rn(call.factor, tanhf(__fdiv_rn(a, call.factor)));
  }
}

__global__ void __launch_bounds__(256) elementwise(const __grid_constant__ ElementwiseCall call) {
  const std::int64_t count = call.rows * call.width, stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const std::int64_t row = i / call.width, column = i % call.width;
    const float b = call.b == nullptr ? 0.0f : call.b[row * call.b_stride + column];
    const float value = apply(call, call.a[row * call.a_stride + column], b);
    const std::int64_t at = row * call.y_stride + column;
    if (call.y_is_bf16) {
      static_cast<__nv_bfloat16*>(call.y)[at] = __float2bfloat16_rn(value);
    } else {
      static_cast<float*>(call.y)[at] = value;
    }
  }
}

}  // namespace

Status elementwise_sm80(const ElementwiseCall& call, device::Stream& stream) {
  constexpr std::int64_t kThreads = 256, kBlocksMax = 132 * 8;
  const std::int64_t blocks = std::min(kBlocksMax, (call.rows * call.width + kThreads - 1) / kThreads);
  return launch("elementwise", elementwise, {dim3(static_cast<unsigned>(blocks)), kThreads, 0}, stream, call);
}

}  // namespace tandem::kernels

// Normalises rows of f32, one block a row: norm/row_f32.cuh has the order.
#include "kernels/common/launch.cuh"
#include "kernels/norm/paths.h"
#include "kernels/norm/row_f32.cuh"

namespace tandem::kernels {
namespace {

__global__ void __launch_bounds__(kNormThreads) rms_norm_row(const __grid_constant__ RmsNormF32 call) {
  __shared__ float of_warps[kNormWarps];
  const std::int64_t token = blockIdx.x / call.heads, head = blockIdx.x % call.heads;
  const float* const x = call.x + token * call.x_stride + head * call.x_head_stride;
  const std::int64_t y_at = token * call.y_stride + head * call.y_head_stride;
  const int thread = static_cast<int>(threadIdx.x), width = static_cast<int>(call.width);
  const float sum = norm_warp_sum(norm_part(x, width, thread));
  if (thread % 32 == 0) of_warps[thread / 32] = sum;
  __syncthreads();
  const float scale = norm_scale(of_warps, width, call.eps);
  for (int i = thread; i < width; i += kNormThreads) {
    const float value = normalised(x[i], scale, call.weight[i], call.offset);
    if (call.y_is_bf16) {
      static_cast<__nv_bfloat16*>(call.y)[y_at + i] = __float2bfloat16_rn(value);
    } else {
      static_cast<float*>(call.y)[y_at + i] = value;
    }
  }
}

}  // namespace

Status rms_norm_forward_f32_sm80(const RmsNormF32& call, device::Stream& stream) {
  return launch("rms_norm", rms_norm_row, {dim3(static_cast<unsigned>(call.rows)), kNormThreads, 0}, stream, call);
}

}  // namespace tandem::kernels

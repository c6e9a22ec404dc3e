// A plain read of memory by everybody, 64 bytes a thread under way.
#include "kernels/common/launch.cuh"
#include "kernels/roofline/paths.h"

namespace tandem::kernels {
namespace {

__global__ void __launch_bounds__(512) read_all(const float4* data, std::int64_t count, float* sink) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  float sum = 0.0f;
  std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    float4 four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += four[j].x + four[j].y + four[j].z + four[j].w;
  }
  for (; i < count; i += stride) sum += data[i].x;
  if (sum == 1.2345e30f) *sink = sum;  // never: but the compiler must read
}

}  // namespace

Status read_all_sm80(const void* data, std::int64_t bytes, float* sink, device::Stream& stream) {
  return launch("roofline", read_all, {dim3(132 * 4), 512, 0}, stream, static_cast<const float4*>(data), bytes / 16,
                sink);
}

}  // namespace tandem::kernels

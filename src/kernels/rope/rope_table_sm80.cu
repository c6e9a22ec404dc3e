// Cosines and sines of all positions, one thread an angle.
#include "kernels/common/launch.cuh"
#include "kernels/rope/angle_sm80.cuh"
#include "kernels/rope/paths.h"

namespace tandem::kernels {
namespace {

__global__ void __launch_bounds__(256) angles(const std::int32_t* positions, const float* inv_freq, int half,
                                              std::int64_t count, float factor, float* cos_out, float* sin_out) {
  start_next();
  wait_for_previous();
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Angle angle = angle_of(positions[i / half], inv_freq[i % half], factor);
  cos_out[i] = angle.cosine;
  sin_out[i] = angle.sine;
}

}  // namespace

Status rope_table_sm80(const tensor::TensorView& positions, const tensor::TensorView& inv_freq, float factor,
                       const tensor::TensorView& cos, const tensor::TensorView& sin, device::Stream& stream) {
  const std::int64_t count = cos.count();
  const dim3 grid(static_cast<unsigned>((count + 255) / 256));
  return launch("rope_table", angles, {grid, 256, 0, /*overlaps_previous=*/true}, stream,
                positions.as<const std::int32_t>(), inv_freq.as<const float>(), static_cast<int>(inv_freq.extent(0)),
                count, factor, cos.as<float>(), sin.as<float>());
}

}  // namespace tandem::kernels

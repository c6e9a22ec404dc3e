// Backwards of elementwise arithmetic, one thread an element, in a stride over the grid. Memory bound: 28 bytes an
// element of a gate, 16 of a cap.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/elementwise/paths.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kBlocksMax = 132 * 16;

// Calls visit(row, column) for each of this thread's elements.
template <class Visit>
__device__ __forceinline__ void for_own(std::int64_t rows, std::int64_t width, const Visit& visit) {
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    for (std::int64_t column = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; column < width;
         column += std::int64_t{gridDim.x} * kThreads) {
      visit(row, column);
    }
  }
}

__global__ void __launch_bounds__(kThreads) gate_backward(const __grid_constant__ GateBackwardCall call) {
  for_own(call.rows, call.width, [&](std::int64_t row, std::int64_t column) { gate_backward_at(call, row, column); });
}
__global__ void __launch_bounds__(kThreads) softcap_backward(const __grid_constant__ SoftcapBackwardCall call) {
  for_own(call.rows, call.width,
          [&](std::int64_t row, std::int64_t column) { softcap_backward_at(call, row, column); });
}

LaunchShape shape_of(std::int64_t rows, std::int64_t width) {
  const std::int64_t across = std::min(kBlocksMax, (width + kThreads - 1) / kThreads);
  const std::int64_t down = across == 0 ? 0 : std::min(rows, (kBlocksMax + across - 1) / across);
  return {dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)), kThreads, 0};
}

}  // namespace

Status gate_backward_sm80(const GateBackwardCall& call, device::Stream& stream) {
  return launch("gate backward", gate_backward, shape_of(call.rows, call.width), stream, call);
}

Status softcap_backward_sm80(const SoftcapBackwardCall& call, device::Stream& stream) {
  return launch("softcap backward", softcap_backward, shape_of(call.rows, call.width), stream, call);
}

}  // namespace tandem::kernels

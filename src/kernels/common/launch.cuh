// Launches a kernel with its shared memory, and turns the runtime's answer into a Status.
#pragma once

#include <cuda_runtime.h>

#include "base/status.h"
#include "device/device.h"

namespace tandem::kernels {

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;
};

// Queues `kernel` on `stream`; an empty grid queues nothing. `op` names it in errors.
// Errors: kDeviceLost.
template <class... Parameters, class... Arguments>
Status launch(const char* op, void (*kernel)(Parameters...), const LaunchShape& shape, device::Stream& stream,
              const Arguments&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return ok_status();
  cudaError_t error = cudaSetDevice(stream.device().index);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  }
  if (error == cudaSuccess) {
    kernel<<<shape.grid, shape.threads, static_cast<std::size_t>(shape.shared_bytes), stream.cuda()>>>(arguments...);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) return ok_status();
  return make_status(StatusCode::kDeviceLost, "{}: {}: restart the process", op, cudaGetErrorString(error));
}

}  // namespace tandem::kernels

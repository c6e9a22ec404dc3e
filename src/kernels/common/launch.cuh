// Launches a kernel with its shared memory, and turns the runtime's answer into a Status.
#pragma once

#include <cuda_runtime.h>

#include "base/status.h"
#include "device/device.h"

namespace tandem::kernels {

// Makes a device the thread's current one, as launches and attributes need it, until the end of the scope.
class OnDevice {
 public:
  explicit OnDevice(device::Device device) {
    cudaGetDevice(&before_);
    if (before_ != device.index) cudaSetDevice(device.index);
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

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
  const OnDevice on(stream.device());
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error == cudaSuccess) {
    kernel<<<shape.grid, shape.threads, static_cast<std::size_t>(shape.shared_bytes), stream.cuda()>>>(arguments...);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) return ok_status();
  return make_status(StatusCode::kDeviceLost, "{}: {}: restart the process", op, cudaGetErrorString(error));
}

}  // namespace tandem::kernels

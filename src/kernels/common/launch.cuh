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
  // The kernel may start while the one before it on the stream still runs, once each of that one's blocks has called
  // start_next() or ended; and so may that one have, and those before it, back to the last kernel launched without
  // overlap, that one included, or the last copy or wait of the host. Such a kernel calls wait_for_previous() in every
  // thread, whatever its work, before it ends and before it writes anything or reads what others wrote: the one before
  // it has then ended, and by the same rule all those before that. Earlier it may read what none of them writes, as
  // weights.
  bool overlaps_previous = false;
};

#if defined(__CUDACC__)
// On cards before Hopper these do nothing; nor does wait_for_previous() in a kernel launched without overlap, where
// start_next() lets the next kernel begin as anywhere.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

// Queues `kernel` on `stream`; an empty grid queues nothing. `op` names it in errors.
// Errors: kDeviceLost.
template <class... Parameters, class... Arguments>
Status launch(const char* op, void (*kernel)(Parameters...), const LaunchShape& shape, device::Stream& stream,
              const Arguments&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return ok_status();
  const OnDevice on(stream.device());
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  if (error == cudaSuccess) {
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared_bytes);
    config.stream = stream.cuda();
    config.attrs = &overlap;
    config.numAttrs = shape.overlaps_previous ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, arguments...);
    cudaGetLastError();  // it is in `error`
  }
  if (error == cudaSuccess) return ok_status();
  return make_status(
      StatusCode::kDeviceLost,
      "{}: {}: restart the process; the operation that failed may be an earlier one: CUDA_LAUNCH_BLOCKING=1 names it",
      op, cudaGetErrorString(error));
}

}  // namespace tandem::kernels

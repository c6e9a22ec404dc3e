// What a build without CUDA says of CUDA.
#include "device/cuda_runtime.h"

#ifndef TANDEM_WITH_CUDA
namespace tandem::device {
namespace {

Status no_cuda() { return invalid_argument("this build has no CUDA code: configure with -DTANDEM_CUDA=on and nvcc"); }

}  // namespace

std::vector<CudaDeviceInfo> cuda_devices() { return {}; }
Result<int> cuda_compute_capability(int) { return no_cuda(); }
Result<int> cuda_multiprocessors(int) { return no_cuda(); }
Result<std::uint64_t> cuda_free_memory_bytes(int) { return no_cuda(); }

namespace cuda {

Result<CudaStreamHandle> create_stream(int) { return no_cuda(); }
void destroy_stream(CudaStreamHandle) {}
Status make_current(int) { return no_cuda(); }
Status synchronize(CudaStreamHandle) { return no_cuda(); }
Result<void*> allocate(int, std::size_t) { return no_cuda(); }
void release(void*) {}
Result<void*> allocate_pinned(std::size_t) { return no_cuda(); }
void release_pinned(void*) {}
Status copy(void*, const void*, std::size_t, CudaStreamHandle) { return no_cuda(); }
Status copy_rows(void*, std::size_t, const void*, std::size_t, std::size_t, std::size_t, CudaStreamHandle) {
  return no_cuda();
}
Status fill_zeros(void*, std::size_t, CudaStreamHandle) { return no_cuda(); }
Result<CudaEventHandle> create_event(int, bool) { return no_cuda(); }
void destroy_event(CudaEventHandle) {}
Status record(CudaEventHandle, CudaStreamHandle) { return no_cuda(); }
Status wait(CudaEventHandle) { return no_cuda(); }
Status wait_on_device(CudaEventHandle, CudaStreamHandle) { return no_cuda(); }
Result<float> microseconds_between(CudaEventHandle, CudaEventHandle) { return no_cuda(); }
Status begin_capture(CudaStreamHandle) { return no_cuda(); }
Result<CudaGraphHandle> end_capture(CudaStreamHandle, bool) { return no_cuda(); }
void destroy_graph(CudaGraphHandle) {}
Status launch_graph(CudaGraphHandle, CudaStreamHandle) { return no_cuda(); }

}  // namespace cuda
}  // namespace tandem::device
#endif

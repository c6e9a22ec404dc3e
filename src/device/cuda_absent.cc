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

namespace cuda {

Result<CudaStreamHandle> create_stream(int) { return no_cuda(); }
void destroy_stream(CudaStreamHandle) {}
Status synchronize(CudaStreamHandle) { return no_cuda(); }
Result<void*> allocate(int, std::size_t) { return no_cuda(); }
void release(void*) {}
Status copy(void*, const void*, std::size_t, CudaStreamHandle) { return no_cuda(); }

}  // namespace cuda
}  // namespace tandem::device
#endif

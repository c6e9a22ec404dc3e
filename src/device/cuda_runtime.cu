// The CUDA runtime, as this folder uses it.
#include <cuda_runtime_api.h>

#include "device/cuda_runtime.h"

namespace tandem::device {
namespace {

Status device_lost(const char* what, cudaError_t error) {
  return make_status(StatusCode::kDeviceLost, "{}: {}: restart the process", what, cudaGetErrorString(error));
}

Result<int> attribute(int index, cudaDeviceAttr name) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, name, index);
  if (error == cudaSuccess) return value;
  cudaGetLastError();
  return invalid_argument("no CUDA device {}: {}", index, cudaGetErrorString(error));
}

}  // namespace

std::vector<CudaDeviceInfo> cuda_devices() {
  std::vector<CudaDeviceInfo> devices;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver or no device: not an error of ours, and not to be reported by the next call
    return devices;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                       properties.totalGlobalMem});
  }
  return devices;
}

Result<int> cuda_compute_capability(int index) {
  return 10 * TD_TRY(attribute(index, cudaDevAttrComputeCapabilityMajor)) +
         TD_TRY(attribute(index, cudaDevAttrComputeCapabilityMinor));
}

Result<int> cuda_multiprocessors(int index) { return attribute(index, cudaDevAttrMultiProcessorCount); }

namespace cuda {

Result<CudaStreamHandle> create_stream(int index) {
  cudaError_t error = cudaSetDevice(index);
  cudaStream_t stream = nullptr;
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) return stream;
  cudaGetLastError();
  return invalid_argument("no stream on CUDA device {}: {}", index, cudaGetErrorString(error));
}

void destroy_stream(CudaStreamHandle handle) { cudaStreamDestroy(handle); }

Status synchronize(CudaStreamHandle handle) {
  const cudaError_t error = cudaStreamSynchronize(handle);
  return error == cudaSuccess ? ok_status() : device_lost("work on the device failed", error);
}

Result<void*> allocate(int index, std::size_t bytes) {
  cudaError_t error = cudaSetDevice(index);
  void* data = nullptr;
  if (error == cudaSuccess) error = cudaMalloc(&data, bytes);
  if (error == cudaSuccess) return data;
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) {
    return resource_exhausted("CUDA device {} has no block of {} bytes: free some of its memory", index, bytes);
  }
  return invalid_argument("no memory on CUDA device {}: {}", index, cudaGetErrorString(error));
}

void release(void* data) { cudaFree(data); }

Status copy(void* to, const void* from, std::size_t bytes, CudaStreamHandle handle) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle);
  return error == cudaSuccess ? ok_status() : device_lost("a copy failed", error);
}

}  // namespace cuda
}  // namespace tandem::device

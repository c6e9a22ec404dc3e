// The CUDA runtime, as this folder uses it.
#include <cuda_runtime_api.h>

#include "device/cuda_runtime.h"

namespace tandem::device {
namespace {

Status device_lost(const char* what, cudaError_t error) {
  return make_status(
      StatusCode::kDeviceLost,
      "{}: {}: restart the process; the operation that failed may be an earlier one: CUDA_LAUNCH_BLOCKING=1 names it",
      what, cudaGetErrorString(error));
}

Status done(const char* what, cudaError_t error) {
  return error == cudaSuccess ? ok_status() : device_lost(what, error);
}

// A graph takes memory on the device when it is made, or when it is first launched.
Status graph_failed(const char* what, cudaError_t error) {
  if (error != cudaErrorMemoryAllocation) return device_lost(what, error);
  cudaGetLastError();
  return resource_exhausted("{}: no memory on the device for a captured step; make the KV cache smaller", what);
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

Result<std::uint64_t> cuda_free_memory_bytes(int index) {
  cudaError_t error = cudaSetDevice(index);
  std::size_t free = 0, total = 0;
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
  if (error == cudaSuccess) return free;
  cudaGetLastError();
  return invalid_argument("no CUDA device {}: {}", index, cudaGetErrorString(error));
}

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

Status make_current(int index) { return done("the device is not there", cudaSetDevice(index)); }

Status synchronize(CudaStreamHandle handle) { return done("work on the device failed", cudaStreamSynchronize(handle)); }

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

Result<void*> allocate_pinned(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocHost(&data, bytes);
  if (error == cudaSuccess) return data;
  cudaGetLastError();
  return resource_exhausted("the system has no {} bytes of page-locked memory: {}", bytes, cudaGetErrorString(error));
}

void release_pinned(void* data) { cudaFreeHost(data); }

Status copy(void* to, const void* from, std::size_t bytes, CudaStreamHandle handle) {
  return done("a copy failed", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle));
}

Status copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows, CudaStreamHandle handle) {
  return done("a copy failed",
              cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDefault, handle));
}

Status fill_zeros(void* data, std::size_t bytes, CudaStreamHandle handle) {
  return done("clearing memory failed", cudaMemsetAsync(data, 0, bytes, handle));
}

Result<CudaEventHandle> create_event(int index, bool is_timed) {
  cudaError_t error = cudaSetDevice(index);
  cudaEvent_t event = nullptr;
  if (error == cudaSuccess)
    error = cudaEventCreateWithFlags(&event, is_timed ? cudaEventDefault : cudaEventDisableTiming);
  if (error == cudaSuccess) return event;
  return device_lost("no event", error);
}

void destroy_event(CudaEventHandle event) { cudaEventDestroy(event); }

Status record(CudaEventHandle event, CudaStreamHandle handle) {
  return done("recording an event failed", cudaEventRecord(event, handle));
}

Status wait(CudaEventHandle event) { return done("work on the device failed", cudaEventSynchronize(event)); }

Status wait_on_device(CudaEventHandle event, CudaStreamHandle handle) {
  return done("waiting for an event failed", cudaStreamWaitEvent(handle, event, 0));
}

Result<float> microseconds_between(CudaEventHandle from, CudaEventHandle to) {
  float milliseconds = 0.0f;
  TD_TRY(done("reading a time failed", cudaEventElapsedTime(&milliseconds, from, to)));
  return milliseconds * 1000.0f;
}

Status begin_capture(CudaStreamHandle handle) {
  return done("capturing failed", cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal));
}

Result<CudaGraphHandle> end_capture(CudaStreamHandle handle, bool keep) {
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(handle, &graph);
  cudaGraphExec_t ready = nullptr;
  if (error == cudaSuccess && keep) error = cudaGraphInstantiate(&ready, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!keep) {
    cudaGetLastError();
    return nullptr;
  }
  if (error == cudaSuccess) return ready;
  return graph_failed("capturing failed", error);
}

void destroy_graph(CudaGraphHandle graph) { cudaGraphExecDestroy(graph); }

Status launch_graph(CudaGraphHandle graph, CudaStreamHandle handle) {
  const cudaError_t error = cudaGraphLaunch(graph, handle);
  return error == cudaSuccess ? ok_status() : graph_failed("launching a graph failed", error);
}

}  // namespace cuda
}  // namespace tandem::device

// Where memory lives and where work runs. A Device names a place; a Stream orders work on it.
//
// On the CPU a stream runs each kernel to completion on its thread pool before the call returns. On CUDA it is a
// cudaStream_t and calls return once the work is queued. Code written for the second is right for the first.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"

namespace tandem::device {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

std::string to_string(Device device);  // "cpu", "cuda:0"

// Work in order, on one device. Kernels take it as a required last argument.
// Threads: one at a time.
class Stream {
 public:
  // `threads_count` as for ThreadPool: 0 means one per core.
  static std::unique_ptr<Stream> create_cpu(int threads_count);

  Device device() const { return device_; }
  // CPU streams only.
  ThreadPool& pool() { return *pool_; }

 private:
  explicit Stream(Device device) : device_(device) {}
  Device device_;
  std::unique_ptr<ThreadPool> pool_;
};

// A CUDA device as the driver describes it.
struct CudaDeviceInfo {
  std::string name;
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
};

// The CUDA devices this process can see. Empty in a build without CUDA, and on a machine without a driver or a device.
std::vector<CudaDeviceInfo> cuda_devices();

}  // namespace tandem::device

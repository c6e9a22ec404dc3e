// Where memory lives and where work runs. A Device names a place; a Stream orders work on it.
//
// On the CPU a stream runs each kernel to completion on its thread pool before the call returns. On CUDA it is a
// cudaStream_t and calls return once the work is queued. Code written for the second is right for the first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace tandem::device {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

std::string to_string(Device device);  // "cpu", "cuda:0"
// Errors: kInvalidArgument naming what is understood.
[[nodiscard]] Result<Device> parse_device(std::string_view text);  // "cpu", "cuda" (the first), "cuda:1"

// The runtime's types, named without its headers: a cudaStream_t is a CUstream_st*.
using CudaStreamHandle = ::CUstream_st*;
using CudaEventHandle = ::CUevent_st*;
using CudaGraphHandle = ::CUgraphExec_st*;

class Event;

// Work in order, on one device. Kernels take it as a required last argument.
// Threads: one at a time.
class Stream {
 public:
  // `threads_count` as for ThreadPool: 0 means one per core.
  static std::unique_ptr<Stream> create_cpu(int threads_count);
  // A stream of its own. Errors: kInvalidArgument (no such device), kDeviceLost.
  [[nodiscard]] static Result<std::unique_ptr<Stream>> create_cuda(int index);
  // Somebody else's stream, which must outlive this.
  static std::unique_ptr<Stream> borrow_cuda(int index, CudaStreamHandle handle);
  ~Stream();

  Device device() const { return device_; }
  // CPU streams only.
  ThreadPool& pool() { return *pool_; }
  // CUDA streams only.
  CudaStreamHandle cuda() const { return cuda_; }

  // Makes its device the calling thread's: on CUDA a thread begins on device 0, and its first call would take memory
  // there. Errors: kDeviceLost.
  [[nodiscard]] Status make_current();

  // What is queued from here on waits for the event, of a stream of the same kind, as it was last recorded.
  // Errors: kDeviceLost.
  [[nodiscard]] Status wait_for(const Event& event);

  // Waits for all that was queued. Errors: kDeviceLost, with what the device says went wrong in any of it.
  [[nodiscard]] Status synchronize();

 private:
  explicit Stream(Device device) : device_(device) {}
  Device device_;
  std::unique_ptr<ThreadPool> pool_;
  CudaStreamHandle cuda_ = nullptr;
  bool owned_ = false;
};

// A point in a stream's work that the host can wait for. On the CPU all work is done when it is recorded.
// Threads: one at a time. Move-only.
class Event {
 public:
  // `is_timed`: for microseconds_between(). Errors: kDeviceLost.
  [[nodiscard]] static Result<Event> create(Device device, bool is_timed = false);
  Event() = default;
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  // After what was queued so far. Errors: kDeviceLost.
  [[nodiscard]] Status record(Stream& stream);
  // Until the work before the last record() is done; at once if there was none. Errors: kDeviceLost, as synchronize().
  [[nodiscard]] Status wait();
  // Of the device's time, from one point to a later one, both timed, recorded and done; 0 on the CPU.
  // Errors: kDeviceLost.
  [[nodiscard]] static Result<float> microseconds_between(const Event& from, const Event& to);

 private:
  friend class Stream;
  CudaEventHandle event_ = nullptr;
};

// Work of a CUDA stream, captured once and launched again and again: the same kernels with the same arguments.
// Threads: one at a time. Move-only.
class Graph {
 public:
  // Runs `queue_work`, whose work is captured instead of run. What it does beside queueing on `stream` (allocating,
  // waiting) fails the capture. Errors: those of `queue_work`; kResourceExhausted (the device's memory), kDeviceLost.
  [[nodiscard]] static Result<Graph> capture(Stream& stream, const std::function<Status()>& queue_work);
  Graph() = default;
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();

  explicit operator bool() const { return graph_ != nullptr; }
  // Errors: kResourceExhausted (the device's memory; nothing is queued then), kDeviceLost.
  [[nodiscard]] Status launch(Stream& stream) const;

 private:
  CudaGraphHandle graph_ = nullptr;
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

// 10 * major + minor of a device's compute capability. Errors: kInvalidArgument (no such device, or no CUDA here).
[[nodiscard]] Result<int> cuda_compute_capability(int index);
// How many multiprocessors it has. Errors: as above.
[[nodiscard]] Result<int> cuda_multiprocessors(int index);
// Bytes of its memory that nobody has taken. Errors: as above.
[[nodiscard]] Result<std::uint64_t> cuda_free_memory_bytes(int index);

}  // namespace tandem::device

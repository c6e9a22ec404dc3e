// What benchmarks of single CUDA calls share: an error ends the program, and calls are timed in one way.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/memory.h"

namespace tandem::bench {

inline constexpr device::Device kCuda{device::DeviceKind::kCuda, 0};
inline constexpr double kFlopsPeak = 989e12, kBytesPeak = 4.57e12;  // H200: datasheet; measured by a plain read

inline void require(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "{}\n", status.to_string());
  std::exit(1);
}
template <class T>
T require(Result<T> result) {
  require(result.status());
  return std::move(result).value();
}

// Microseconds of the device between two events, from before a call's first kernel to after its last.
class CudaTimer {
 public:
  struct Times {
    double median = 0, p95 = 0;
  };
  struct How {
    int repeats = 21;                 // that count, after three that do not
    int calls = 1;                    // between the events, whose time is shared out
    bool overwrites_l2_cache = true;  // before each repeat
  };

  explicit CudaTimer(device::Stream& stream) : stream_(stream) {
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~CudaTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  Times time(const How& how, const std::function<Status()>& call) {
    constexpr int kWarmUps = 3;
    std::vector<double> us;
    for (int i = 0; i < kWarmUps + how.repeats; ++i) {
      if (how.overwrites_l2_cache) cudaMemsetAsync(overwritten_.data(), i, overwritten_.bytes(), stream_.cuda());
      cudaEventRecord(begin_, stream_.cuda());
      for (int j = 0; j < how.calls; ++j) require(call());
      cudaEventRecord(end_, stream_.cuda());
      require(stream_.synchronize());
      float ms = 0.0f;
      cudaEventElapsedTime(&ms, begin_, end_);
      if (i >= kWarmUps) us.push_back(1e3 * ms / how.calls);
    }
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us[us.size() * 95 / 100]};
  }

 private:
  device::Stream& stream_;
  device::Memory overwritten_ = require(device::Memory::create(kCuda, std::size_t{256} << 20));
  cudaEvent_t begin_, end_;
};

}  // namespace tandem::bench

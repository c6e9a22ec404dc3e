// The read ceiling of a CUDA device.
#include <algorithm>
#include <chrono>

#include "device/memory.h"
#include "kernels/common/half_rows.h"
#include "kernels/roofline/paths.h"
#include "kernels/roofline/roofline.h"

namespace tandem::kernels {

Result<double> measure_read_bandwidth_cuda(std::int64_t bytes, device::Stream& stream) {
  using Clock = std::chrono::steady_clock;
  const device::Memory data = TD_TRY(device::Memory::create(stream.device(), static_cast<std::size_t>(bytes)));
  const device::Memory sink = TD_TRY(device::Memory::create(stream.device(), sizeof(float)));
  TD_TRY(device::fill_zeros(data.data(), data.bytes(), stream));
  double best = 0.0;
  for (int pass = 0; pass < 5; ++pass) {
    TD_TRY(stream.synchronize());
    constexpr int kReads = 4;  // so that the launch and the wait do not count
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < kReads; ++i)
      TD_TRY(read_all_sm80(data.data(), bytes, static_cast<float*>(sink.data()), stream));
    TD_TRY(stream.synchronize());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, kReads * static_cast<double>(bytes) / seconds);
  }
  return best;
}

#ifndef TANDEM_WITH_CUDA

Status read_all_sm80(const void*, std::int64_t, float*, device::Stream&) { return no_cuda_code("roofline"); }

#endif

}  // namespace tandem::kernels

// What this machine can do at best, measured now: the two ceilings that benchmarks are compared with.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/device.h"
#include "kernels/linear/linear.h"

namespace tandem::kernels {

// Bytes per second of a plain read by all of the stream's threads, best of several passes over `bytes` of memory
// (several times the last-level cache).
double measure_read_bandwidth(std::int64_t bytes, device::Stream& stream);

// Floating-point operations per second (2 per multiply-add) of `path`'s multiply-accumulate instruction with its
// operands in registers (tiles), all threads, best of several passes.
double measure_matrix_peak(LinearPath path, Compute compute, device::Stream& stream);

// The same read by a CUDA device, through all its multiprocessors. Errors: kResourceExhausted, kInvalidArgument (a
// build without CUDA), kDeviceLost.
[[nodiscard]] Result<double> measure_read_bandwidth_cuda(std::int64_t bytes, device::Stream& stream);

// Dense bf16 operations per second that NVIDIA states for the H100 and H200 (SXM); what a power limit leaves is less.
inline constexpr double kHopperBf16Peak = 989.4e12;

}  // namespace tandem::kernels

// What this machine can do at best, measured now: the two ceilings that benchmarks are compared with.
#pragma once

#include <cstdint>

#include "device/device.h"
#include "kernels/linear/linear.h"

namespace tandem::kernels {

// Bytes per second of a plain read by all of the stream's threads, best of several passes over `bytes` of memory
// (several times the last-level cache).
double measure_read_bandwidth(std::int64_t bytes, device::Stream& stream);

// Floating-point operations per second (2 per multiply-add) of `path`'s multiply-accumulate instruction with its
// operands in registers (tiles), all threads, best of several passes.
double measure_matrix_peak(LinearPath path, Compute compute, device::Stream& stream);

}  // namespace tandem::kernels

// Splits independent rows over a stream's threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/device.h"

namespace tandem::kernels {

// Calls task(begin, end) for ranges that cover [0, rows). A range has 8192 elements or more, so that
// small work stays on the calling thread. The task must treat each row by itself, so that ranges do not matter.
template <class Task>
void for_row_ranges(device::Stream& stream, std::int64_t rows, std::int64_t elements_per_row, const Task& task) {
  constexpr std::int64_t kElementsMin = 8192;
  const std::int64_t rows_per_range =
      std::max<std::int64_t>(1, kElementsMin / std::max<std::int64_t>(1, elements_per_row));
  const std::int64_t ranges = (rows + rows_per_range - 1) / rows_per_range;
  stream.pool().parallel_for(ranges, [&](std::int64_t range) {
    const std::int64_t begin = range * rows_per_range;
    task(begin, std::min(rows, begin + rows_per_range));
  });
}

}  // namespace tandem::kernels

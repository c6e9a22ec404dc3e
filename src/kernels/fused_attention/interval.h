// The one rule of visibility (plan.h), for hosts and kernels.
#pragma once

#include <cstdint>

#include "kernels/common/host_device.h"

namespace tandem::kernels {

// Bounds beyond every position, and so small that sums of positions and bounds stay far from overflow: a select between
// two sums may be compiled to an arithmetic that evaluates both.
inline constexpr std::int32_t kRowsMax = 1 << 28, kBoundMax = 1 << 29;

// The positions that a query at position p of its context sees: begin(p) .. end(p)-1; none if end <= begin.
struct RowInterval {
  std::int32_t left, right;  // as in AttentionWindow, at most kBoundMax
  std::int32_t context;      // positions there are

  TD_HOST_DEVICE std::int32_t begin(std::int32_t p) const { return p > left ? p - left : 0; }
  TD_HOST_DEVICE std::int32_t end(std::int32_t p) const { return right >= context - 1 - p ? context : p + right + 1; }
};

}  // namespace tandem::kernels

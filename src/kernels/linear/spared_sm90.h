// How many multiprocessors a layer of few rows takes: pure arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tandem::kernels {

// To spare more multiprocessors than these costs a layer more than the next kernel gains.
inline constexpr std::int64_t kSparedMax = 32;

// Those that are left when `spared` of them are to stay free (LinearEpilogue), or all if that is too many.
inline int multiprocessors_left(int multiprocessors, std::int64_t spared) {
  const bool is_possible = spared <= std::min<std::int64_t>(kSparedMax, multiprocessors / 2);
  return is_possible ? multiprocessors - static_cast<int>(spared) : multiprocessors;
}

}  // namespace tandem::kernels

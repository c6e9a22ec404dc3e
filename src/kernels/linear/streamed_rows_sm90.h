// What the two kernels share that stream a layer's weights past few rows (few_rows_sm90.cuh, some_rows_sm90.cuh), and
// their plans.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tandem::kernels {

inline constexpr int kStreamedSlab = 64;  // columns, 128 bytes
inline constexpr int kStreamedSlabsMax = 8, kStreamedStagesMax = 32;
inline constexpr int kStreamedWarpgroups = 2;
// A block has its multiprocessor to itself: what it holds of its weights when x arrives counts for more than another
// layer's block beside it.
inline constexpr int kStreamedSharedBytes = 227 * 1024;
inline constexpr int kStreamedFixedBytes = 2048;  // barriers and the like; 1024 of them to begin on a multiple of 1024

// Slabs of a stage of about `stage_bytes`. Of ragged rows, whose end lies within a slab, one at a time.
inline int streamed_slabs(std::int64_t K, int stage_bytes, int slab_bytes) {
  return K % kStreamedSlab == 0 ? std::clamp(stage_bytes / slab_bytes, 1, kStreamedSlabsMax) : 1;
}

// To spare more multiprocessors than these costs a layer more than the next kernel gains.
inline constexpr std::int64_t kSparedMax = 32;

// Those that are left when `spared` of them are to stay free (LinearEpilogue), or all if that is too many.
inline int multiprocessors_left(int multiprocessors, std::int64_t spared) {
  const bool is_possible = spared <= std::min<std::int64_t>(kSparedMax, multiprocessors / 2);
  return is_possible ? multiprocessors - static_cast<int>(spared) : multiprocessors;
}

}  // namespace tandem::kernels

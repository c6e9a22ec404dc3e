// Where a thread keeps the tile it works on, and the words for what a row sees of a block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/attention/attention.h"

namespace tandem::kernels {

inline constexpr std::int64_t kKeys = kAttentionKeyBlock;
inline constexpr std::int64_t kGroupRows = 6;  // rows multiplied together
inline constexpr std::int64_t kSumLanes = 16;  // partial sums of a row's denominator

// Where a thread keeps its tile. Sizes are in words of 32 bits, each a multiple of 16.
struct TileScratch {
  std::uint32_t *keys, *values, *edge, *q, *p;
  float *sums, *maxima, *totals, *scores;

  static std::int64_t width(std::int64_t D) { return (D + 15) / 16 * 16; }
  static std::int64_t words(std::int64_t rows, std::int64_t D) {
    return 2 * kKeys * width(D) + width(D) + rows * (2 * width(D) + kSumLanes) + (rows + 15) / 16 * 16 +
           2 * kGroupRows * kKeys;
  }
  TileScratch(std::byte* memory, std::int64_t rows, std::int64_t D) {
    auto* next = reinterpret_cast<std::uint32_t*>(memory);
    const auto take = [&next](std::int64_t count) { return std::exchange(next, next + count); };
    const auto take_floats = [&take](std::int64_t count) { return reinterpret_cast<float*>(take(count)); };
    keys = take(kKeys * width(D));
    values = take(kKeys * width(D));
    edge = take(width(D));
    q = take(rows * width(D));
    p = take(kGroupRows * kKeys);
    sums = take_floats(rows * width(D));
    totals = take_floats(rows * kSumLanes);
    maxima = take_floats((rows + 15) / 16 * 16);
    scores = take_floats(kGroupRows * kKeys);
  }
};

// What a row sees of the current block: tokens low .. high of 0 .. 63.
struct Visible {
  std::int64_t low, high;
  bool all() const { return low == 0 && high == kKeys - 1; }
  bool none() const { return low > high; }
};

}  // namespace tandem::kernels

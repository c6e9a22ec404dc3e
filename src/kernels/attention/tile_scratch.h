// Where a thread keeps the tile it works on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/attention/attention.h"

namespace tandem::kernels {

inline constexpr std::int64_t kKeys = kAttentionKeyBlock;
inline constexpr std::int64_t kGroupRows = 6;  // rows multiplied together
inline constexpr std::int64_t kSumLanes = 16;  // partial sums of a row's denominator

// Words of 32 bits that a row of D elements takes.
constexpr std::int64_t tile_width(std::int64_t D) { return (D + 15) / 16 * 16; }

// Deals out a thread's memory, in words; each count a multiple of 16.
class TileMemory {
 public:
  explicit TileMemory(std::byte* memory) : next_(reinterpret_cast<std::uint32_t*>(memory)) {}
  std::uint32_t* take(std::int64_t count) { return std::exchange(next_, next_ + count); }
  float* take_floats(std::int64_t count) { return reinterpret_cast<float*>(take(count)); }

 private:
  std::uint32_t* next_;
};

// The forward's.
struct TileScratch {
  std::uint32_t *keys, *values, *edge, *q, *p;
  std::uint16_t* wide;  // [kKeys,D]: a block of an e4m3 cache, as bf16
  float *sums, *maxima, *totals, *scores;

  static std::int64_t words(std::int64_t rows, std::int64_t D) {
    const std::int64_t width = tile_width(D);
    return 2 * kKeys * width + kKeys * width / 2 + width + rows * (2 * width + kSumLanes) + (rows + 15) / 16 * 16 +
           2 * kGroupRows * kKeys;
  }
  TileScratch(std::byte* at, std::int64_t rows, std::int64_t D) {
    TileMemory memory(at);
    const std::int64_t width = tile_width(D);
    keys = memory.take(kKeys * width);
    values = memory.take(kKeys * width);
    wide = reinterpret_cast<std::uint16_t*>(memory.take(kKeys * width / 2));
    edge = memory.take(width);
    q = memory.take(rows * width);
    p = memory.take(kGroupRows * kKeys);
    sums = memory.take_floats(rows * width);
    totals = memory.take_floats(rows * kSumLanes);
    maxima = memory.take_floats((rows + 15) / 16 * 16);
    scores = memory.take_floats(kGroupRows * kKeys);
  }
};

}  // namespace tandem::kernels

// Where a thread keeps the tile of the backward that it works on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/tile_scratch.h"

namespace tandem::kernels {

// The columns in hand are packed twice: transposed for the first products, in rows for the second.
struct BackwardScratch {
  std::uint32_t *x_columns, *y_columns, *x_values, *y_values, *edge, *x, *y, *p, *ds;
  float *dx, *dy, *scores, *dp;

  static std::int64_t words(std::int64_t rows, std::int64_t D) {
    return tile_width(D) * (4 * kKeys + 1 + 4 * rows) + 4 * kGroupRows * kKeys;
  }
  BackwardScratch(std::byte* at, std::int64_t rows, std::int64_t D) {
    TileMemory memory(at);
    const std::int64_t width = tile_width(D);
    for (std::uint32_t** const block : {&x_columns, &y_columns, &x_values, &y_values}) {
      *block = memory.take(kKeys * width);
    }
    edge = memory.take(width);
    for (std::uint32_t** const tile : {&x, &y}) *tile = memory.take(rows * width);
    for (float** const sums : {&dx, &dy}) *sums = memory.take_floats(rows * width);
    for (std::uint32_t** const group : {&p, &ds}) *group = memory.take(kGroupRows * kKeys);
    for (float** const group : {&scores, &dp}) *group = memory.take_floats(kGroupRows * kKeys);
  }
};

}  // namespace tandem::kernels

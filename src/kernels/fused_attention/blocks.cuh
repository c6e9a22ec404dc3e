// The key blocks that a forward tile visits, in the plan's order; how much of each its rows see.
#pragma once

#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/plan.h"

namespace tandem::kernels {

// Where one key block lies, and which of its columns exist.
struct KeyBlock {
  int row;       // of k and v, of its first key
  int position;  // in the context, of its first key
  int keys;      // that belong to the range: 1 .. kKeys
};

template <int kKeys>
struct TileBlocks {
  RowInterval interval;
  int prefix_begin, prefix_count, prefix_blocks, key_begin;
  int position_first, position_last;  // of the tile's rows
  int first, end;                     // numbers of the blocks that some row sees

  __device__ __forceinline__ TileBlocks(const ForwardTile& tile, int left, int right)
      : interval{left, right, tile.prefix_count + tile.key_count},
        prefix_begin(tile.prefix_begin),
        prefix_count(tile.prefix_count),
        prefix_blocks((tile.prefix_count + kKeys - 1) / kKeys),
        key_begin(tile.key_begin),
        position_first(tile.position),
        position_last(tile.position + tile.rows - 1) {
    const int begin = interval.begin(position_first), past = interval.end(position_last);
    first = number(begin);
    end = past > begin ? number(past - 1) + 1 : first;
  }

  __device__ __forceinline__ int number(int position) const {
    return position < prefix_count ? position / kKeys : prefix_blocks + (position - prefix_count) / kKeys;
  }
  __device__ __forceinline__ KeyBlock block(int n) const {
    if (n < prefix_blocks) return {prefix_begin + n * kKeys, n * kKeys, min(kKeys, prefix_count - n * kKeys)};
    const int offset = (n - prefix_blocks) * kKeys;
    return {key_begin + offset, prefix_count + offset, min(kKeys, interval.context - prefix_count - offset)};
  }
  // Whether every row sees every key of the block.
  __device__ __forceinline__ bool is_whole(const KeyBlock& b) const {
    return b.keys == kKeys && interval.begin(position_last) <= b.position &&
           b.position + kKeys <= interval.end(position_first);
  }
};

}  // namespace tandem::kernels

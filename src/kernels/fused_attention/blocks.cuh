// The key blocks that a forward tile visits, in the plan's order.
#pragma once

#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/plan.h"

namespace tandem::kernels {

// Walks them: while (!blocks.done()) { ...; blocks.advance(); }
template <int kKeys>
class TileBlocks {
 public:
  __device__ __forceinline__ TileBlocks(const ForwardTile& tile, int left, int right) {
    const RowInterval interval{left, right, tile.prefix_count + tile.key_count};
    const int position_last = tile.position + tile.rows - 1;
    const int begin = interval.begin(tile.position);
    end_ = interval.end(position_last);
    whole_begin_ = interval.begin(position_last);
    whole_end_ = interval.end(tile.position);
    in_prefix_ = begin < tile.prefix_count;
    own_begin_ = tile.key_begin;
    range_end_ = in_prefix_ ? tile.prefix_count : interval.context;
    context_ = interval.context;
    const int first = in_prefix_ ? 0 : tile.prefix_count;
    position_ = first + (begin - first) / kKeys * kKeys;
    row_ = (in_prefix_ ? tile.prefix_begin : tile.key_begin) + position_ - first;
    if (end_ <= begin) end_ = position_;
  }

  __device__ __forceinline__ bool done() const { return position_ >= end_; }
  __device__ __forceinline__ void advance() {
    position_ += kKeys, row_ += kKeys;
    if (in_prefix_ && position_ >= range_end_) {
      in_prefix_ = false;
      position_ = range_end_, row_ = own_begin_, range_end_ = context_;
    }
  }

  __device__ __forceinline__ int row() const { return row_; }            // of k and v, of the block's first key
  __device__ __forceinline__ int position() const { return position_; }  // in the context
  __device__ __forceinline__ int keys() const {                          // that belong to the range: 1 .. kKeys
    return min(kKeys, range_end_ - position_);
  }
  // Whether every row of the tile sees every key of the block.
  __device__ __forceinline__ bool is_whole() const {
    return range_end_ - position_ >= kKeys && whole_begin_ <= position_ && position_ + kKeys <= whole_end_;
  }

 private:
  int position_, row_, end_, range_end_, own_begin_, context_;
  int whole_begin_, whole_end_;  // positions that every row sees
  bool in_prefix_;
};

}  // namespace tandem::kernels

// How a tile of rows meets its columns: block by block of 64, ascending, each row with the columns that it sees.
//
// In the forward the rows are queries (some tokens, each with the heads that share a kv head) and the columns keys; in
// the backward also the other way round. A token at position p sees the columns interval.begin(p) .. interval.end(p)-1,
// so that later tokens see later columns. The first `prefix` columns lie apart from the rest, and blocks are counted
// from the beginning of each of the two.
// Threads: a value.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention/tile_scratch.h"
#include "kernels/fused_attention/interval.h"

namespace tandem::kernels {

// What a row sees of a block: its columns low .. high of 0 .. 63.
struct Visible {
  std::int64_t low, high;
  bool all() const { return low == 0 && high == kKeys - 1; }
  bool none() const { return low > high; }
  friend bool operator==(const Visible&, const Visible&) = default;
};

// Where the columns lie: dense rows, the prefix's and the others; or in a paged cache, without a prefix.
// Strides and offsets in elements.
struct ColumnRows {
  const std::int32_t* block_table = nullptr;
  std::int64_t block_tokens = 0, block_stride = 0;
  std::int64_t stride = 0;
  std::int64_t prefix = 0, prefix_offset = 0, own_offset = 0;

  std::int64_t offset(std::int64_t j) const {
    if (block_table != nullptr) return block_table[j / block_tokens] * block_stride + j % block_tokens * stride;
    return j < prefix ? prefix_offset + j * stride : own_offset + (j - prefix) * stride;
  }
  // Columns j .. run_end(j)-1 lie one stride apart, within one block of the walk.
  std::int64_t run_end(std::int64_t j) const {
    return block_table != nullptr ? (j / block_tokens + 1) * block_tokens : j + kKeys;
  }
};

class TileWalk {
 public:
  TileWalk(const RowInterval& interval, std::int64_t prefix, std::int64_t position, std::int64_t tokens,
           std::int64_t heads)
      : interval_(interval),
        prefix_(prefix),
        position_(position),
        tokens_(tokens),
        heads_(heads),
        first_(begin_of(0)),
        past_(end_of(tokens - 1)),
        block_(block_of(first_)) {}

  // Whether there is a block in hand, of which some row sees some column.
  bool has_block() const { return first_ < past_ && block_ < past_; }
  bool has_next() const { return next_block() < past_; }
  void next() { block_ = next_block(); }

  // What the token sees of the block in hand.
  Visible visible(std::int64_t token) const {
    return {std::max<std::int64_t>(begin_of(token) - block_, 0),
            std::min(end_of(token), block_end(block_)) - block_ - 1};
  }

  // Where the 64 columns of the block in hand begin, or those of the next; columns outside what the tile sees repeat
  // one inside, so that nothing else is ever read.
  void find(const ColumnRows& rows, std::int64_t* offsets) const { find_in(block_, rows, offsets); }
  void find_next(const ColumnRows& rows, std::int64_t* offsets) const { find_in(next_block(), rows, offsets); }

  // The block's first column.
  std::int64_t block() const { return block_; }

  // Calls visit(begin, end, seen) for ranges of rows that are multiplied together, where row begin + i sees seen[i],
  // some of the block: at most kGroupRows each; of whole tokens, where the block is partly visible.
  template <class Visit>
  void for_groups(const Visit& visit) const {
    // Tokens that see something of the block lie together, and among them those that see all of it.
    std::int64_t begin = 0, end = tokens_;
    while (begin < end && visible(begin).none()) ++begin;
    while (begin < end && visible(end - 1).none()) --end;
    std::int64_t all_begin = begin, all_end = end;
    while (all_begin < end && !visible(all_begin).all()) ++all_begin;
    while (all_end > all_begin && !visible(all_end - 1).all()) --all_end;
    Visible seen[kGroupRows];
    const auto visit_partial = [&](std::int64_t from, std::int64_t to) {
      const std::int64_t step = heads_ < kGroupRows ? kGroupRows / heads_ * heads_ : kGroupRows;
      std::int64_t token = from, head = 0;
      for (std::int64_t row = from * heads_; row < to * heads_; row += step) {
        const std::int64_t past = std::min(row + step, to * heads_);
        for (std::int64_t i = 0; i < past - row; ++i) {
          seen[i] = visible(token);
          if (++head == heads_) head = 0, ++token;
        }
        visit(row, past, seen);
      }
    };
    visit_partial(begin, all_begin);
    std::fill_n(seen, kGroupRows, Visible{0, kKeys - 1});
    for (std::int64_t row = all_begin * heads_; row < all_end * heads_; row += kGroupRows) {
      visit(row, std::min(row + kGroupRows, all_end * heads_), seen);
    }
    visit_partial(all_end, end);
  }

 private:
  std::int64_t begin_of(std::int64_t token) const {
    return interval_.begin(static_cast<std::int32_t>(position_ + token));
  }
  std::int64_t end_of(std::int64_t token) const { return interval_.end(static_cast<std::int32_t>(position_ + token)); }
  std::int64_t block_of(std::int64_t j) const {
    return j < prefix_ ? j / kKeys * kKeys : prefix_ + (j - prefix_) / kKeys * kKeys;
  }
  std::int64_t block_end(std::int64_t block) const {
    return block < prefix_ ? std::min(block + kKeys, prefix_) : block + kKeys;
  }
  std::int64_t next_block() const { return block_end(block_); }

  void find_in(std::int64_t block, const ColumnRows& rows, std::int64_t* offsets) const {
    const std::int64_t low = std::max(block, first_), high = std::min(block_end(block), past_) - 1;
    for (std::int64_t j = low; j <= high;) {
      const std::int64_t run_end = std::min(high + 1, rows.run_end(j));
      for (std::int64_t offset = rows.offset(j); j < run_end; ++j, offset += rows.stride) offsets[j - block] = offset;
    }
    std::fill(offsets, offsets + (low - block), offsets[low - block]);
    std::fill(offsets + (high + 1 - block), offsets + kKeys, offsets[high - block]);
  }

  RowInterval interval_;
  std::int64_t prefix_, position_, tokens_, heads_;
  std::int64_t first_, past_;  // of the columns that some row sees
  std::int64_t block_;
};

}  // namespace tandem::kernels

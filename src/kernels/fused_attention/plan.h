// Which keys each query sees, and the order in which a device works through them: made once on the host, used by every
// layer and by forward and backward alike.
//
// A *segment* is a run of query rows that share one context: first its prefix, keys that other segments may share, then
// its own keys. Positions count through both, 0 .. S-1 with S = prefix_count + key_count; the queries are the last
// query_count of these positions (bottom-right alignment), so query t stands at p = S - query_count + t. It sees
// position j iff  p - left <= j <= p + right,  0 <= j < S: per row one interval of positions, at most two of key rows.
//   packed sequences   one segment each, no prefix               causal            right = 0
//   padding            counts shorter than the rows               sliding window    left = window - 1, right = 0
//   documents          one segment each                           full              both unbounded
//   many answers to one prompt (arXiv:2402.05099 shares a prefix in inference; here in training too): a segment for the
//                      prompt, and one for each answer whose prefix is the prompt's keys; each key is held once
//
// Keys are visited in blocks of key_block rows: the prefix's blocks counted from its first row, then the segment's own
// from theirs, ascending. So a row's order of additions depends on its own segment only; and an answer behind a prefix
// whose length is a multiple of key_block gets the bits of the same tokens laid out as one sequence.
//
// Threads: a value; any number of readers.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/device.h"

namespace tandem::kernels {

struct AttentionSegment {
  std::int32_t query_begin = 0, query_count = 0;    // rows of q
  std::int32_t prefix_begin = 0, prefix_count = 0;  // rows of k and v
  std::int32_t key_begin = 0, key_count = 0;        // rows of k and v
};

struct AttentionWindow {
  static constexpr std::int32_t kUnbounded = std::numeric_limits<std::int32_t>::max();
  std::int32_t left = kUnbounded;   // positions seen before the query's own
  std::int32_t right = kUnbounded;  // and after it; 0 is causal
};

struct AttentionShape {
  std::int64_t T = 0;  // rows of q
  std::int64_t S = 0;  // rows of k and v
  std::int64_t H = 0, G = 0, D = 0;
};

// Who computes: the CPU; any card from compute capability 8.0 (mma.sync); Hopper (wgmma and TMA).
enum class AttentionPath : std::uint8_t { kCpu, kSm80, kSm90 };

// The best path of a device. Errors: kInvalidArgument (a card older than 8.0; a build without CUDA).
[[nodiscard]] Result<AttentionPath> attention_path(device::Device device);

// Rows and keys of the tiles that a path's kernels work in.
struct AttentionTiling {
  std::int32_t forward_rows, key_block;       // a forward tile; key_block is the canonical block of the path
  std::int32_t backward_rows, backward_keys;  // a step of the backward; its stationary keys
};
AttentionTiling attention_tiling(AttentionPath path, std::int64_t D);

// ---- What the CUDA kernels read, as words of int32. ----

// Some query rows of one segment: the unit of the forward. 8 words.
struct ForwardTile {
  std::int32_t query_row, rows, position;  // first row of q, how many (<= forward_rows), position of the first
  std::int32_t prefix_begin, prefix_count, key_begin, key_count;
  std::int32_t step;  // number of the backward's step that holds the first row, among all segments' steps
};

// Some key rows: the unit of the backward. Its visits are those segments that see any of it. 8 words.
struct KeyTile {
  std::int32_t key_row, keys;  // first row of k and v, how many (<= backward_keys)
  std::int32_t visit_begin, visit_end;
  std::int32_t steps;  // of all its visits, for one query head
  std::int32_t spare[3];
};

// One segment's look at a key tile: steps step_begin .. step_end-1 of backward_rows query rows each. 12 words.
struct KeyVisit {
  std::int32_t query_begin, query_count, position;  // of the segment; position of its first query
  std::int32_t key_position;                        // of the tile's first key in the segment's context
  std::int32_t keys;                                // of the tile that belong to the segment's context (<= the tile's)
  std::int32_t context;                             // S of the segment
  std::int32_t step_begin, step_end;
  std::int32_t step_base;     // number of the segment's first step among all segments': names its dq accumulator
  std::int32_t ordinal;       // of the key tile in the segment's order of key tiles
  std::int32_t prefix_count;  // of the segment: with `prefix_tiles`, gives the first ordinal that a step sees
  std::int32_t prefix_tiles;
};

// Query rows of one segment that a step of the backward takes together, in the order of step_base. 4 words.
struct BackwardStep {
  std::int32_t query_row, rows;    // first row of q, how many (<= backward_rows)
  std::int32_t position, context;  // of the first row; S of the segment
};

// What a thread block does next in the forward: a tile, for one query head.
struct WorkItem {
  std::int32_t tile, head;
};

// And in the backward: a key tile of one kv head, for some or all query heads of its group. 8 words.
struct KeyItem {
  std::int32_t tile, kv_head;
  std::int32_t head, heads;  // first query head, how many
  std::int32_t sums;         // where dk and dv go if these are not all heads, else -1
  std::int32_t spare[3];
};

// A key tile of one kv head whose query heads are several items: its dk and dv are theirs added up, in the order of
// heads. 8 words.
struct KeySums {
  std::int32_t key_row, keys, kv_head;
  std::int32_t begin, count;  // KeyItem::sums of the first item, how many items
  std::int32_t spare[3];
};

class FusedAttentionPlan {
 public:
  // Errors: kInvalidArgument: negative or outside T or S; query ranges that overlap; key ranges that overlap without
  // beginning at the same row; prefixes of prefixes, or a prefix that begins with its own segment's keys; H not a
  // multiple of G; D not a multiple of 8 or above 256; left or right negative.
  [[nodiscard]] static Result<FusedAttentionPlan> create(std::span<const AttentionSegment> segments,
                                                         const AttentionWindow& window, const AttentionShape& shape,
                                                         AttentionPath path);

  AttentionPath path() const { return path_; }
  const AttentionShape& shape() const { return shape_; }
  const AttentionWindow& window() const { return window_; }
  std::span<const AttentionSegment> segments() const { return segments_; }
  const AttentionTiling& tiling() const { return tiling_; }

  // The tables below one after another: copy them to the device once; the CUDA kernels take the copy. Empty on the CPU.
  std::span<const std::int32_t> words() const { return words_; }
  struct Table {
    std::int64_t offset = 0, count = 0;  // in words; in entries
  };
  Table forward_tiles, forward_items, key_tiles, key_visits, backward_steps, backward_items, backward_sums;
  std::int64_t steps_count = 0;    // of all segments: dq accumulators, for each head
  std::int64_t additions = 0;      // of key tiles to these accumulators, for one head
  std::int64_t sums_count = 0;     // of key items that are not for all heads
  std::int64_t visible_pairs = 0;  // pairs (query, key) of one head: what FLOPs are counted from

 private:
  AttentionPath path_ = AttentionPath::kCpu;
  AttentionShape shape_;
  AttentionWindow window_;
  AttentionTiling tiling_{};
  std::vector<AttentionSegment> segments_;
  std::vector<std::int32_t> words_;
};

}  // namespace tandem::kernels

#include "kernels/fused_attention/plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/work_order.h"

namespace tandem::kernels {
namespace {

constexpr const char* kOp = "fused attention plan";

Status check_segment(std::size_t index, const AttentionSegment& s, const AttentionShape& shape) {
  const auto outside = [](std::int64_t begin, std::int64_t count, std::int64_t rows) {
    return begin < 0 || count < 0 || begin + count > rows;
  };
  if (outside(s.query_begin, s.query_count, shape.T)) {
    return invalid_argument("{}: segment {} has queries {}+{}; q has rows 0..{}", kOp, index, s.query_begin,
                            s.query_count, shape.T);
  }
  if (outside(s.prefix_begin, s.prefix_count, shape.S) || outside(s.key_begin, s.key_count, shape.S)) {
    return invalid_argument("{}: segment {} has prefix {}+{} and keys {}+{}; k has rows 0..{}", kOp, index,
                            s.prefix_begin, s.prefix_count, s.key_begin, s.key_count, shape.S);
  }
  if (s.prefix_count > 0 && s.key_count > 0 && s.prefix_begin == s.key_begin) {
    return invalid_argument("{}: segment {} has its prefix and its own keys both at row {}; a key counts once", kOp,
                            index, s.key_begin);
  }
  return ok_status();
}

// A maximal run of key rows that begins where some segment's prefix or own keys begin.
struct KeyRange {
  std::int32_t begin = 0, count = 0;
};

Result<std::vector<KeyRange>> find_key_ranges(std::span<const AttentionSegment> segments) {
  std::vector<KeyRange> named;
  for (const AttentionSegment& s : segments) {
    if (s.prefix_count > 0) named.push_back({s.prefix_begin, s.prefix_count});
    if (s.key_count > 0) named.push_back({s.key_begin, s.key_count});
  }
  std::sort(named.begin(), named.end(), [](const KeyRange& a, const KeyRange& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.count > b.count;
  });
  std::vector<KeyRange> ranges;
  for (const KeyRange& range : named) {
    if (!ranges.empty() && ranges.back().begin == range.begin) continue;
    if (!ranges.empty() && range.begin < ranges.back().begin + ranges.back().count) {
      return invalid_argument("{}: keys {}+{} overlap keys {}+{}; ranges that share keys must begin at the same row",
                              kOp, range.begin, range.count, ranges.back().begin, ranges.back().count);
    }
    ranges.push_back(range);
  }
  return ranges;
}

Status check_queries(std::span<const AttentionSegment> segments) {
  std::vector<KeyRange> ranges;
  for (const AttentionSegment& s : segments) {
    if (s.query_count > 0) ranges.push_back({s.query_begin, s.query_count});
  }
  std::sort(ranges.begin(), ranges.end(), [](const KeyRange& a, const KeyRange& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].begin + ranges[i - 1].count) {
      return invalid_argument("{}: queries {}+{} overlap queries {}+{}; a query belongs to one segment", kOp,
                              ranges[i].begin, ranges[i].count, ranges[i - 1].begin, ranges[i - 1].count);
    }
  }
  return ok_status();
}

std::int64_t count_visible_pairs(std::span<const AttentionSegment> segments, const AttentionWindow& window) {
  std::int64_t pairs = 0;
  for (const AttentionSegment& s : segments) {
    const RowInterval row{window.left, window.right, s.prefix_count + s.key_count};
    const std::int32_t position = row.context - s.query_count;
    for (std::int32_t t = 0; t < s.query_count; ++t) {
      pairs += std::max(0, row.end(position + t) - row.begin(position + t));
    }
  }
  return pairs;
}

// Rows of a segment's first forward tile. A tile of few rows takes nearly as long for a block of keys as a full one:
// where later rows see more, it comes first, and visits the fewest blocks. (Measured. Where blocks have as many keys as
// tiles rows, it would visit no fewer; above that, the backward takes the same tiles in whole steps.)
std::int32_t first_tile_rows(AttentionPath path, std::int64_t D, std::int32_t tile_rows, std::int32_t rows,
                             bool later_see_more) {
  const std::int32_t odd = rows % tile_rows;
  return path == AttentionPath::kSm90 && D <= 64 && later_see_more && odd > 0 ? odd : tile_rows;
}

template <class Entry>
FusedAttentionPlan::Table append(std::vector<std::int32_t>& words, const std::vector<Entry>& entries) {
  while (words.size() % 4 != 0) words.push_back(0);  // entries are read 16 bytes at a time
  const FusedAttentionPlan::Table table{static_cast<std::int64_t>(words.size()),
                                        static_cast<std::int64_t>(entries.size())};
  words.resize(words.size() + entries.size() * sizeof(Entry) / sizeof(std::int32_t));
  if (!entries.empty()) std::memcpy(words.data() + table.offset, entries.data(), entries.size() * sizeof(Entry));
  return table;
}

}  // namespace

AttentionTiling attention_tiling(AttentionPath path, std::int64_t D) {
  switch (path) {
    case AttentionPath::kCpu: return {.forward_rows = 128, .key_block = 64, .backward_rows = 64, .backward_keys = 64};
    case AttentionPath::kSm80:
      return {.forward_rows = 64, .key_block = 64, .backward_rows = D <= 128 ? 64 : 32, .backward_keys = 64};
    case AttentionPath::kSm90: break;
  }
  if (D <= 64) return {.forward_rows = 192, .key_block = 128, .backward_rows = 128, .backward_keys = 128};
  if (D <= 128) return {.forward_rows = 128, .key_block = 128, .backward_rows = 64, .backward_keys = 128};
  return {.forward_rows = 128, .key_block = 80, .backward_rows = 64, .backward_keys = 64};
}

Result<FusedAttentionPlan> FusedAttentionPlan::create(std::span<const AttentionSegment> segments,
                                                      const AttentionWindow& window, const AttentionShape& shape,
                                                      AttentionPath path) {
  if (shape.H < 1 || shape.G < 1 || shape.H % shape.G != 0) {
    return invalid_argument("{}: {} query heads and {} kv heads; expected at least one, and H a multiple of G", kOp,
                            shape.H, shape.G);
  }
  if (shape.D < 8 || shape.D > 256 || shape.D % 8 != 0) {
    return invalid_argument("{}: head dim {}; expected a multiple of 8 up to 256", kOp, shape.D);
  }
  if (window.left < 0 || window.right < 0) {
    return invalid_argument("{}: window left {}, right {}; expected 0 or more, or unbounded", kOp, window.left,
                            window.right);
  }
  if (shape.T < 0 || shape.S < 0 || shape.T > kRowsMax || shape.S > kRowsMax) {
    return invalid_argument("{}: {} queries and {} keys; expected 0 to {} of each: split the batch", kOp, shape.T,
                            shape.S, kRowsMax);
  }
  for (std::size_t i = 0; i < segments.size(); ++i) TD_TRY(check_segment(i, segments[i], shape));
  TD_TRY(check_queries(segments));
  const std::vector<KeyRange> ranges = TD_TRY(find_key_ranges(segments));

  FusedAttentionPlan plan;
  plan.path_ = path;
  plan.shape_ = shape;
  plan.window_ = {std::min(window.left, kBoundMax), std::min(window.right, kBoundMax)};
  plan.tiling_ = attention_tiling(path, shape.D);
  plan.segments_.assign(segments.begin(), segments.end());
  plan.visible_pairs = count_visible_pairs(segments, plan.window_);

  // The range that a segment's keys begin in is the segment's family; segments without keys have a family of their own.
  const auto range_at = [&ranges](std::int32_t begin) {
    const auto found = std::lower_bound(ranges.begin(), ranges.end(), begin,
                                        [](const KeyRange& range, std::int32_t row) { return range.begin < row; });
    return static_cast<std::size_t>(found - ranges.begin());
  };
  const std::size_t no_keys = ranges.size();
  std::vector<std::int64_t> family_of_range(ranges.size());
  std::iota(family_of_range.begin(), family_of_range.end(), 0);
  const auto own_range = [&](const AttentionSegment& s) { return s.key_count > 0 ? range_at(s.key_begin) : no_keys; };
  const auto prefix_range = [&](const AttentionSegment& s) {
    return s.prefix_count > 0 ? range_at(s.prefix_begin) : no_keys;
  };
  // An answer runs with its prompt: its own range joins the prompt's family. One level of this, so that every segment's
  // key tiles have one order that all agree on.
  std::vector<std::int64_t> prefix_of_range(ranges.size(), -1);
  for (const AttentionSegment& s : segments) {
    const std::size_t own = own_range(s);
    if (own == no_keys) continue;
    const std::size_t prefix = prefix_range(s);
    const std::int64_t name = prefix == no_keys ? static_cast<std::int64_t>(own) : static_cast<std::int64_t>(prefix);
    if (prefix_of_range[own] >= 0 && prefix_of_range[own] != name) {
      return invalid_argument("{}: keys at row {} belong to segments with different prefixes", kOp, s.key_begin);
    }
    prefix_of_range[own] = family_of_range[own] = name;
  }
  for (const AttentionSegment& s : segments) {
    const std::size_t prefix = prefix_range(s);
    if (prefix == no_keys || family_of_range[prefix] == static_cast<std::int64_t>(prefix)) continue;
    return invalid_argument("{}: the prefix at row {} has a prefix itself; prefixes do not chain", kOp, s.prefix_begin);
  }
  if (path == AttentionPath::kCpu) return plan;

  const std::int64_t bytes_per_row = 2 * 2 * shape.D * shape.G / shape.H;  // of one query head
  std::vector<std::int64_t> family_bytes(ranges.size() + 1, 0);
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    family_bytes[static_cast<std::size_t>(family_of_range[r])] +=
        ranges[r].count * std::max<std::int64_t>(bytes_per_row, 1);
  }

  const AttentionTiling& tiling = plan.tiling_;
  std::vector<ForwardTile> forward_tiles;
  std::vector<Ranked> forward_order;
  std::vector<std::vector<KeyVisit>> visits_of_tile;
  std::vector<KeyTile> key_tiles;
  std::vector<Ranked> key_order;
  std::vector<std::int64_t> range_of_tile;
  std::vector<std::size_t> first_tile_of_range;
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    first_tile_of_range.push_back(key_tiles.size());
    for (std::int32_t row = 0; row < ranges[r].count; row += tiling.backward_keys) {
      // A step waits for its tiles of lower ordinal. In whatever segment, those are of the prefix, which comes before
      // all that have it, or lie before in the same range.
      key_order.push_back(
          {static_cast<std::int32_t>(key_tiles.size()), family_of_range[r], 0, row / tiling.backward_keys});
      range_of_tile.push_back(static_cast<std::int64_t>(r));
      key_tiles.push_back({ranges[r].begin + row, std::min(tiling.backward_keys, ranges[r].count - row), 0, 0, 0, {}});
    }
  }
  visits_of_tile.resize(key_tiles.size());

  std::vector<BackwardStep> backward_steps;
  std::int32_t step_base = 0;
  for (const AttentionSegment& s : segments) {
    if (s.query_count == 0) continue;
    const RowInterval row{plan.window_.left, plan.window_.right, s.prefix_count + s.key_count};
    const std::int32_t position = row.context - s.query_count;
    const std::size_t own = own_range(s), prefix = prefix_range(s);
    const std::size_t family_range = prefix != no_keys ? prefix : own;
    const std::int64_t family =
        family_range == no_keys ? static_cast<std::int64_t>(no_keys) : family_of_range[family_range];
    std::int32_t rows = first_tile_rows(path, shape.D, tiling.forward_rows, s.query_count,
                                        row.end(position) < row.end(position + s.query_count - 1));
    for (std::int32_t t = 0; t < s.query_count; t += rows, rows = tiling.forward_rows) {
      rows = std::min(rows, s.query_count - t);
      const std::int64_t seen = std::max(0, row.end(position + t + rows - 1) - row.begin(position + t));
      forward_order.push_back({static_cast<std::int32_t>(forward_tiles.size()), family,
                               ceil_div(seen, tiling.key_block), static_cast<std::int64_t>(forward_tiles.size())});
      forward_tiles.push_back({s.query_begin + t, rows, position + t, s.prefix_begin, s.prefix_count, s.key_begin,
                               s.key_count, step_base + t / tiling.backward_rows});
    }
    const auto steps = static_cast<std::int32_t>(ceil_div(s.query_count, tiling.backward_rows));
    const auto prefix_tiles = static_cast<std::int32_t>(ceil_div(s.prefix_count, tiling.backward_keys));
    const auto visit_range = [&](std::size_t range, std::int32_t count, std::int32_t first_position,
                                 std::int32_t first_ordinal) {
      for (std::int32_t i = 0; i * tiling.backward_keys < count; ++i) {
        const std::int32_t key_position = first_position + i * tiling.backward_keys;
        const std::int32_t keys = std::min(tiling.backward_keys, count - i * tiling.backward_keys);
        // The queries that see any of these keys are consecutive.
        const std::int64_t first_query =
            std::max<std::int64_t>(0, static_cast<std::int64_t>(key_position) - row.right - position);
        const std::int64_t past_query =
            std::min<std::int64_t>(s.query_count, static_cast<std::int64_t>(key_position) + keys - position + row.left);
        if (first_query >= past_query) continue;
        const std::size_t tile = first_tile_of_range[range] + static_cast<std::size_t>(i);
        visits_of_tile[tile].push_back({s.query_begin, s.query_count, position, key_position, keys, row.context,
                                        static_cast<std::int32_t>(first_query / tiling.backward_rows),
                                        static_cast<std::int32_t>(ceil_div(past_query, tiling.backward_rows)),
                                        step_base, first_ordinal + i, s.prefix_count, prefix_tiles});
      }
    };
    if (prefix != no_keys) visit_range(prefix, s.prefix_count, 0, 0);
    if (own != no_keys) visit_range(own, s.key_count, s.prefix_count, prefix_tiles);
    for (std::int32_t t = 0; t < s.query_count; t += tiling.backward_rows) {
      backward_steps.push_back(
          {s.query_begin + t, std::min(tiling.backward_rows, s.query_count - t), position + t, row.context});
    }
    step_base += steps;
  }
  plan.steps_count = step_base;

  std::vector<KeyVisit> key_visits;
  for (std::size_t tile = 0; tile < key_tiles.size(); ++tile) {
    // First those who have these keys for a prefix: all tiles of it see all of their steps, and can follow each other
    // one step apart, while of its own segment a later tile sees less.
    std::stable_partition(visits_of_tile[tile].begin(), visits_of_tile[tile].end(),
                          [](const KeyVisit& visit) { return visit.key_position < visit.prefix_count; });
    key_tiles[tile].visit_begin = static_cast<std::int32_t>(key_visits.size());
    key_visits.insert(key_visits.end(), visits_of_tile[tile].begin(), visits_of_tile[tile].end());
    key_tiles[tile].visit_end = static_cast<std::int32_t>(key_visits.size());
    for (const KeyVisit& visit : visits_of_tile[tile]) key_tiles[tile].steps += visit.step_end - visit.step_begin;
    plan.additions += key_tiles[tile].steps;
  }
  std::vector<std::int64_t> kv_family_bytes(family_bytes);
  for (std::int64_t& bytes : kv_family_bytes) bytes = bytes * shape.H / shape.G;
  const bool waits = path == AttentionPath::kSm90 && shape.D <= 128;  // items of the backward for each other
  // Answers come last: their steps wait for all tiles of the prompt, which are then done.
  const auto answers =
      std::stable_partition(key_order.begin(), key_order.end(), [&range_of_tile](const Ranked& ranked) {
        return ranked.family == range_of_tile[static_cast<std::size_t>(ranked.tile)];
      });
  const std::int64_t heads_min = waits ? heads_together(shape) : 0;
  const std::int64_t pairs_max = path != AttentionPath::kSm90 ? kAnyPairs
                                 : shape.D <= 64              ? kNarrowBackwardPairs
                                                              : kBackwardPairs;
  std::vector<WorkItem> key_work =
      order_work({key_order.begin(), answers}, kv_family_bytes, shape.G, heads_min, pairs_max);
  const auto answers_work = order_work({answers, key_order.end()}, kv_family_bytes, shape.G, heads_min, pairs_max);
  key_work.insert(key_work.end(), answers_work.begin(), answers_work.end());
  const std::int64_t group = shape.H / shape.G;
  std::vector<std::int64_t> heads_of_tile(key_tiles.size(), group);
  std::vector<std::int64_t> tiles_of_range(ranges.size(), 0);  // and of those who have it for a prefix
  for (const std::int64_t range : range_of_tile) {
    const std::int64_t prefix = family_of_range[static_cast<std::size_t>(range)];
    ++tiles_of_range[static_cast<std::size_t>(range)];
    if (prefix != range) ++tiles_of_range[static_cast<std::size_t>(prefix)];
  }
  for (std::size_t r = 0; waits && r < ranges.size(); ++r) {
    const std::size_t begin = first_tile_of_range[r];
    const std::size_t end = r + 1 < ranges.size() ? first_tile_of_range[r + 1] : key_tiles.size();
    std::int64_t steps = 0;
    for (std::size_t tile = begin; tile < end; ++tile) steps = std::max<std::int64_t>(steps, key_tiles[tile].steps);
    for (std::size_t tile = begin; tile < end; ++tile) {
      if (key_tiles[tile].steps == 0) continue;
      heads_of_tile[tile] = heads_of_item(shape, tiles_of_range[r], steps * tiling.backward_rows);
    }
  }
  std::vector<KeyItem> key_items;
  std::vector<KeySums> key_sums;
  for (const WorkItem& work : key_work) {
    const KeyTile& tile = key_tiles[static_cast<std::size_t>(work.tile)];
    const std::int64_t heads = heads_of_tile[static_cast<std::size_t>(work.tile)];
    const auto items = static_cast<std::int32_t>(ceil_div(group, heads));
    for (std::int64_t first = 0; first < group; first += heads) {
      key_items.push_back({work.tile, work.head, static_cast<std::int32_t>(work.head * group + first),
                           static_cast<std::int32_t>(std::min(heads, group - first)),
                           items == 1 ? -1 : static_cast<std::int32_t>(plan.sums_count + first / heads)});
    }
    if (items == 1) continue;
    key_sums.push_back({tile.key_row, tile.keys, work.head, static_cast<std::int32_t>(plan.sums_count), items});
    plan.sums_count += items;
  }

  plan.forward_tiles = append(plan.words_, forward_tiles);
  plan.forward_items = append(plan.words_, order_forward(std::move(forward_order), family_bytes, shape.H));
  plan.key_tiles = append(plan.words_, key_tiles);
  plan.key_visits = append(plan.words_, key_visits);
  plan.backward_steps = append(plan.words_, backward_steps);
  plan.backward_items = append(plan.words_, key_items);
  plan.backward_sums = append(plan.words_, key_sums);
  return plan;
}

}  // namespace tandem::kernels

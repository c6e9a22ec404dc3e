// The plan's refusals, and its tables against a naive model that looks at every pair.
#include "kernels/fused_attention/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include "base/rng.h"
#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

using Segments = std::vector<AttentionSegment>;

constexpr std::int32_t kAll = AttentionWindow::kUnbounded;

StatusCode code_of(const Segments& segments, AttentionWindow window = {},
                   kernels::AttentionShape shape = {100, 100, 4, 2, 64}) {
  StatusCode code = StatusCode::kOk;
  for (const AttentionPath path : {AttentionPath::kCpu, AttentionPath::kSm80, AttentionPath::kSm90}) {
    const auto plan = FusedAttentionPlan::create(segments, window, shape, path);
    EXPECT_TRUE(path == AttentionPath::kCpu || plan.code() == code);
    code = plan.code();
  }
  return code;
}

constexpr StatusCode kBad = StatusCode::kInvalidArgument;

TEST(FusedAttentionPlan, RefusesBadShapes) {
  EXPECT_EQ(code_of({}), StatusCode::kOk);
  EXPECT_EQ(code_of({}, {}, {0, 0, 1, 1, 8}), StatusCode::kOk);
  EXPECT_EQ(code_of({}, {}, {-1, 100, 4, 2, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, -1, 4, 2, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, 100, 0, 2, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, 100, 4, 0, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, 100, 4, 3, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, 100, 2, 4, 64}), kBad);
  for (const std::int64_t D : {-8, 0, 4, 12, 63, 264}) EXPECT_EQ(code_of({}, {}, {100, 100, 4, 2, D}), kBad) << D;
  for (const std::int64_t D : {8, 16, 248, 256}) EXPECT_EQ(code_of({}, {}, {100, 100, 4, 2, D}), StatusCode::kOk) << D;
  EXPECT_EQ(code_of({}, {}, {std::int64_t{1} << 31, 100, 4, 2, 64}), kBad);
  EXPECT_EQ(code_of({}, {}, {100, std::int64_t{1} << 31, 4, 2, 64}), kBad);
}

TEST(FusedAttentionPlan, RefusesBadWindows) {
  EXPECT_EQ(code_of({}, {0, 0}), StatusCode::kOk);
  EXPECT_EQ(code_of({}, {-1, 0}), kBad);
  EXPECT_EQ(code_of({}, {0, -1}), kBad);
}

TEST(FusedAttentionPlan, RefusesRangesOutsideTheRows) {
  const AttentionSegment good{
      .query_begin = 90, .query_count = 10, .prefix_begin = 0, .prefix_count = 20, .key_begin = 95, .key_count = 5};
  EXPECT_EQ(code_of({good}), StatusCode::kOk);
  const auto with = [&good](std::int32_t AttentionSegment::*member, std::int32_t value) {
    AttentionSegment bad = good;
    bad.*member = value;
    return code_of({bad});
  };
  using S = AttentionSegment;
  for (const auto member :
       {&S::query_begin, &S::query_count, &S::prefix_begin, &S::prefix_count, &S::key_begin, &S::key_count}) {
    EXPECT_EQ(with(member, -1), kBad);
    EXPECT_EQ(with(member, 101), kBad);
    EXPECT_EQ(with(member, std::numeric_limits<std::int32_t>::max()), kBad);
  }
  EXPECT_EQ(with(&S::query_count, 11), kBad);
  EXPECT_EQ(with(&S::key_count, 6), kBad);
}

TEST(FusedAttentionPlan, RefusesOverlaps) {
  const auto queries = [](std::int32_t a, std::int32_t a_count, std::int32_t b, std::int32_t b_count) {
    return code_of({{.query_begin = a, .query_count = a_count}, {.query_begin = b, .query_count = b_count}});
  };
  EXPECT_EQ(queries(0, 10, 10, 5), StatusCode::kOk);
  EXPECT_EQ(queries(10, 5, 0, 10), StatusCode::kOk);
  EXPECT_EQ(queries(5, 0, 0, 10), StatusCode::kOk);
  EXPECT_EQ(queries(0, 10, 9, 5), kBad);
  EXPECT_EQ(queries(9, 5, 0, 10), kBad);
  EXPECT_EQ(queries(0, 10, 0, 10), kBad);
  EXPECT_EQ(queries(0, 10, 3, 2), kBad);
  const auto keys = [](std::int32_t a, std::int32_t a_count, std::int32_t b, std::int32_t b_count) {
    return code_of({{.key_begin = a, .key_count = a_count}, {.key_begin = b, .key_count = b_count}});
  };
  EXPECT_EQ(keys(0, 10, 10, 5), StatusCode::kOk);
  EXPECT_EQ(keys(0, 10, 0, 5), StatusCode::kOk);  // they begin at one row
  EXPECT_EQ(keys(5, 0, 0, 10), StatusCode::kOk);
  EXPECT_EQ(keys(0, 10, 9, 5), kBad);
  EXPECT_EQ(keys(3, 2, 0, 10), kBad);
  EXPECT_EQ(code_of({{.prefix_begin = 2, .prefix_count = 9, .key_begin = 10, .key_count = 5}}), kBad);
  // Of one segment, not even at one row: its keys would count twice.
  EXPECT_EQ(code_of({{.prefix_begin = 2, .prefix_count = 9, .key_begin = 2, .key_count = 5}}), kBad);
}

TEST(FusedAttentionPlan, RefusesPrefixesThatChainOrDiffer) {
  const AttentionSegment prompt{.query_begin = 0, .query_count = 10, .key_begin = 0, .key_count = 10};
  const AttentionSegment answer{
      .query_begin = 10, .query_count = 5, .prefix_begin = 0, .prefix_count = 10, .key_begin = 10, .key_count = 5};
  EXPECT_EQ(code_of({prompt, answer}), StatusCode::kOk);
  EXPECT_EQ(code_of({answer, prompt}), StatusCode::kOk);
  const AttentionSegment chained{
      .query_begin = 15, .query_count = 5, .prefix_begin = 10, .prefix_count = 5, .key_begin = 15, .key_count = 5};
  EXPECT_EQ(code_of({prompt, answer, chained}), kBad);
  EXPECT_EQ(code_of({chained, answer}), kBad);
  AttentionSegment other = answer;  // the same own keys
  other.query_begin = 20;
  EXPECT_EQ(code_of({prompt, answer, other}), StatusCode::kOk);
  other.prefix_count = 0;
  EXPECT_EQ(code_of({prompt, answer, other}), kBad);
  other.prefix_begin = 30, other.prefix_count = 10;
  EXPECT_EQ(code_of({prompt, answer, other}), kBad);
}

// Random segments that the plan accepts: some prompts with answers, ranges in any order of rows, with gaps.
Segments random_segments(std::uint64_t seed, std::int64_t& T, std::int64_t& S) {
  std::uint64_t counter = 0;
  const auto below = [&](std::int32_t bound) {
    return static_cast<std::int32_t>(philox_uniform({.seed = seed}, counter++) * bound);
  };
  Segments segments;
  std::int32_t query_row = 0, key_row = 0;
  const auto place_queries = [&](AttentionSegment& s, std::int32_t count) {
    query_row += below(3);
    s.query_begin = query_row;
    s.query_count = count;
    query_row += count;
  };
  const auto place_keys = [&](AttentionSegment& s, std::int32_t count) {
    key_row += below(3);
    s.key_begin = key_row;
    s.key_count = count;
    key_row += count;
  };
  for (std::int32_t prompts = 1 + below(3); prompts > 0; --prompts) {
    AttentionSegment prompt;
    place_keys(prompt, below(400));
    place_queries(prompt, below(4) == 0 ? below(500) : prompt.key_count);
    segments.push_back(prompt);
    for (std::int32_t answers = below(4); answers > 0; --answers) {
      AttentionSegment answer;
      answer.prefix_begin = prompt.key_begin;
      answer.prefix_count = below(3) == 0 ? below(prompt.key_count + 1) : prompt.key_count;
      place_keys(answer, below(5) == 0 ? 0 : below(300));
      place_queries(answer, below(4) == 0 ? below(500) : answer.key_count);
      segments.push_back(answer);
    }
  }
  for (std::size_t i = segments.size(); i > 1; --i) {
    std::swap(segments[i - 1], segments[static_cast<std::size_t>(below(static_cast<std::int32_t>(i)))]);
  }
  T = query_row + 2;
  S = key_row + 2;
  return segments;
}

template <class Entry>
std::vector<Entry> entries(const FusedAttentionPlan& plan, const FusedAttentionPlan::Table& table) {
  EXPECT_EQ(table.offset % 4, 0);
  const auto words = plan.words().subspan(static_cast<std::size_t>(table.offset),
                                          static_cast<std::size_t>(table.count) * sizeof(Entry) / 4);
  std::vector<Entry> values(static_cast<std::size_t>(table.count));
  if (!values.empty()) std::memcpy(values.data(), words.data(), words.size_bytes());
  return values;
}

bool sees(const AttentionWindow& window, std::int64_t p, std::int64_t j) {
  return j >= p - window.left && j <= p + window.right;
}

void check_forward(const FusedAttentionPlan& plan) {
  const auto tiles = entries<ForwardTile>(plan, plan.forward_tiles);
  const auto steps = entries<BackwardStep>(plan, plan.backward_steps);
  std::map<std::int32_t, std::tuple<const AttentionSegment*, std::int32_t>> covered;  // by row: segment, position
  for (const ForwardTile& tile : tiles) {
    EXPECT_GE(tile.rows, 1);
    EXPECT_LE(tile.rows, plan.tiling().forward_rows);
    ASSERT_TRUE(tile.step >= 0 && tile.step < plan.steps_count);
    const BackwardStep& step = steps[static_cast<std::size_t>(tile.step)];
    EXPECT_TRUE(step.query_row <= tile.query_row && tile.query_row < step.query_row + step.rows);
    for (std::int32_t r = 0; r < tile.rows; ++r) {
      const auto segment = std::find_if(plan.segments().begin(), plan.segments().end(), [&](const auto& s) {
        return tile.query_row + r >= s.query_begin && tile.query_row + r < s.query_begin + s.query_count;
      });
      ASSERT_NE(segment, plan.segments().end());
      EXPECT_EQ(tile.prefix_begin, segment->prefix_begin);
      EXPECT_EQ(tile.prefix_count, segment->prefix_count);
      EXPECT_EQ(tile.key_begin, segment->key_begin);
      EXPECT_EQ(tile.key_count, segment->key_count);
      const std::int32_t context = segment->prefix_count + segment->key_count;
      EXPECT_EQ(tile.position + r, context - segment->query_count + tile.query_row + r - segment->query_begin);
      EXPECT_TRUE(covered.emplace(tile.query_row + r, std::tuple{&*segment, tile.position + r}).second);
    }
  }
  std::size_t rows = 0;
  for (const AttentionSegment& s : plan.segments()) rows += static_cast<std::size_t>(s.query_count);
  EXPECT_EQ(covered.size(), rows);
  std::set<std::pair<std::int32_t, std::int32_t>> items;
  for (const WorkItem& item : entries<WorkItem>(plan, plan.forward_items)) {
    EXPECT_TRUE(items.emplace(item.tile, item.head).second);
    EXPECT_TRUE(item.tile >= 0 && item.tile < plan.forward_tiles.count && item.head >= 0 && item.head < plan.shape().H);
  }
  EXPECT_EQ(static_cast<std::int64_t>(items.size()), plan.forward_tiles.count * plan.shape().H);
}

void check_backward(const FusedAttentionPlan& plan) {
  const auto tiles = entries<KeyTile>(plan, plan.key_tiles);
  const auto visits = entries<KeyVisit>(plan, plan.key_visits);
  const std::int32_t rows_per_step = plan.tiling().backward_rows;
  std::map<std::int32_t, std::vector<std::pair<std::int32_t, std::int32_t>>> ordinals;  // by step: (ordinal, tile)
  std::map<std::tuple<std::int32_t, std::int32_t>, int> pairs;  // by query row and position of the key
  std::set<std::int32_t> key_rows, steps;
  std::size_t visits_seen = 0;
  for (std::int32_t i = 0; i < plan.key_tiles.count; ++i) {
    const KeyTile& tile = tiles[static_cast<std::size_t>(i)];
    EXPECT_TRUE(tile.keys >= 1 && tile.keys <= plan.tiling().backward_keys);
    for (std::int32_t j = 0; j < tile.keys; ++j) EXPECT_TRUE(key_rows.insert(tile.key_row + j).second);
    for (std::int32_t at = tile.visit_begin; at < tile.visit_end; ++at, ++visits_seen) {
      const KeyVisit& visit = visits[static_cast<std::size_t>(at)];
      const auto segment = std::find_if(plan.segments().begin(), plan.segments().end(), [&](const auto& s) {
        return s.query_count > 0 && visit.query_begin == s.query_begin;
      });
      ASSERT_NE(segment, plan.segments().end());
      const AttentionSegment& s = *segment;
      EXPECT_EQ(visit.query_count, s.query_count);
      EXPECT_EQ(visit.context, s.prefix_count + s.key_count);
      EXPECT_EQ(visit.position, visit.context - s.query_count);
      EXPECT_EQ(visit.prefix_count, s.prefix_count);
      EXPECT_EQ(visit.prefix_tiles, (s.prefix_count + plan.tiling().backward_keys - 1) / plan.tiling().backward_keys);
      EXPECT_TRUE(visit.keys >= 1 && visit.keys <= tile.keys);
      const bool in_prefix = visit.key_position < s.prefix_count;
      EXPECT_EQ(tile.key_row,
                in_prefix ? s.prefix_begin + visit.key_position : s.key_begin + visit.key_position - s.prefix_count);
      EXPECT_EQ(visit.ordinal,
                in_prefix ? visit.key_position / plan.tiling().backward_keys
                          : visit.prefix_tiles + (visit.key_position - s.prefix_count) / plan.tiling().backward_keys);
      EXPECT_TRUE(0 <= visit.step_begin && visit.step_begin < visit.step_end);
      EXPECT_LE(visit.step_end, (s.query_count + rows_per_step - 1) / rows_per_step);
      for (std::int32_t step = visit.step_begin; step < visit.step_end; ++step) {
        steps.insert(visit.step_base + step);
        ordinals[visit.step_base + step].emplace_back(visit.ordinal, i);
        bool sees_any = false;
        for (std::int32_t t = step * rows_per_step; t < std::min((step + 1) * rows_per_step, s.query_count); ++t) {
          for (std::int32_t j = 0; j < visit.keys; ++j) {
            if (!sees(plan.window(), visit.position + t, visit.key_position + j)) continue;
            sees_any = true;
            ++pairs[{s.query_begin + t, visit.key_position + j}];
          }
        }
        EXPECT_TRUE(sees_any) << "a step that sees nothing of its tile";
      }
    }
  }
  EXPECT_EQ(visits_seen, visits.size());
  std::int64_t visible = 0;
  for (const AttentionSegment& s : plan.segments()) {
    const std::int32_t context = s.prefix_count + s.key_count;
    for (std::int32_t t = 0; t < s.query_count; ++t) {
      for (std::int32_t j = 0; j < context; ++j) {
        if (!sees(plan.window(), context - s.query_count + t, j)) continue;
        ++visible;
        const auto found = pairs.find({s.query_begin + t, j});
        ASSERT_TRUE(found != pairs.end() && found->second == 1) << s.query_begin + t << " " << j;
      }
    }
    for (std::int32_t j = 0; j < s.prefix_count; ++j) EXPECT_TRUE(key_rows.contains(s.prefix_begin + j));
    for (std::int32_t j = 0; j < s.key_count; ++j) EXPECT_TRUE(key_rows.contains(s.key_begin + j));
  }
  EXPECT_EQ(static_cast<std::int64_t>(pairs.size()), visible);
  EXPECT_EQ(plan.visible_pairs, visible);
  for (const std::int32_t step : steps) EXPECT_TRUE(step >= 0 && step < plan.steps_count);

  // The work's order takes every tile once for each query head, the heads of a group ascending; for each head by
  // itself, the tiles of every step by ascending ordinal; and a step's ordinals leave none out, since it waits for each
  // in turn.
  std::vector<std::map<std::int32_t, std::size_t>> place(static_cast<std::size_t>(plan.shape().H));
  const auto items = entries<KeyItem>(plan, plan.backward_items);
  const std::int64_t group = plan.shape().H / plan.shape().G;
  std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> heads_taken;  // by tile and kv head
  for (std::size_t i = 0; i < items.size(); ++i) {
    const KeyItem& item = items[i];
    EXPECT_GE(item.heads, 1);
    std::int64_t& taken = heads_taken[{item.tile, item.kv_head}];
    EXPECT_EQ(item.head, item.kv_head * group + taken);
    taken += item.heads;
    for (std::int32_t h = item.head; h < item.head + item.heads; ++h) {
      EXPECT_TRUE(place.at(static_cast<std::size_t>(h)).emplace(item.tile, i).second);
    }
    EXPECT_TRUE(item.heads == group || (plan.path() == AttentionPath::kSm90 && plan.shape().D <= 128));
  }
  EXPECT_EQ(static_cast<std::int64_t>(heads_taken.size()), plan.key_tiles.count * plan.shape().G);
  for (const auto& [of, taken] : heads_taken) EXPECT_EQ(taken, group);
  for (auto& [step, seen] : ordinals) {
    std::sort(seen.begin(), seen.end());
    for (std::size_t i = 1; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].first, seen[i - 1].first + 1);
      for (const auto& head : place) EXPECT_LT(head.at(seen[i - 1].second), head.at(seen[i].second));
    }
  }
}

TEST(FusedAttentionPlan, TablesCoverEveryVisiblePairOnceInOrder) {
  const AttentionWindow windows[] = {{kAll, 0}, {kAll, kAll}, {0, 0},     {70, 0},
                                     {128, 0},  {30, 100},    {kAll, 65}, {0, kAll}};
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(seed);
    std::int64_t T = 0, S = 0;
    const Segments segments = random_segments(seed, T, S);
    const AttentionPath path = seed % 2 == 0 ? AttentionPath::kSm80 : AttentionPath::kSm90;
    const std::int64_t D = seed % 3 == 0 ? 64 : seed % 3 == 1 ? 128 : 256;
    const auto plan = FusedAttentionPlan::create(segments, windows[seed % std::size(windows)],
                                                 {T, S, seed % 4 < 2 ? 6 : 24, 2, D}, path);
    ASSERT_TRUE(plan.ok()) << plan.status().to_string();
    check_forward(plan.value());
    check_backward(plan.value());
    if (HasFailure()) return;
  }
}

// Two segments may have the same keys behind more and less of a prompt; a step still waits for none that comes later.
TEST(FusedAttentionPlan, OrdersKeysThatAreSeenBehindPrefixesOfTwoLengths) {
  Segments segments = {{0, 640, 0, 0, 0, 640}};
  std::int32_t query_row = 640, key_row = 640;
  for (int i = 0; i < 5; ++i, query_row += 65, key_row += 256) {
    segments.push_back({query_row, 1, 0, 640, key_row, 128});
    segments.push_back({query_row + 1, 64, 0, 128, key_row, 256});
  }
  for (const std::int64_t D : {64, 128, 256}) {
    const auto plan =
        FusedAttentionPlan::create(segments, {kAll, 0}, {query_row, key_row, 2, 1, D}, AttentionPath::kSm90);
    ASSERT_TRUE(plan.ok()) << plan.status().to_string();
    check_forward(plan.value());
    check_backward(plan.value());
  }
}

// Key tiles of many query heads are cut into items: so finely that one sequence makes work for a whole machine, but not
// into items that are short, nor one tile into many.
TEST(FusedAttentionPlan, CutsTilesByHeads) {
  const auto heads_of_item = [](std::int32_t length, std::int64_t H, std::int64_t G) {
    const auto plan = FusedAttentionPlan::create(testing::one_segment(length, length), {kAll, 0},
                                                 {length, length, H, G, 128}, AttentionPath::kSm90);
    if (length < 1000) check_backward(plan.value());
    const auto items = entries<KeyItem>(plan.value(), plan.value().backward_items);
    EXPECT_EQ(items.front().heads, items[items.size() / 2].heads);
    return items.front().heads;
  };
  EXPECT_EQ(heads_of_item(2048, 64, 8), 4);  // 16 tiles, 8 kv heads, two items each
  EXPECT_EQ(heads_of_item(4096, 64, 8), 8);
  EXPECT_EQ(heads_of_item(4096, 8, 1), 1);
  EXPECT_EQ(heads_of_item(512, 8, 1), 8);
  EXPECT_EQ(heads_of_item(512, 10, 1), 5);  // at least eight, and two items of one size
  EXPECT_EQ(heads_of_item(512, 64, 1), 8);
  EXPECT_EQ(heads_of_item(2048, 6, 2), 2);
}

// What answers wait for is taken before them: all prompts' tiles, which go through the answers before their own
// segment.
TEST(FusedAttentionPlan, TakesPromptsBeforeAnswers) {
  Segments segments = testing::prompt_and_answers(300, {130, 70}, 0);
  for (AttentionSegment s : testing::prompt_and_answers(200, {260}, 0)) {
    s.query_begin += 500, s.key_begin += 500;
    if (s.prefix_count > 0) s.prefix_begin += 500;
    segments.push_back(s);
  }
  const auto made = FusedAttentionPlan::create(segments, {kAll, 0}, {960, 960, 16, 2, 128}, AttentionPath::kSm90);
  ASSERT_TRUE(made.ok());
  const FusedAttentionPlan& plan = made.value();
  check_backward(plan);
  const auto tiles = entries<KeyTile>(plan, plan.key_tiles);
  const auto visits = entries<KeyVisit>(plan, plan.key_visits);
  const auto is_of_prompt = [](std::int32_t key_row) { return key_row < 300 || (key_row >= 500 && key_row < 700); };
  bool has_answer = false;
  for (const KeyItem& item : entries<KeyItem>(plan, plan.backward_items)) {
    const bool is_answer = !is_of_prompt(tiles.at(static_cast<std::size_t>(item.tile)).key_row);
    EXPECT_GE(is_answer, has_answer) << item.tile;
    has_answer = is_answer;
  }
  EXPECT_TRUE(has_answer);
  for (const KeyTile& tile : tiles) {
    if (!is_of_prompt(tile.key_row)) continue;
    EXPECT_GT(tile.visit_end - tile.visit_begin, 1);
    for (std::int32_t i = tile.visit_begin; i < tile.visit_end; ++i) {
      EXPECT_EQ(visits.at(static_cast<std::size_t>(i)).prefix_count == 0, i == tile.visit_end - 1);
    }
  }
}

// Of short sequences, the backward on Hopper takes all tiles of some before the next ones.
TEST(FusedAttentionPlan, TakesFewSequencesTogether) {
  const Segments segments = testing::packed_segments({512, 512, 512, 512, 512, 512}, 0);
  for (const auto& [D, H, sequences] : {std::tuple{64, 32, 2}, {128, 16, 2}, {128, 8, 4}, {128, 64, 1}, {256, 8, 4}}) {
    const auto plan = FusedAttentionPlan::create(segments, {kAll, 0}, {3072, 3072, H, H, D}, AttentionPath::kSm90);
    ASSERT_TRUE(plan.ok());
    const auto tiles = entries<KeyTile>(plan.value(), plan.value().key_tiles);
    const auto items = entries<KeyItem>(plan.value(), plan.value().backward_items);
    const std::size_t tiles_of_each = tiles.size() / 6,
                      items_of_section = tiles_of_each * static_cast<std::size_t>(H * sequences);
    for (std::size_t i = 0; i < items.size(); ++i) {
      const std::int32_t sequence = tiles.at(static_cast<std::size_t>(items[i].tile)).key_row / 512;
      EXPECT_EQ(static_cast<std::size_t>(sequence / sequences), i / items_of_section) << D << " " << i;
    }
  }
}

// Too many keys for one section of the cache: families and heads are taken a few at a time, and the order still holds.
TEST(FusedAttentionPlan, OrdersMoreThanTheCacheHolds) {
  const Segments segments = testing::prompt_and_answers(9000, {300, 500}, 1);
  for (const auto& [H, G] : {std::pair{64, 64}, {64, 2}}) {
    const auto plan = FusedAttentionPlan::create(segments, {200, 0}, {9900, 9900, H, G, 256}, AttentionPath::kSm90);
    ASSERT_TRUE(plan.ok()) << plan.status().to_string();
    check_forward(plan.value());
    check_backward(plan.value());
  }
}

TEST(FusedAttentionPlan, NeedsNoTablesOnTheCpu) {
  const auto plan = FusedAttentionPlan::create(testing::packed_segments({5, 7}, 1), {kAll, 0}, {20, 20, 2, 1, 64},
                                               AttentionPath::kCpu);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan.value().words().empty());
  EXPECT_EQ(plan.value().visible_pairs, 5 * 6 / 2 + 7 * 8 / 2);
}

}  // namespace
}  // namespace tandem::kernels

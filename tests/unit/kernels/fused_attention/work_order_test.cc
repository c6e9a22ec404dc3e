// The forward's order: which tiles there are, and when they are taken.
#include "kernels/fused_attention/work_order.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <set>

#include "unit/kernels/fused_attention/fused_case.h"

namespace tandem::kernels {
namespace {

// `costs.size()` tiles of each family, of these costs.
std::vector<Ranked> tiles_of(std::int64_t families, const std::vector<std::int64_t>& costs) {
  std::vector<Ranked> tiles;
  for (std::int64_t family = 0; family < families; ++family) {
    for (const std::int64_t cost : costs) {
      const auto tile = static_cast<std::int32_t>(tiles.size());
      tiles.push_back({tile, family, cost, tile});
    }
  }
  return tiles;
}

// How many items there are from one place where the cost rises to the next: sections, if each tile's cost is its own.
std::vector<std::size_t> runs(const std::vector<Ranked>& tiles, const std::vector<WorkItem>& items) {
  std::vector<std::size_t> lengths;
  std::int64_t before = -1;
  std::set<std::pair<std::int32_t, std::int32_t>> seen;
  for (const WorkItem& item : items) {
    const std::int64_t cost = tiles.at(static_cast<std::size_t>(item.tile)).cost;
    if (before < 0 || cost > before) lengths.push_back(0);
    ++lengths.back(), before = cost;
    EXPECT_TRUE(seen.emplace(item.tile, item.head).second);
  }
  return lengths;
}

constexpr std::int64_t kMiB = 1 << 20;

TEST(FusedAttentionWorkOrder, TakesHeavyTilesFirstInSectionsOfOneSize) {
  using Lengths = std::vector<std::size_t>;
  const auto lengths = [](std::int64_t families, std::int64_t heads, std::int64_t bytes) {
    const auto tiles = tiles_of(families, {1, 2, 3, 4});
    const std::vector<std::int64_t> family_bytes(static_cast<std::size_t>(families), bytes);
    const auto items = order_forward(tiles, family_bytes, heads);
    EXPECT_EQ(items.size(), tiles.size() * static_cast<std::size_t>(heads));
    return runs(tiles, items);
  };
  EXPECT_EQ(lengths(5, 8, kMiB / 2), (Lengths{52, 108}));     // 20 MiB in three, of which the last two are one
  EXPECT_EQ(lengths(4, 8, kMiB), (Lengths{32, 32, 64}));      // 8 pairs are 8 MiB
  EXPECT_EQ(lengths(4, 8, 2 * kMiB), (Lengths{32, 32, 64}));  // and may be 16
  EXPECT_EQ(lengths(4, 8, 4 * kMiB), (Lengths{16, 16, 16, 16, 16, 16, 32}));
  EXPECT_EQ(lengths(1, 6, 6 * kMiB), (Lengths{8, 16}));     // neither 2 and 2 and 2 nor 3 and 3
  EXPECT_EQ(lengths(1, 3, 40 * kMiB), (Lengths{4, 4, 4}));  // one is too much
  EXPECT_EQ(lengths(3, 2, 0), (Lengths{24}));
  EXPECT_TRUE(order_forward({}, {}, 4).empty());
}

// Families of unequal size: a section takes as many as it comes to.
TEST(FusedAttentionWorkOrder, FamiliesNeedNotBeOfOneSize) {
  const std::vector<std::int64_t> family_bytes = {9 * kMiB, 0, kMiB, kMiB, 30 * kMiB, 5 * kMiB};
  const auto tiles = tiles_of(6, {5, 2});
  const auto items = order_forward(tiles, family_bytes, 2);
  EXPECT_EQ(items.size(), 24u);
  runs(tiles, items);
}

// At head dim 64, where a tile has more rows than a block keys, the tile that is not full sees the fewest keys.
TEST(FusedAttentionWorkOrder, TheTileThatIsNotFullSeesTheFewestKeys) {
  const auto rows = [](std::int32_t length, std::int32_t right, std::int64_t D, AttentionPath path) {
    const auto plan = FusedAttentionPlan::create(testing::one_segment(length, length),
                                                 {AttentionWindow::kUnbounded, right}, {length, length, 2, 1, D}, path);
    EXPECT_TRUE(plan.ok());
    std::vector<std::int32_t> found;
    for (std::int64_t i = 0; i < plan.value().forward_tiles.count; ++i) {
      ForwardTile tile;
      std::memcpy(&tile, plan.value().words().data() + plan.value().forward_tiles.offset + i * 8, sizeof(tile));
      EXPECT_EQ(tile.query_row, std::accumulate(found.begin(), found.end(), 0));
      found.push_back(tile.rows);
    }
    return found;
  };
  using Rows = std::vector<std::int32_t>;
  constexpr std::int32_t kAll = AttentionWindow::kUnbounded;
  EXPECT_EQ(rows(500, 0, 64, AttentionPath::kSm90), (Rows{116, 192, 192}));
  EXPECT_EQ(rows(384, 0, 64, AttentionPath::kSm90), (Rows{192, 192}));
  EXPECT_EQ(rows(7, 0, 64, AttentionPath::kSm90), (Rows{7}));
  EXPECT_EQ(rows(500, kAll, 64, AttentionPath::kSm90), (Rows{192, 192, 116}));
  EXPECT_EQ(rows(300, 0, 128, AttentionPath::kSm90), (Rows{128, 128, 44}));
  EXPECT_EQ(rows(300, 0, 256, AttentionPath::kSm90), (Rows{128, 128, 44}));
  EXPECT_EQ(rows(150, 0, 64, AttentionPath::kSm80), (Rows{64, 64, 22}));
}

}  // namespace
}  // namespace tandem::kernels

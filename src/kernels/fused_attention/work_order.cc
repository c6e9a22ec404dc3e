#include "kernels/fused_attention/work_order.h"

#include <algorithm>

namespace tandem::kernels {
namespace {

// Keys and values that a group of heads and sequences may hold in the second-level cache at a time, in bytes of 16-bit
// elements: the work is ordered so that what shares keys runs together.
constexpr std::int64_t kSectionBytes = 24 << 20;

// Where the query heads of a kv head are cut into items: how many a range of keys shall come to, enough for the
// multiprocessors of a large card if it is alone; and query rows that an item shall have at least.
constexpr std::int64_t kItemsOfRange = 256, kItemRows = 4096;

}  // namespace

std::vector<WorkItem> order_work(std::vector<Ranked> tiles, const std::vector<std::int64_t>& family_bytes,
                                 std::int64_t heads, std::int64_t heads_min, std::int64_t pairs_max) {
  std::stable_sort(tiles.begin(), tiles.end(), [](const Ranked& a, const Ranked& b) { return a.family < b.family; });
  std::vector<WorkItem> items;
  items.reserve(tiles.size() * static_cast<std::size_t>(heads));
  for (std::size_t begin = 0; begin < tiles.size();) {
    // As many families as fit with all heads; or one family with as many heads as fit.
    std::size_t end = begin;
    std::int64_t bytes = 0, families = 0;
    while (end < tiles.size()) {
      const std::int64_t family = tiles[end].family;
      const std::int64_t more = family_bytes[static_cast<std::size_t>(family)];
      if (end > begin && (bytes + more) * heads > kSectionBytes) break;
      if (end > begin && families * heads >= pairs_max) break;
      ++families, bytes += more;
      while (end < tiles.size() && tiles[end].family == family) ++end;
    }
    std::sort(tiles.begin() + static_cast<std::ptrdiff_t>(begin), tiles.begin() + static_cast<std::ptrdiff_t>(end),
              [](const Ranked& a, const Ranked& b) { return a.cost != b.cost ? a.cost > b.cost : a.order < b.order; });
    const std::int64_t heads_max = std::clamp<std::int64_t>(kSectionBytes / std::max<std::int64_t>(bytes, 1),
                                                            std::clamp<std::int64_t>(heads_min, 1, heads), heads);
    const std::int64_t heads_at_once = heads_min > 0 ? ceil_div(heads, ceil_div(heads, heads_max)) : heads_max;
    for (std::int64_t head = 0; head < heads; head += heads_at_once) {
      for (std::size_t i = begin; i < end; ++i) {
        for (std::int64_t h = head; h < std::min(head + heads_at_once, heads); ++h) {
          items.push_back({tiles[i].tile, static_cast<std::int32_t>(h)});
        }
      }
    }
    begin = end;
  }
  return items;
}

std::int64_t heads_together(const AttentionShape& shape) {
  const std::int64_t query_heads = shape.D <= 64 ? 16 : 8;
  return std::max<std::int64_t>(4, query_heads / (shape.H / shape.G));
}

std::int64_t heads_of_item(const AttentionShape& shape, std::int64_t tiles, std::int64_t rows) {
  const std::int64_t heads = std::max(ceil_div(shape.H * tiles, kItemsOfRange), kItemRows / rows);
  const std::int64_t group = shape.H / shape.G;
  return ceil_div(group, ceil_div(group, std::clamp<std::int64_t>(heads, 1, group)));
}

}  // namespace tandem::kernels

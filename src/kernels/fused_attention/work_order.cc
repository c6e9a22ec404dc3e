#include "kernels/fused_attention/work_order.h"

#include <algorithm>

namespace tandem::kernels {
namespace {

// Keys and values that a group of heads and sequences may hold in the second-level cache at a time, in bytes of 16-bit
// elements: the work is ordered so that what shares keys runs together.
constexpr std::int64_t kSectionBytes = 24 << 20;

// The forward's sections: room for so many pairs of family and head, between so many bytes. With few pairs, several
// tiles of each are at work at a time, so that keys come from device memory all the time, and not for the first tiles
// of a section alone.
constexpr std::int64_t kForwardPairs = 8, kForwardBytesMin = 8 << 20, kForwardBytesMax = 16 << 20;

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

std::vector<WorkItem> order_forward(std::vector<Ranked> tiles, const std::vector<std::int64_t>& family_bytes,
                                    std::int64_t heads) {
  std::stable_sort(tiles.begin(), tiles.end(), [](const Ranked& a, const Ranked& b) { return a.family < b.family; });
  std::int64_t families = 0, bytes_all = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    if (i > 0 && tiles[i].family == tiles[i - 1].family) continue;
    ++families, bytes_all += family_bytes[static_cast<std::size_t>(tiles[i].family)] * heads;
  }
  const std::int64_t bytes_of_pairs = kForwardPairs * bytes_all / std::max<std::int64_t>(families * heads, 1);
  const std::int64_t sections = ceil_div(bytes_all, std::clamp(bytes_of_pairs, kForwardBytesMin, kForwardBytesMax));
  const std::int64_t section_bytes =
      std::max<std::int64_t>(ceil_div(bytes_all, std::max<std::int64_t>(sections, 1)), 1);

  struct Piece {  // of a section: a tile, for some heads
    Ranked tile;
    std::int64_t head_begin, head_end;
  };
  std::vector<Piece> pieces;
  std::vector<WorkItem> items;
  items.reserve(tiles.size() * static_cast<std::size_t>(heads));
  const auto end_section = [&pieces, &items] {
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
      return a.tile.cost != b.tile.cost ? a.tile.cost > b.tile.cost : a.tile.order < b.tile.order;
    });
    for (const Piece& piece : pieces) {
      for (std::int64_t head = piece.head_begin; head < piece.head_end; ++head) {
        items.push_back({piece.tile.tile, static_cast<std::int32_t>(head)});
      }
    }
    pieces.clear();
  };
  std::int64_t bytes_before = 0, section = 0;
  for (std::size_t begin = 0, end = 0; begin < tiles.size(); begin = end) {
    while (end < tiles.size() && tiles[end].family == tiles[begin].family) ++end;
    const std::int64_t bytes = family_bytes[static_cast<std::size_t>(tiles[begin].family)];
    // A pair is of the section that the middle of its bytes falls in; the last two sections are one.
    const auto section_of = [&](std::int64_t head) {
      const std::int64_t middle = bytes_before + bytes * head + bytes / 2;
      return std::min(middle / section_bytes, std::max<std::int64_t>(sections - 2, 0));
    };
    for (std::int64_t head = 0, head_end = 0; head < heads; head = head_end) {
      if (section_of(head) != section) end_section();
      section = section_of(head);
      while (head_end < heads && section_of(head_end) == section) ++head_end;
      for (std::size_t i = begin; i < end; ++i) pieces.push_back({tiles[i], head, head_end});
    }
    bytes_before += bytes * heads;
  }
  end_section();
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

#include "kernels/soft_read/layout.h"

#include <algorithm>

namespace tandem::kernels {
namespace {

std::int64_t tiles_of(std::int64_t n) { return (n + kSoftTile - 1) / kSoftTile; }

SoftSums take_sums(SoftCarver& carver, std::int64_t count, std::int64_t D, bool with_moments) {
  const std::int64_t rows = count * soft_row(D);
  return {carver.take<float>(rows),
          carver.take<float>(rows),
          with_moments ? carver.take<float>(rows) : nullptr,
          with_moments ? carver.take<float>(rows) : nullptr,
          carver.take<double>(count),
          carver.take<double>(count)};
}

}  // namespace

SoftOrder take_order(SoftCarver& carver, std::int64_t capacity, std::int64_t n) {
  SoftOrder order{carver.take<float>(capacity), {}, static_cast<int>(n), 0};
  std::int64_t count = capacity, left = n;
  for (float*& level : order.levels) {
    count = (count + kSoftTile - 1) / kSoftTile;
    level = carver.take<float>(count);
    if (left > kSoftTile) ++order.levels_count;
    left = (left + kSoftTile - 1) / kSoftTile;
  }
  return order;
}

SoftScan take_scan(SoftCarver& carver, std::int64_t capacity, std::int64_t D, bool with_moments) {
  SoftScan scan{};
  std::int64_t count = tiles_of(capacity);
  for (int level = 0; level < kSoftScanLevels; ++level) {
    scan.sums[level] = take_sums(carver, count, D, with_moments);
    scan.carries[level] = take_sums(carver, count, D, with_moments);
    if (count <= kSoftChunk) break;
    count = (count + kSoftChunk - 1) / kSoftChunk;
  }
  return scan;
}

SoftEntryRun take_entry_run(SoftCarver& carver, std::int64_t capacity, std::int64_t n, std::int64_t D) {
  SoftEntryRun run{};
  run.order = take_order(carver, capacity, n);
  run.weights = carver.take<float>(capacity);
  run.slots = carver.take<std::int32_t>(capacity);
  run.dirty = carver.take<std::uint8_t>(tiles_of(capacity));
  run.scan = take_scan(carver, capacity, D, false);
  return run;
}

SoftSortScratch take_sort(SoftCarver& carver, std::int64_t n) {
  return {carver.take<float>(n), carver.take<std::int32_t>(n), carver.take<std::byte>(0)};
}

SoftBackwardScratch take_backward(SoftCarver& carver, std::int64_t m, std::int64_t partials, std::int64_t D) {
  SoftBackwardScratch scratch{};
  SoftQueryRun& queries = scratch.queries;
  queries.order = take_order(carver, m, m);
  queries.indices = carver.take<std::int32_t>(m);
  queries.left_reach = carver.take<double>(m);
  queries.right_reach = carver.take<double>(m);
  queries.rows = carver.take<float>(m * soft_row(D));
  queries.scan = take_scan(carver, m, D, true);
  scratch.partials = carver.take<double>(partials);
  scratch.many = carver.take<std::uint8_t>(4 * partials);
  scratch.sort = take_sort(carver, m);
  return scratch;
}

}  // namespace tandem::kernels

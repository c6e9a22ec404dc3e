#include "kernels/soft_read/layout.h"

#include <algorithm>

namespace tandem::kernels {
namespace {

std::int64_t tiles_of(std::int64_t n) { return (n + kSoftTile - 1) / kSoftTile; }

SoftSums take_sums(SoftCarver& carver, std::int64_t count, std::int64_t D, int moments) {
  const std::int64_t rows = count * soft_row(D);
  return {carver.take<float>(rows),
          carver.take<float>(rows),
          moments > 0 ? carver.take<float>(rows) : nullptr,
          moments > 0 ? carver.take<float>(rows) : nullptr,
          moments > 1 ? carver.take<float>(rows) : nullptr,
          moments > 1 ? carver.take<float>(rows) : nullptr,
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

SoftScan take_scan(SoftCarver& carver, std::int64_t capacity, std::int64_t D, int moments) {
  SoftScan scan{};
  std::int64_t count = tiles_of(capacity);
  for (int level = 0; level < kSoftScanLevels; ++level) {
    scan.sums[level] = take_sums(carver, count, D, moments);
    scan.carries[level] = take_sums(carver, count, D, moments);
    if (count <= kSoftChunk) break;
    count = (count + kSoftChunk - 1) / kSoftChunk;
  }
  return scan;
}

SoftWindow take_window(SoftCarver& carver, std::int64_t capacity, std::int64_t n, std::int64_t D) {
  SoftWindow window{};
  std::int64_t count = tiles_of(capacity), left = tiles_of(n);
  const auto take = [&] { return carver.take<float>(count * 3 * soft_row(D)); };
  window.tiles_lo = take();
  window.tiles_hi = take();
  for (int level = 0; level < kSoftLevels && count > kSoftTile; ++level) {
    window.suffixes[level] = take();
    window.prefixes[level] = take();
    if (left > kSoftTile) ++window.levels;
    count = tiles_of(count);
    left = tiles_of(left);
  }
  return window;
}

SoftEntryRun take_entry_run(SoftCarver& carver, std::int64_t capacity, std::int64_t n, std::int64_t D,
                            SoftShape shape) {
  SoftEntryRun run{};
  run.order = take_order(carver, capacity, n);
  run.weights = carver.take<float>(capacity);
  run.slots = carver.take<std::int32_t>(capacity);
  run.dirty = carver.take<std::uint8_t>(tiles_of(capacity));
  if (shape == SoftShape::kEpanechnikov) {
    run.window = take_window(carver, capacity, n, D);
  } else {
    run.scan = take_scan(carver, capacity, D, shape == SoftShape::kMatern32 ? 2 : 0);
  }
  return run;
}

SoftSortScratch take_sort(SoftCarver& carver, std::int64_t n) {
  return {carver.take<float>(n), carver.take<std::int32_t>(n), carver.take<std::byte>(0)};
}

SoftBackwardScratch take_backward(SoftCarver& carver, std::int64_t m, std::int64_t partials, std::int64_t D,
                                  SoftShape shape) {
  SoftBackwardScratch scratch{};
  SoftQueryRun& queries = scratch.queries;
  queries.order = take_order(carver, m, m);
  queries.indices = carver.take<std::int32_t>(m);
  queries.left_reach = carver.take<double>(m);
  queries.right_reach = carver.take<double>(m);
  queries.rows = carver.take<float>(m * soft_row(D));
  switch (shape) {
    case SoftShape::kLaplace: queries.scan = take_scan(carver, m, D, 1); break;
    case SoftShape::kMatern32:
      queries.scan = take_scan(carver, m, D, 0);
      queries.slopes = take_scan(carver, m, D, 1);
      break;
    case SoftShape::kEpanechnikov: queries.window = take_window(carver, m, m, D); break;
  }
  scratch.partials = carver.take<double>(partials);
  scratch.many = carver.take<std::uint8_t>(4 * partials);
  scratch.sort = take_sort(carver, m);
  return scratch;
}

}  // namespace tandem::kernels

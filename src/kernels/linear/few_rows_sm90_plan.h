// How a layer of few rows is dealt to Hopper's multiprocessors: pure arithmetic, no bit of a result depends on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/linear/streamed_rows_sm90.h"

namespace tandem::kernels {

// What one of a block's warpgroups multiplies at a time is a piece: `piece_rows` rows of weights, at most 64, against
// all tokens. A block makes `warpgroups` x `pieces` of them at once, a tile; the tiles are dealt to the blocks in turn.
// The weights of a tile (and x, unless it is kept) pass through a ring of `stages`, each `slabs` of 64 columns:
// one box of the copy engine for a piece, and one for x.
struct FewRowsPlan {
  int piece_rows = 0, pieces = 1, warpgroups = 1;
  int tokens = 8;        // the products' width: 8 or 16; of grouped layers 32 too
  int x_rows = 8;        // T rounded up to 8: the rows of x in shared memory
  bool keeps_x = false;  // x is read, made bf16, by the block's threads, and stays; else copied into the stages
  int chunk_bytes = 0, kept_bytes = 0;  // if it is kept
  int units_max = 0, units_bytes = 0;   // of grouped layers (few_rows_units_sm90.cuh); then `tiles` are those of a unit
  int slabs = 1, stages = 0;
  int steps = 1;      // stages that a tile's columns fill
  int under_way = 0;  // stages that are asked for and have not come, at most
  int blocks = 1;
  std::int64_t tiles = 0;
  int slab_bytes = 0, stage_bytes = 0, shared_bytes = 0;
};

// Shared memory: what is fixed (barriers, the norm's sums), then x if it is kept, the stages, and what a product of
// fewer than 64 rows reads past its piece, to no effect.
inline constexpr int kFewRowsPastBytes = (64 - 8) * 128;
// What is asked for at a time where x is kept, and of tiles of more than 64 rows: about what keeps memory busy. More
// would only wait in a queue, and x behind it.
inline constexpr int kFewRowsUnderWayBytes = 100 * 1024;
// One row of bf16 of up to so many columns waits less: it comes in one trip, without a norm's weight and a sum.
inline constexpr int kFewRowsUnderWayShortBytes = 150 * 1024;
inline constexpr std::int64_t kFewRowsShortHalves = 4096;
// A tile of up to kFewRowsSlowRows rows takes its weights, one step of the chain after another, more slowly than memory
// brings them: what it has under way beyond that, it takes from the layer before.
inline constexpr int kFewRowsSlowRows = 16, kFewRowsUnderWaySlowBytes = 50 * 1024;
// x that is copied waits in the copy engine's queue behind what is asked for of the weights: of a tile of at most 64
// rows less, but two stages.
inline constexpr int kFewRowsUnderWayCopiedBytes = 40 * 1024;
inline constexpr std::int64_t kFewRowsHalfChain = 1024;  // columns of a stage where two are a whole tile of so few rows
// x is kept up to here; for more rows, making it in every block takes longer than making it once before.
inline constexpr std::int64_t kFewRowsKeptRowsMax = 4, kFewRowsKeptColumnsMax = 4096;
// One row that is bf16 already is kept too, up to what the threads can ask for in two trips.
inline constexpr std::int64_t kFewRowsKeptHalvesMax = 28672;

// Of grouped layers, a chain that is over in a few stages.
inline constexpr std::int64_t kFewRowsShortColumns = 1024;

constexpr int few_rows_x_rows(std::int64_t T) { return static_cast<int>((T + 7) / 8 * 8); }
// x, if it is kept, lies in chunks of 8 columns, 16 bytes to a row, the chunks an odd number of rows apart (so that
// writing it meets no bank conflicts). A product of more rows than there are reads on into the next chunks, to no
// effect.
constexpr int few_rows_chunk_bytes(std::int64_t T) { return T <= 1 ? 16 : T <= 2 ? 48 : 80; }
constexpr std::int64_t few_rows_kept_bytes(std::int64_t T, std::int64_t K) {
  const std::int64_t bytes = (K + kStreamedSlab - 1) / kStreamedSlab * 8 * few_rows_chunk_bytes(T);
  return (bytes + 1023) / 1024 * 1024;
}

struct FewRowsShape {
  std::int64_t T = 0, K = 0, N = 0;
  bool is_pair = false, keeps_x = false;
  std::int64_t groups = 0;  // of grouped layers, whose T rows are dealt to so many matrices; else 0
  std::int64_t spared = 0;  // multiprocessors that are left free (multiprocessors_left())
  int under_way_bytes = kFewRowsUnderWayBytes;
};

// Of grouped layers: how many rows of a group are multiplied at a time, a unit. Twice the average, so that the weights
// of most groups are read once.
constexpr int few_rows_unit_rows(const FewRowsShape& shape) {
  return 2 * shape.T <= 8 * shape.groups ? 8 : 2 * shape.T <= 16 * shape.groups ? 16 : 32;
}
// As many units as there can be.
constexpr int few_rows_units_max(const FewRowsShape& shape) {
  return static_cast<int>(std::min(shape.T, shape.groups + shape.T / few_rows_unit_rows(shape)));
}
// About as many as there are, rows meeting groups by chance: groups (1 - (1 - 1/groups)^T), or the number of full
// units.
constexpr std::int64_t few_rows_units_expected(const FewRowsShape& shape) {
  double empty = 1.0;
  for (std::int64_t t = 0; t < shape.T; ++t) empty *= 1.0 - 1.0 / static_cast<double>(shape.groups);
  const auto met = static_cast<std::int64_t>(static_cast<double>(shape.groups) * (1.0 - empty) + 0.999);
  return std::clamp<std::int64_t>(met, 1, few_rows_units_max(shape));
}

// Lays out the stages that fit beside the rest; false if fewer than three do.
inline bool fit_stages(FewRowsPlan& plan, const FewRowsShape& shape, int stage_bytes_wanted) {
  const int rows = plan.warpgroups * plan.pieces * plan.piece_rows;
  plan.slab_bytes = 128 * (rows + (plan.keeps_x ? 0 : plan.x_rows));
  plan.slabs = streamed_slabs(shape.K, stage_bytes_wanted, plan.slab_bytes);
  // One more where the last stage is full then: what a box has beyond K takes the copy engine as long as what is there.
  const auto divides_k = [&](int slabs) { return shape.K / kStreamedSlab % slabs == 0; };
  if (shape.groups == 0 && !divides_k(plan.slabs) && plan.slabs < kStreamedSlabsMax && divides_k(plan.slabs + 1))
    ++plan.slabs;
  // A short chain of few rows: two stages, since each costs a little whatever its size.
  if (plan.keeps_x && rows <= kFewRowsSlowRows && shape.K == 2 * kFewRowsHalfChain)
    plan.slabs = kFewRowsHalfChain / kStreamedSlab;
  plan.stage_bytes = plan.slabs * plan.slab_bytes;
  const std::int64_t slabs_all = (shape.K + kStreamedSlab - 1) / kStreamedSlab;
  plan.steps = static_cast<int>((slabs_all + plan.slabs - 1) / plan.slabs);
  plan.chunk_bytes = few_rows_chunk_bytes(shape.T);
  plan.kept_bytes = plan.keeps_x ? static_cast<int>(few_rows_kept_bytes(shape.T, shape.K)) : 0;
  const int other = kStreamedFixedBytes + kFewRowsPastBytes + plan.kept_bytes + plan.units_bytes;
  plan.stages = std::min((kStreamedSharedBytes - other) / plan.stage_bytes, kStreamedStagesMax);
  plan.shared_bytes = other + plan.stages * plan.stage_bytes;
  const int under_way_bytes = rows <= kFewRowsSlowRows ? kFewRowsUnderWaySlowBytes : shape.under_way_bytes;
  const int stage_weights = 128 * rows * plan.slabs;
  int under_way = under_way_bytes / stage_weights;
  if (!plan.keeps_x && rows <= 64) under_way = std::max(2, kFewRowsUnderWayCopiedBytes / stage_weights);
  if (shape.groups > 0) under_way = plan.stages;  // x waits behind the whole ring, and would wait for a limit too
  plan.under_way = std::clamp(under_way, 1, std::max(plan.stages, 1));
  return plan.stages >= 3;
}

// Any shape that few_rows_sm90_takes(), but of one matrix and more than 16 rows.
inline FewRowsPlan plan_few_rows(const FewRowsShape& shape, int multiprocessors) {
  multiprocessors = multiprocessors_left(multiprocessors, shape.spared);
  FewRowsPlan best;
  std::int64_t best_cost = 0;
  const bool is_grouped = shape.groups > 0;
  const std::int64_t T = is_grouped ? few_rows_unit_rows(shape) : shape.T;  // that are multiplied at a time
  const int units_max = is_grouped ? few_rows_units_max(shape) : 0;
  // How many there are is known on the device alone: a plan should suit a little more and less than expected.
  const std::int64_t units = is_grouped ? few_rows_units_expected(shape) : 1, spread = units / 16;
  const std::int64_t eights = (shape.N + 7) / 8;
  for (int warpgroups = 1; warpgroups <= (is_grouped ? 1 : kStreamedWarpgroups); ++warpgroups) {
    for (int height = 1; height <= 8; ++height) {
      FewRowsPlan plan;
      plan.tokens = T <= 8 ? 8 : T <= 16 ? 16 : 32;
      plan.x_rows = few_rows_x_rows(T);
      plan.units_max = units_max;
      plan.units_bytes = (8 * units_max + 1023) / 1024 * 1024;
      plan.keeps_x = shape.keeps_x;
      plan.pieces = shape.is_pair ? 2 : 1;
      plan.warpgroups = warpgroups;
      plan.piece_rows = 8 * height;
      plan.tiles = (eights + warpgroups * height - 1) / (warpgroups * height);
      plan.blocks = static_cast<int>(std::min<std::int64_t>(plan.tiles * std::max(units_max, 1), multiprocessors));
      std::int64_t tiles = 0;  // of the busiest block
      for (std::int64_t some = units - spread; some <= units + spread; ++some) {
        tiles +=
            (plan.tiles * std::min<std::int64_t>(some, std::max(units_max, 1)) + multiprocessors - 1) / multiprocessors;
      }
      const std::int64_t rows = tiles * warpgroups * plan.pieces * plan.piece_rows;
      // A stage costs a little whatever its size, most where there are groups, or few columns.
      const bool is_short = is_grouped && !shape.is_pair && shape.K <= kFewRowsShortColumns;
      const bool is_long = plan.keeps_x && plan.tiles > multiprocessors;  // tile after tile: the head
      const bool is_single_copied = !plan.keeps_x && plan.pieces == 1;
      const int stage_bytes = (is_short ? 64 : is_long ? 16 : is_grouped ? 38 : is_single_copied ? 40 : 30) * 1024;
      if (!fit_stages(plan, shape, stage_bytes)) continue;
      // What the busiest block reads: weights from memory, and x, for every tile again, from the L2 cache (or, of x
      // that is kept, what beginning a tile costs).
      const std::int64_t cost = 2 * rows + tiles * (plan.keeps_x ? 8 : is_grouped ? 16 + plan.x_rows : plan.x_rows);
      if (best_cost == 0 || cost < best_cost) {
        best_cost = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace tandem::kernels

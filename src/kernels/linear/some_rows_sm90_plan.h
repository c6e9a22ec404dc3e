// How a layer of some dozens of rows is dealt to Hopper's multiprocessors: pure arithmetic, no bit of a result depends
// on it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/linear/streamed_rows_sm90.h"

namespace tandem::kernels {

// What one of a block's warpgroups multiplies at a time is a piece: `piece_rows` rows of weights (of each matrix of a
// pair), at most 64, against all tokens. A block's `warpgroups` pieces are a tile; the tiles are dealt to the blocks in
// turn. Weights and x pass through a ring of stages each, `slabs` of 64 columns to a stage of either.
struct SomeRowsPlan {
  int piece_rows = 0, pieces = 1, warpgroups = 1;
  int columns = 0;  // the products' width: piece_rows rounded up to 16, 32, 48 or 64
  int x_rows = 0;   // T rounded up to 8
  int slabs = 1, weight_stages = 0, weight_stage_bytes = 0, x_stages = 0, x_stage_bytes = 0;
  int under_way = 0;  // stages of weights that are asked for and have not come, at most
  int blocks = 1;
  std::int64_t tiles = 0;
  int shared_bytes = 0;
};

inline constexpr std::int64_t kSomeRowsAbove = 16;  // up to so many are few_rows_sm90_plan.h's

// Shared memory: barriers, x's ring, that of the weights, and what products read past a piece to no effect (past x's
// last row they read weights).
inline constexpr int kSomeRowsPastBytes = 1024;

// Weights that are asked for at a time, or three stages if those are more: about what keeps memory busy. More would
// wait in the copy engine's queue, and x, which comes sooner, behind it; of a tile of many weights x is a small part.
inline constexpr int kSomeRowsUnderWayBytes = 64 * 1024, kSomeRowsManyWeightsUnderWayBytes = 100 * 1024;
inline constexpr int kSomeRowsManyWeights = 64;  // rows of a tile, above which there are many
// Stages of both rings, at most, or one slab. A stage costs a little whatever its size, most where x is much of it.
inline constexpr int kSomeRowsStageBytes = 38 * 1024, kSomeRowsWideStageBytes = 52 * 1024;

struct SomeRowsShape {
  std::int64_t T = 0, K = 0, N = 0;
  bool is_pair = false;
  std::int64_t spared = 0;  // multiprocessors that are left free (multiprocessors_left())
};

// Lays out rings that hold about the same columns of both, of x a tenth less. False if they do not fit.
inline bool fit_rings(SomeRowsPlan& plan, const SomeRowsShape& shape, int stage_bytes_wanted) {
  const int weight_slab_bytes = 128 * plan.warpgroups * plan.pieces * plan.piece_rows;
  const int x_slab_bytes = 128 * plan.x_rows, slab_bytes = weight_slab_bytes + x_slab_bytes;
  plan.slabs = streamed_slabs(shape.K, stage_bytes_wanted, slab_bytes);
  plan.x_stage_bytes = x_slab_bytes * plan.slabs;
  plan.weight_stage_bytes = weight_slab_bytes * plan.slabs;
  const int fixed = kStreamedFixedBytes + kSomeRowsPastBytes;
  const int stages = (kStreamedSharedBytes - fixed) / (plan.slabs * slab_bytes);
  plan.x_stages = std::clamp((stages * 90 + 50) / 100, 2, kStreamedStagesMax);
  const int other = fixed + plan.x_stages * plan.x_stage_bytes;
  plan.weight_stages = std::min((kStreamedSharedBytes - other) / plan.weight_stage_bytes, kStreamedStagesMax);
  plan.shared_bytes = other + plan.weight_stages * plan.weight_stage_bytes;
  const bool has_many_weights = weight_slab_bytes > 128 * kSomeRowsManyWeights;
  const int under_way = has_many_weights ? kSomeRowsManyWeightsUnderWayBytes : kSomeRowsUnderWayBytes;
  plan.under_way = std::clamp(under_way / plan.weight_stage_bytes, 3, std::max(plan.weight_stages, 3));
  return plan.weight_stages >= 3;
}

// Any shape of at most 64 rows.
inline SomeRowsPlan plan_some_rows(const SomeRowsShape& shape, int multiprocessors) {
  multiprocessors = multiprocessors_left(multiprocessors, shape.spared);
  SomeRowsPlan best;
  std::int64_t best_cost = 0;
  const std::int64_t eights = (shape.N + 7) / 8;
  for (int warpgroups = 1; warpgroups <= kStreamedWarpgroups; ++warpgroups) {
    for (int height = 1; height <= 8; ++height) {
      SomeRowsPlan plan;
      plan.x_rows = static_cast<int>((shape.T + 7) / 8 * 8);
      plan.pieces = shape.is_pair ? 2 : 1;
      plan.warpgroups = warpgroups;
      plan.piece_rows = 8 * height;
      plan.columns = (plan.piece_rows + 15) / 16 * 16;
      plan.tiles = (eights + warpgroups * height - 1) / (warpgroups * height);
      plan.blocks = static_cast<int>(std::min<std::int64_t>(plan.tiles, multiprocessors));
      const std::int64_t tiles = (plan.tiles + plan.blocks - 1) / plan.blocks;  // of the busiest block
      const int tile_rows = warpgroups * plan.pieces * plan.piece_rows;         // of weights
      const std::int64_t rows = tiles * tile_rows;
      const bool has_much_x = shape.T > 32 && tile_rows <= 32;
      if (!fit_rings(plan, shape, has_much_x ? kSomeRowsWideStageBytes : kSomeRowsStageBytes)) continue;
      // What the busiest block reads: weights from memory, and x, for every tile again, from the L2 cache. For the
      // same, a pair prefers two warpgroups: what follows its sums takes long.
      const std::int64_t cost = 2 * rows + tiles * plan.x_rows;
      if (best_cost == 0 || cost < best_cost || (cost == best_cost && shape.is_pair)) {
        best_cost = cost;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace tandem::kernels

// Which rows a block of linear_few_rows_sm90_kernel multiplies at a time.
//
// Of one matrix: all T. Of grouped layers (linear.h): a unit, up to `tokens` rows of one group. Each block lists the
// units of all groups that have rows, in the same order, from the offsets on the device; a group without rows costs
// nothing. A unit's rows of weights are dealt to tiles as those of a matrix are.
#pragma once

#include <cstdint>

#include "kernels/linear/few_rows_sm90_plan.h"

namespace tandem::kernels::sm90 {

inline constexpr int kFewRowsGroupsMax = 512;

struct alignas(8) FewRowsUnit {
  std::int32_t row;           // of x and y
  std::uint16_t group, rows;  // from that row on
};

// A tile: where its weights begin among all groups' rows, the first row of y^T, and its rows of x.
struct FewRowsPlace {
  int weight_row, n, row, rows;
};

// The tiles of all units, counted unit by unit.
template <bool kGrouped>
struct FewRowsTiles {
  const FewRowsUnit* units;  // in shared memory
  int count;
  int rows, tile_rows, tiles;  // T; rows of weights of a tile; tiles of a unit
  int N;

  __device__ __forceinline__ FewRowsPlace at(int tile) const {
    if constexpr (!kGrouped) {
      return {tile * tile_rows, tile * tile_rows, 0, rows};
    } else {
      const FewRowsUnit unit = units[tile / tiles];
      const int n = tile % tiles * tile_rows;
      return {unit.group * N + n, n, unit.row, unit.rows};
    }
  }
};

// Lists the units, a warp together; their number, in every lane. Offsets ascend from 0; rows from T on are not there.
// They are read past the L1 cache, which nobody promises to be fresh before the kernel ahead has ended.
template <int kTokens>
__device__ __forceinline__ int list_units(const std::int32_t* offsets, int groups, int T, int units_max,
                                          FewRowsUnit* units) {
  constexpr int kEach = kFewRowsGroupsMax / 32;
  const int lane = static_cast<int>(threadIdx.x % 32), each = (groups + 31) / 32, first = lane * each;
  std::int32_t bounds[kEach + 1];  // of this lane's groups
#pragma unroll
  for (int i = 0; i <= kEach; ++i) bounds[i] = i <= each ? min(__ldcg(offsets + min(first + i, groups)), T) : 0;
  int own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i < each) own += (max(bounds[i + 1] - bounds[i], 0) + kTokens - 1) / kTokens;
  }
  int end = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, end, distance);
    if (lane >= distance) end += before;
  }
  int place = end - own;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i >= each) continue;
    for (int row = bounds[i]; row < bounds[i + 1] && place < units_max; row += kTokens, ++place) {
      units[place] = {row, static_cast<std::uint16_t>(first + i),
                      static_cast<std::uint16_t>(min(kTokens, bounds[i + 1] - row))};
    }
  }
  return min(__shfl_sync(0xffffffffu, end, 31), units_max);
}

}  // namespace tandem::kernels::sm90

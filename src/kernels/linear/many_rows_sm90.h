// The tiles of linear_many_rows_sm90() and linear_many_rows_turned_sm90() (paths.h), by number: for tests, which
// compare their bits, and benchmarks.
#pragma once

#include <span>
#include <string>

#include "kernels/linear/paths.h"

namespace tandem::kernels {

struct ManyRowsTile {
  int rows = 0, columns = 0;  // of x, and of the weights
  int cluster = 1;            // blocks that share what they load: one below the other the weights
  bool takes_groups = false, takes_pairs_only = false;
  bool is_across = false;  // or, of groups only, side by side x

  int cluster_rows() const { return is_across ? rows : rows * cluster; }
  int cluster_columns() const { return is_across ? columns * cluster : columns; }
  // As "128x96/2"; side by side "128x128|2".
  std::string name() const {
    return std::to_string(rows) + 'x' + std::to_string(columns) + (is_across ? '|' : '/') + std::to_string(cluster);
  }
};
// What a tile costs, in nanoseconds for each 64 of the sum and around them: docs/kernels/linear_cuda.md.
struct ManyRowsCost {
  int depth_ns = 0, around_ns = 0;

  // Of so many clusters of tiles, over sums of K.
  std::int64_t ns(const ManyRowsTile& tile, std::int64_t clusters, std::int64_t K, int multiprocessors) const {
    const std::int64_t at_once = multiprocessors / tile.cluster;
    return (clusters + at_once - 1) / at_once * ((K + 63) / 64 * depth_ns + around_ns);
  }
};
std::span<const ManyRowsTile> many_rows_tiles();

// The tile that is fastest for these sizes, by what was measured. Changes no bit. Of grouped layers (groups > 0),
// T is all of their rows.
int many_rows_tile_for(std::int64_t T, std::int64_t K, std::int64_t N, bool is_gated, int multiprocessors,
                       std::int64_t groups = 0);

// What a benchmark may vary.
struct ManyRowsOrder {
  int tile = 0;
  int band = 8;  // rows of clusters that are visited before the next rows are
};
[[nodiscard]] Status linear_many_rows_sm90_as(const LinearCall& call, const ManyRowsOrder& order,
                                              device::Stream& stream);

std::span<const ManyRowsTile> many_rows_turned_tiles();
[[nodiscard]] Status linear_many_rows_turned_sm90_as(const LinearCall& call, const ManyRowsOrder& order,
                                                     device::Stream& stream);

}  // namespace tandem::kernels

// Linear layers of many rows on Hopper: y = alpha (x W^T + bias) + residual, or act(x Wg^T) * (x Wu^T). Contract:
// paths.h.
//
//   grid           one block an SM, in clusters; each cluster takes every n-th tile of the whole, in an order that
//                  keeps what is read in the L2 cache (Tiles)
//   warpgroup 0    two threads copy into a ring, 64 of k at a time: one the weights, then the residual, the other x.
//                  Blocks of a cluster, one below the other, load a part each of the weights that they share; of
//                  groups, side by side, of x.
//   warpgroup 1 .. 64 rows each: four products of k16 a stage, ascending, into one accumulator for each output; then
//                  bias, alpha, residual or gate, and y by the copy engine through 16-row buffers of each warp.
//
// Order   y's sums depend on K alone: tiles, clusters and order change no bit (docs/kernels/numerics.md).
// Budget  rows x columns  stages x KiB  blocks of a cluster  warpgroups  sums a thread
//         128 x 256       4 x 48        2                    2           128
//         128 x 224       4 x 44        2 or 1               2           112
//         128 x 192       4 x 40        2                    2           96
//         128 x 128       6 x 32        2                    2           64     of groups side by side
//         128 x 96        6 x 28        2                    2           48
//         192 x 128       4 x 40        1                    3           64
//         192 x 112       5 x 38        1                    3           56      of pairs only
//         64 x 128        8 x 24        2 or 1               1           64
//         64 x 64         12 x 16       2                    1           32
//         64 x 32         16 x 12       1                    1           16
//         and 16 KiB a warpgroup to write from, or 8 of 192 x 112
// Bound   2 T K N flop over the tensor cores' rate, or 2 (T K + N K) + y over the memory's.
//         docs/kernels/linear_cuda.md has both, and what was measured.
#include <array>
#include <limits>

#include "kernels/linear/many_rows_sm90.h"
#include "kernels/linear/many_rows_sm90_launch.cuh"

namespace tandem::kernels {
namespace {

using namespace many_rows;

struct Variant {
  ManyRowsTile tile;
  ManyRowsCost cost;
  // Or null.
  Status (*launch)(const LinearCall&, const ManyRowsOrder&, device::Stream&) = nullptr;
  Status (*launch_grouped)(const LinearCall&, const ManyRowsOrder&, device::Stream&) = nullptr;
};
enum class For { kLayers, kGroups, kBoth };  // of groups alone: side by side
template <int kRows, int kColumns, int kCluster, int kStages, int kWarpgroups, For kFor>
constexpr Variant variant(int depth_ns, int around_ns) {
  constexpr bool kIsAcross = kFor == For::kGroups;
  using C = Config<kRows, kColumns, kCluster, kStages, kWarpgroups, kIsAcross>;
  Variant made{{kRows, kColumns, kCluster, kFor != For::kLayers, C::kPairsOnly, kIsAcross}, {depth_ns, around_ns}};
  if constexpr (kFor != For::kGroups) made.launch = launch_as<C, false>;
  if constexpr (kFor != For::kLayers) made.launch_grouped = launch_as<C, true>;
  return made;
}
constexpr Variant kVariants[] = {
    variant<128, 256, 2, 4, 2, For::kBoth>(620, 4000),   variant<128, 224, 2, 4, 2, For::kLayers>(550, 4000),
    variant<128, 192, 2, 4, 2, For::kLayers>(480, 4000), variant<128, 128, 2, 6, 2, For::kLayers>(310, 3500),
    variant<128, 96, 2, 6, 2, For::kLayers>(285, 3500),  variant<64, 128, 2, 8, 1, For::kLayers>(205, 2700),
    variant<64, 128, 1, 8, 1, For::kBoth>(245, 2700),    variant<64, 64, 2, 12, 1, For::kLayers>(175, 2500),
    variant<64, 32, 1, 16, 1, For::kLayers>(160, 2300),  variant<128, 224, 1, 4, 2, For::kLayers>(860, 4000),
    variant<192, 128, 1, 4, 3, For::kLayers>(520, 3500), variant<192, 112, 1, 5, 3, For::kLayers>(445, 3500),
    variant<128, 128, 2, 6, 2, For::kGroups>(330, 2700),
};

}  // namespace

std::span<const ManyRowsTile> many_rows_tiles() {
  static const auto tiles = [] {
    std::array<ManyRowsTile, std::size(kVariants)> all;
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = kVariants[i].tile;
    return all;
  }();
  return tiles;
}

int many_rows_tile_for(std::int64_t T, std::int64_t K, std::int64_t N, bool is_gated, int multiprocessors,
                       std::int64_t groups) {
  int best = 0;
  std::int64_t best_ns = std::numeric_limits<std::int64_t>::max();
  for (int i = 0; i < static_cast<int>(std::size(kVariants)); ++i) {
    const auto& [tile, cost, launch, launch_grouped] = kVariants[i];
    // Small tiles read a group's weights once for each of its row tiles: only where one is enough for most.
    if (groups > 0 && (!tile.takes_groups || (tile.rows == 64 && T > tile.rows * groups))) continue;
    if (tile.takes_pairs_only && !is_gated) continue;
    if (groups == 0 && tile.is_across) continue;
    const std::int64_t rows = tile.cluster_rows(), columns = tile.cluster_columns() / (is_gated ? 2 : 1);
    // Each group has rows of its own, and wastes half a tile of them on average.
    const std::int64_t row_tiles = std::max((T + rows - 1) / rows + groups / 2, groups);
    const std::int64_t total = cost.ns(tile, row_tiles * ((N + columns - 1) / columns), K, multiprocessors);
    if (total < best_ns) best = i, best_ns = total;
  }
  return best;
}

bool many_rows_sm90_takes(const LinearCall& call) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  return call.x_is_bf16 && call.norm_weight == nullptr && call.T > 0 && call.N > 0 && call.K > 0 && call.T < kMax &&
         call.N < kMax && call.K < kMax && is_aligned(call.x, call.x_stride, 2) &&
         is_aligned(call.weight, call.weight_stride, 2) &&
         (call.up == nullptr || is_aligned(call.up, call.up_stride, 2)) &&
         (call.residual == nullptr || is_aligned(call.residual, call.residual_stride, 4)) &&
         (call.offsets == nullptr ||
          (call.residual == nullptr && call.groups > 0 && call.groups < (1 << 16) && call.group_stride % 8 == 0));
}

Status linear_many_rows_sm90_as(const LinearCall& call, const ManyRowsOrder& order, device::Stream& stream) {
  TD_CHECK(many_rows_sm90_takes(call), call.T, call.K, call.N);
  const Variant& variant = kVariants[order.tile];
  TD_CHECK(call.up != nullptr || !variant.tile.takes_pairs_only, order.tile);
  if (call.offsets == nullptr) {
    TD_CHECK(!variant.tile.is_across, order.tile);
    return variant.launch(call, order, stream);
  }
  TD_CHECK(variant.tile.takes_groups, order.tile);
  return variant.launch_grouped(call, order, stream);
}

Status linear_many_rows_sm90(const LinearCall& call, device::Stream& stream) {
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  const int tile = many_rows_tile_for(call.T, call.K, call.N, call.up != nullptr, multiprocessors,
                                      call.offsets == nullptr ? 0 : call.groups);
  return linear_many_rows_sm90_as(call, {.tile = tile}, stream);
}

}  // namespace tandem::kernels

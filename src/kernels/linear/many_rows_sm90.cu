// Linear layers of many rows on Hopper: y = alpha (x W^T + bias) + residual, or act(x Wg^T) * (x Wu^T). Contract:
// paths.h.
//
//   grid           one block an SM, in clusters; each cluster takes every n-th tile of the whole, in an order that
//   keeps
//                  what is read in the L2 cache (Tiles)
//   warpgroup 0    one thread: copies x and the weights, 64 of k at a time, into a ring. Blocks of a cluster, one below
//                  the other, load a part each of the weights that they share. The residual follows through the ring.
//   warpgroup 1 .. 64 rows each: four products of k16 a stage, ascending, into one accumulator for each output; then
//                  bias, alpha, residual or gate, and y by the copy engine through 16-row buffers of each warp.
//
// Order   y's sums depend on K alone: tiles, clusters and order change no bit (docs/kernels/numerics.md).
// Budget  rows x columns  stages x KiB  blocks of a cluster  warpgroups  sums a thread
//         128 x 256       4 x 48        2                    2           128
//         128 x 192       4 x 40        2                    2           96
//         128 x 128       6 x 32        2                    2           64
//         64 x 128        8 x 24        2 or 1               1           64
//         64 x 64         12 x 16       2 or 1               1           32
//         64 x 32         16 x 12       1                    1           16      and 16 KiB a warpgroup to write from
// Bound   2 T K N flop over the tensor cores' rate, or 2 (T K + N K) + y over the memory's.
//         docs/kernels/linear_cuda.md has both, and what was measured.
#include <cuda_runtime.h>

#include <array>
#include <limits>

#include "kernels/common/launch.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/linear/many_rows_sm90.cuh"
#include "kernels/linear/many_rows_sm90.h"
#include "kernels/linear/many_rows_sm90_worker.cuh"

namespace tandem::kernels {
namespace {

using namespace many_rows;
using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

template <class C, bool kGrouped>
__global__ __launch_bounds__(C::kThreads, 1) __cluster_dims__(C::kCluster, 1, 1) void linear_many_rows_sm90_kernel(
    const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map,
    const __grid_constant__ CUtensorMap up_map, const __grid_constant__ CUtensorMap residual_map,
    const __grid_constant__ CUtensorMap y_map, const __grid_constant__ Arguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers<C> barriers;
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    for (const CUtensorMap* map : {&x_map, &weight_map, &up_map, &residual_map, &y_map}) prefetch_map(map);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], C::kWarpgroups * C::kCluster);
    }
    barrier_init_fence();
  }
  if constexpr (C::kCluster > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  start_next();
  if (threadIdx.x < 128) {
    if constexpr (C::kWarpgroups == 2) registers_give_back<64>();
    if (threadIdx.x != 0) {
      wait_for_previous();
    } else {
      produce<C, kGrouped>(&x_map, &weight_map, &up_map, &residual_map, args, shared_address(shared), barriers);
    }
  } else {
    if constexpr (C::kWarpgroups == 2) registers_take<216>();
    wait_for_previous();
    Worker<C, kGrouped> worker(args, shared, barriers);
    for (Tiles<C, kGrouped> tiles(args); !tiles.done(); tiles.advance()) {
      worker.multiply_tile();
      worker.finish_tile(&y_map, tiles);
    }
    worker.end();
  }
  // A block's shared memory must live until the others have copied into it and arrived at its barriers.
  if constexpr (C::kCluster > 1) cluster_sync();
}

// `count` matrices [rows, columns], as the map maker wants them.
TensorView matrices(const void* data, DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t stride,
                    std::int64_t count = 1, std::int64_t matrix_stride = 0) {
  const std::int64_t strides[] = {stride, matrix_stride, 1};
  return TensorView(const_cast<void*>(data), dtype, Shape{rows, count, columns}, strides);
}

bool is_aligned(const void* data, std::int64_t stride, int element_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride * element_bytes % 16 == 0;
}

template <class C, bool kGrouped>
Status launch_as(const LinearCall& call, const ManyRowsOrder& order, device::Stream& stream) {
  const bool is_gated = call.up != nullptr, has_residual = call.residual != nullptr;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  const int outputs = (is_gated ? C::kBoxRows : C::kOwnColumns);  // of a warpgroup
  // Boxes of y: of whole columns, and the copy engine writes 16 bytes at once, also where the last column is among
  // them.
  const int y_columns = call.y_is_bf16 ? C::kBf16Columns : 32, y_bytes = call.y_is_bf16 ? 2 : 4;
  const bool is_y_boxed = is_aligned(call.y, call.y_stride, y_bytes) && outputs % y_columns == 0;
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); };
  // y += x W^T: the same sums as y read, added to and written, subnormal ones too (a test says so), and nobody waits.
  const bool adds = has_residual && call.residual == call.y && call.residual_stride == call.y_stride &&
                    !call.y_is_bf16 && is_y_boxed && call.N * y_bytes % 16 == 0;
  const Arguments args{
      .T = static_cast<int>(call.T),
      .N = static_cast<int>(call.N),
      .k_blocks = ceil_div(call.K, C::kDepth),
      .column_tiles = ceil_div(call.N, outputs * C::kSideBySide),
      .band = std::max(order.band, 1),
      .groups = static_cast<int>(call.groups),
      .offsets = call.offsets,
      .is_gated = is_gated,
      .y_is_bf16 = call.y_is_bf16,
      .has_residual = has_residual && !adds,
      .adds_to_y = adds,
      .boxed_columns = !is_y_boxed                  ? 0
                       : call.N * y_bytes % 16 == 0 ? std::numeric_limits<int>::max()
                                                    : static_cast<int>(call.N),
      .activation = call.activation,
      .alpha = call.alpha,
      .bias = call.bias,
      .y = call.y,
      .y_stride = call.y_stride,
  };
  const OnDevice on(stream.device());
  const CUtensorMap x_map =
      TD_TRY(make_row_map(matrices(call.x, DType::kBf16, call.T, call.K, call.x_stride), C::kRows));
  const CUtensorMap weight_map = TD_TRY(make_row_map(
      matrices(call.weight, DType::kBf16, call.N, call.K, call.weight_stride, call.groups, call.group_stride),
      C::kBoxRows));
  CUtensorMap up_map = weight_map, residual_map = weight_map, y_map = weight_map;
  if (is_gated) {
    up_map = TD_TRY(make_row_map(
        matrices(call.up, DType::kBf16, call.N, call.K, call.up_stride, call.groups, call.group_stride), C::kBoxRows));
  }
  if (args.has_residual) {
    residual_map =
        TD_TRY(make_row_map(matrices(call.residual, DType::kF32, call.T, call.N, call.residual_stride), 64, 1, 32));
  }
  if (is_y_boxed) {
    y_map = TD_TRY(
        make_row_map(matrices(call.y, call.y_is_bf16 ? DType::kBf16 : DType::kF32, call.T, call.N, call.y_stride), 16,
                     1, y_columns));
  }
  // As many tiles as there can be: of each group's rows, the last are fewer.
  const std::int64_t row_clusters = (kGrouped ? call.groups - 1 : 0) + ceil_div(call.T, C::kRows * C::kCluster);
  const auto clusters = std::min<std::int64_t>(row_clusters * args.column_tiles, multiprocessors / C::kCluster);
  return launch("linear, many rows", linear_many_rows_sm90_kernel<C, kGrouped>,
                {.grid = dim3(static_cast<unsigned>(clusters * C::kCluster)),
                 .threads = C::kThreads,
                 .shared_bytes = C::kSharedBytes,
                 .overlaps_previous = true},
                stream, x_map, weight_map, up_map, residual_map, y_map, args);
}

// What a tile costs: nanoseconds for each 64 of k, and around them. From docs/kernels/linear_cuda.md.
struct Variant {
  ManyRowsTile tile;
  int depth_ns, around_ns;
  Status (*launch)(const LinearCall&, const ManyRowsOrder&, device::Stream&);
  Status (*launch_grouped)(const LinearCall&, const ManyRowsOrder&, device::Stream&);  // or null
};
template <int kRows, int kColumns, int kCluster, int kStages, int kWarpgroups, bool kGrouped>
constexpr Variant variant(int depth_ns, int around_ns) {
  using C = Config<kRows, kColumns, kCluster, kStages, kWarpgroups>;
  Variant made{{kRows, kColumns, kCluster, kGrouped}, depth_ns, around_ns, launch_as<C, false>, nullptr};
  if constexpr (kGrouped) made.launch_grouped = launch_as<C, true>;
  return made;
}
constexpr Variant kVariants[] = {
    variant<128, 256, 2, 4, 2, true>(620, 4000), variant<128, 192, 2, 4, 2, false>(480, 4000),
    variant<128, 128, 2, 6, 2, true>(310, 3500), variant<64, 128, 2, 8, 1, false>(205, 2700),
    variant<64, 128, 1, 8, 1, true>(215, 2700),  variant<64, 64, 2, 12, 1, false>(175, 2500),
    variant<64, 32, 1, 16, 1, false>(160, 2300),
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
    const auto& [tile, depth_ns, around_ns, launch, launch_grouped] = kVariants[i];
    // Small tiles read a group's weights once for each of its row tiles: only where one is enough for most.
    if (groups > 0 && (!tile.takes_groups || (tile.rows == 64 && T > tile.rows * groups))) continue;
    const std::int64_t rows = tile.rows * tile.cluster, columns = tile.columns / (is_gated ? 2 : 1);
    // Each group has rows of its own, and wastes half a tile of them on average.
    const std::int64_t row_tiles = std::max((T + rows - 1) / rows + groups / 2, groups);
    const std::int64_t tiles = row_tiles * ((N + columns - 1) / columns);
    const std::int64_t at_once = multiprocessors / tile.cluster, turns = (tiles + at_once - 1) / at_once;
    const std::int64_t total = turns * ((K + 63) / 64 * depth_ns + around_ns);
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
  if (call.offsets == nullptr) return variant.launch(call, order, stream);
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

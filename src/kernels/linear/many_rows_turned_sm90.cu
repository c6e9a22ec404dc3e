// The products of a linear layer's backward on Hopper: linear_many_rows_sm90_kernel with operands whose sum's axis is
// not the contiguous one, as tensor cores read bf16 from shared memory either way round. Nothing is transposed in
// memory.
//   dx      += dy W       W is turned
//   dweight += dy^T x     both are
// A slab of 64 outputs by 64 of the sum is one box of the copy engine: up to twice as many boxes a stage as forward.
// Bound   2 T K N flop each over the tensor cores' rate.
#include <array>
#include <limits>

#include "kernels/linear/many_rows_sm90_launch.cuh"

namespace tandem::kernels {
namespace {

using namespace many_rows;

struct Variant {
  ManyRowsTile tile;
  ManyRowsCost cost;
  Status (*launch)(const LinearCall&, const ManyRowsOrder&, device::Stream&);         // x as in a forward
  Status (*launch_turned)(const LinearCall&, const ManyRowsOrder&, device::Stream&);  // or turned
};
template <int kRows, int kColumns, int kCluster, int kStages>
constexpr Variant variant(int depth_ns, int around_ns) {
  return {{kRows, kColumns, kCluster},
          {depth_ns, around_ns},
          launch_as<Config<kRows, kColumns, kCluster, kStages, 2, false, false, true>, false>,
          launch_as<Config<kRows, kColumns, kCluster, kStages, 2, false, true, true>, false>};
}
constexpr Variant kVariants[] = {variant<128, 256, 2, 4>(620, 4000), variant<128, 128, 2, 6>(310, 3500)};

}  // namespace

bool many_rows_turned_sm90_takes(const LinearCall& call) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  return call.weight_is_turned && call.x_is_bf16 && call.norm_weight == nullptr && call.up == nullptr &&
         call.offsets == nullptr && call.bias == nullptr && call.residual == call.y && !call.y_is_bf16 &&
         call.residual_stride == call.y_stride && call.T > 0 && call.N > 0 && call.K > 0 && call.T < kMax &&
         call.N < kMax && call.K < kMax && is_aligned(call.x, call.x_stride, 2) &&
         is_aligned(call.weight, call.weight_stride, 2);
}

std::span<const ManyRowsTile> many_rows_turned_tiles() {
  static const std::array tiles{kVariants[0].tile, kVariants[1].tile};
  static_assert(std::size(kVariants) == 2);
  return tiles;
}

Status linear_many_rows_turned_sm90_as(const LinearCall& call, const ManyRowsOrder& order, device::Stream& stream) {
  TD_CHECK(many_rows_turned_sm90_takes(call), call.T, call.K, call.N);
  const Variant& variant = kVariants[order.tile];
  return (call.x_is_turned ? variant.launch_turned : variant.launch)(call, order, stream);
}

Status linear_many_rows_turned_sm90(const LinearCall& call, device::Stream& stream) {
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  ManyRowsOrder order{.band = 4};  // measured: docs/kernels/linear_cuda.md
  std::int64_t best_ns = std::numeric_limits<std::int64_t>::max();
  for (int i = 0; i < static_cast<int>(std::size(kVariants)); ++i) {
    const auto& [tile, cost, launch, launch_turned] = kVariants[i];
    const std::int64_t rows = tile.cluster_rows(), columns = tile.cluster_columns();
    const std::int64_t clusters = (call.T + rows - 1) / rows * ((call.N + columns - 1) / columns);
    const std::int64_t total = cost.ns(tile, clusters, call.K, multiprocessors);
    if (total < best_ns) best_ns = total, order.tile = i;
  }
  return linear_many_rows_turned_sm90_as(call, order, stream);
}

}  // namespace tandem::kernels

// The products of a linear layer's backward on Hopper: linear_many_rows_sm90_kernel with operands whose sum's axis is
// not the contiguous one, as tensor cores read bf16 from shared memory either way round. Nothing is transposed in
// memory.
//   dx      += dy W       W is turned
//   dweight += dy^T x     both are
#include <array>

#include "kernels/linear/many_rows_sm90_launch.cuh"

namespace tandem::kernels {
namespace {

using namespace many_rows;

template <bool kXIsTurned>
Status launch_turned(const LinearCall& call, device::Stream& stream) {
  // Rows, columns, blocks of a cluster, stages, warpgroups: of many_rows_sm90.cu's tiles, the large and the middle one.
  using Large = Config<128, 256, 2, 4, 2, kXIsTurned, true>;
  using Middle = Config<128, 128, 2, 6, 2, kXIsTurned, true>;
  constexpr int kLargeDepthNs = 620, kMiddleDepthNs = 310, kAroundNs = 4000;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(stream.device().index));
  const auto cost = [&](int columns, int depth_ns) {
    const std::int64_t tiles = (call.T + 255) / 256 * ((call.N + columns - 1) / columns);
    const std::int64_t at_once = multiprocessors / 2, turns = (tiles + at_once - 1) / at_once;
    return turns * ((call.K + 63) / 64 * depth_ns + kAroundNs);
  };
  return cost(128, kMiddleDepthNs) < cost(256, kLargeDepthNs) ? launch_as<Middle, false>(call, {}, stream)
                                                              : launch_as<Large, false>(call, {}, stream);
}

}  // namespace

bool many_rows_turned_sm90_takes(const LinearCall& call) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  return call.weight_is_turned && call.x_is_bf16 && call.norm_weight == nullptr && call.up == nullptr &&
         call.offsets == nullptr && call.bias == nullptr && call.residual == call.y && !call.y_is_bf16 &&
         call.residual_stride == call.y_stride && call.T > 0 && call.N > 0 && call.K > 0 && call.T < kMax &&
         call.N < kMax && call.K < kMax && is_aligned(call.x, call.x_stride, 2) &&
         is_aligned(call.weight, call.weight_stride, 2);
}

Status linear_many_rows_turned_sm90(const LinearCall& call, device::Stream& stream) {
  TD_CHECK(many_rows_turned_sm90_takes(call), call.T, call.K, call.N);
  return call.x_is_turned ? launch_turned<true>(call, stream) : launch_turned<false>(call, stream);
}

}  // namespace tandem::kernels

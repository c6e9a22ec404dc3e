// Sums of blocks of rows (half_rows.h).
//   grid (ceil(width / 32), sums)   block: 32 warps, a lane to a column, a warp to every 32nd block
// Bound   bytes 4 * count * width, most of them still in the L2 cache
#include <cuda_runtime.h>

#include <algorithm>

#include "base/check.h"
#include "kernels/common/half_rows.h"
#include "kernels/common/launch.cuh"

namespace tandem::kernels {
namespace {

constexpr int kLanes = 32, kWarps = 32;

struct SumBlocksArguments {
  BlockSums sums[kBlockSumsMax];
  bool adds = false;
};

__global__ void __launch_bounds__(kLanes* kWarps)
    sum_blocks_sm80_kernel(const __grid_constant__ SumBlocksArguments arguments) {
  __shared__ float of_warps[kWarps][kLanes];
  const BlockSums& job = arguments.sums[blockIdx.y];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kLanes + lane;
  const std::int64_t row_floats = RowPartition::padded(job.width);
  float sum = 0.0f;
  if (column < job.width) {
#pragma unroll 4
    for (std::int64_t block = warp; block < job.count; block += kWarps) sum += job.sums[block * row_floats + column];
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= job.width) return;
  for (int i = 1; i < kWarps; ++i) sum += of_warps[i][lane];
  job.total[column] = arguments.adds ? job.total[column] + sum : sum;
}

}  // namespace

Status sum_blocks_sm80(const char* op, std::span<const BlockSums> all, bool adds, device::Stream& stream) {
  TD_CHECK(all.size() <= kBlockSumsMax, all.size());
  SumBlocksArguments arguments;
  arguments.adds = adds;
  std::int64_t width_max = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    arguments.sums[i] = all[i];
    width_max = std::max(width_max, all[i].width);
  }
  const dim3 grid(static_cast<unsigned>((width_max + kLanes - 1) / kLanes), static_cast<unsigned>(all.size()));
  return launch(op, sum_blocks_sm80_kernel, {grid, kLanes * kWarps, 0}, stream, arguments);
}

}  // namespace tandem::kernels

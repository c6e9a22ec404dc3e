// The gradient of a linear layer's bias: sums of columns. A thread adds up a column of a block of rows (RowPartition),
// ascending; blocks are added by sum_blocks_sm80.   Bound: bytes 4 rows width; memory bound.
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/linear/paths.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    column_sums(const __grid_constant__ ColumnSumsCall call, std::int64_t block_rows, float* sums) {
  const std::int64_t column = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= call.width) return;
  const std::int64_t begin = blockIdx.y * block_rows, end = min(call.rows, begin + block_rows);
  float sum = 0.0f;
#pragma unroll 8
  for (std::int64_t row = begin; row < end; ++row) sum += call.from[row * call.stride + column];
  sums[blockIdx.y * RowPartition::padded(call.width) + column] = call.alpha * sum;
}

}  // namespace

Status linear_column_sums_sm80(const ColumnSumsCall& call, std::span<std::byte> scratch, device::Stream& stream) {
  const RowPartition blocks = column_sums_blocks(call.rows);
  float* const sums = reinterpret_cast<float*>(scratch.data());
  const dim3 grid(static_cast<unsigned>((call.width + kThreads - 1) / kThreads), static_cast<unsigned>(blocks.count));
  TD_TRY(launch("linear backward", column_sums, {grid, kThreads, 0}, stream, call, blocks.block_rows, sums));
  const BlockSums all[] = {{sums, blocks.count, call.width, call.total}};
  return sum_blocks_sm80("linear backward", all, true, stream);
}

}  // namespace tandem::kernels

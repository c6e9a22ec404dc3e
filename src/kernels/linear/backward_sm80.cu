// What a linear layer's backward does beside its products: rows as bf16, and sums of columns.
//   pack_rows     a thread makes 8 elements; bytes 6 rows width (from f32), memory bound
//   column_sums   a thread adds up a column of a block of rows (RowPartition), ascending; blocks are added by
//                 sum_blocks_sm80; bytes 4 rows width, memory bound
#include <algorithm>

#include "kernels/common/half_rows_sm80.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/linear/paths.h"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kGridRowsMax = 65535;

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) pack_rows(const __grid_constant__ PackRowsCall call) {
  const std::int64_t column = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kChunk;
  const int count = static_cast<int>(min(std::int64_t{kChunk}, call.width - column));
  if (count <= 0) return;
  for (std::int64_t row = blockIdx.y; row < call.rows; row += gridDim.y) {
    const std::int64_t from = row * call.from_stride + column;
    std::uint16_t* const to = static_cast<std::uint16_t*>(call.to) + row * call.to_stride + column;
    if (call.from_is_bf16) {
      sm80::store_chunk<kAligned>(
          to, count, sm80::load_chunk<kAligned>(static_cast<const std::uint16_t*>(call.from) + from, count));
    } else {
      float values[kChunk];
      sm80::load_floats<kAligned>(static_cast<const float*>(call.from) + from, count, values);
      sm80::store_chunk<kAligned>(to, count, sm80::narrow<sm80::Bf16>(values));
    }
  }
}

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

Status linear_pack_rows_sm80(const PackRowsCall& call, device::Stream& stream) {
  const auto is_on_16 = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; };
  const bool is_aligned = is_on_16(call.from) && is_on_16(call.to) && call.width % kChunk == 0 &&
                          call.from_stride % kChunk == 0 && call.to_stride % kChunk == 0;
  const std::int64_t threads = (call.width + kChunk - 1) / kChunk;
  const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads),
                  static_cast<unsigned>(std::min(call.rows, kGridRowsMax)));
  return launch("linear backward", is_aligned ? pack_rows<true> : pack_rows<false>, {grid, kThreads, 0}, stream, call);
}

Status linear_column_sums_sm80(const ColumnSumsCall& call, std::span<std::byte> scratch, device::Stream& stream) {
  const RowPartition blocks = column_sums_blocks(call.rows);
  float* const sums = reinterpret_cast<float*>(scratch.data());
  const dim3 grid(static_cast<unsigned>((call.width + kThreads - 1) / kThreads), static_cast<unsigned>(blocks.count));
  TD_TRY(launch("linear backward", column_sums, {grid, kThreads, 0}, stream, call, blocks.block_rows, sums));
  const BlockSums all[] = {{sums, blocks.count, call.width, call.total}};
  return sum_blocks_sm80("linear backward", all, true, stream);
}

}  // namespace tandem::kernels

// dq of the portable backward (backward_sm80.cu).
#include <cuda_runtime.h>

#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/backward_sm80.cuh"

namespace tandem::kernels::sm80 {

// A lane's rows are queries, its columns keys.
template <bool kIsCapped, int kColumns>
__device__ __forceinline__ void differentiate_queries(float (&p)[kColumns / 8][4], float (&ds)[kColumns / 8][4],
                                                      const float2 (&statistics)[2], const ScoreMap& map) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      differentiate<kIsCapped>(p[n][i], ds[n][i], statistics[i / 2].x, statistics[i / 2].y, map);
    }
  }
}

template <class E, int kD>
__global__ void __launch_bounds__(kThreads) fused_attention_dq_sm80_kernel(const BackwardArguments arguments) {
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kBlock = Cut<kD>::kStreamRows, kStages = Cut<kD>::kStages, kStreamBytes = Cut<kD>::kStreamBytes;
  const std::uint32_t q_tile = shared_address(shared);
  const std::uint32_t dout_tile = q_tile + Cut<kD>::kStationaryBytes;
  const std::uint32_t stages = dout_tile + Cut<kD>::kStationaryBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t warp_rows = warp * 16 * 2 * kD;
  const std::uint32_t by_rows = lane_offset_by_rows(lane, 2 * kD), by_chunks = lane_offset_by_chunks(lane, 2 * kD);

  const WorkItem item = arguments.forward_items[blockIdx.x];
  const ForwardTile tile = arguments.forward_tiles[item.tile];
  const int kv_head = item.head / arguments.heads_per_group;
  const KeyBlocks blocks{tile.prefix_begin, tile.prefix_count, tile.key_begin, tile.key_count, kBlock};
  const RowInterval interval{arguments.left, arguments.right, tile.prefix_count + tile.key_count};
  const std::int32_t last_row = tile.position + tile.rows - 1;
  const std::int32_t seen_begin = interval.begin(tile.position), seen_end = interval.end(last_row);
  const std::int32_t common_begin = interval.begin(last_row), common_end = interval.end(tile.position);

  const auto load_block = [&](const KeyBlock& block, int stage) {
    const std::uint32_t k_tile = stages + stage * 2 * kStreamBytes;
    load_tile<kBlock, kD>(k_tile, arguments.k.at(block.row, kv_head), arguments.k.row_stride, block.keys, arguments.D);
    load_tile<kBlock, kD>(k_tile + kStreamBytes, arguments.v.at(block.row, kv_head), arguments.v.row_stride, block.keys,
                          arguments.D);
  };

  float dq[kD / 8][4] = {};
  if (seen_begin < seen_end) {
    float2 statistics[2] = {};  // a row past the tile's end is not written: any will do
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * warp + accumulator_row(lane, 2 * half);
      if (row < tile.rows) statistics[half] = arguments.statistics[item.head * arguments.T + tile.query_row + row];
    }
    load_tile<kTileRows, kD>(q_tile, arguments.q.at(tile.query_row, item.head), arguments.q.row_stride, tile.rows,
                             arguments.D);
    load_tile<kTileRows, kD>(dout_tile, arguments.dout.at(tile.query_row, item.head), arguments.dout.row_stride,
                             tile.rows, arguments.D);
    const std::int32_t block_begin = blocks.index_of(seen_begin), block_end = blocks.index_of(seen_end - 1) + 1;
    load_block(blocks.at(block_begin), 0);
    int stage = 0;
    for (std::int32_t index = block_begin; index < block_end; ++index) {
      copy_wait();
      __syncthreads();  // this block's copies are in; and no warp reads the other stage any more
      if (kStages > 1 && index + 1 < block_end) load_block(blocks.at(index + 1), stage ^ 1);

      const std::uint32_t k_tile = stages + stage * 2 * kStreamBytes, v_tile = k_tile + kStreamBytes;
      float p[kBlock / 8][4], ds[kBlock / 8][4];
      multiply_transposed<E, kD, kBlock>(p, q_tile + warp_rows + by_rows, k_tile + by_chunks);
      multiply_transposed<E, kD, kBlock>(ds, dout_tile + warp_rows + by_rows, v_tile + by_chunks);
      if (arguments.map.is_capped) {
        differentiate_queries<true, kBlock>(p, ds, statistics, arguments.map);
      } else {
        differentiate_queries<false, kBlock>(p, ds, statistics, arguments.map);
      }
      const KeyBlock block = blocks.at(index);
      const bool is_whole =
          block.keys == kBlock && block.position >= common_begin && block.position + kBlock <= common_end;
      if (!is_whole) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::int32_t position = tile.position + 16 * warp + accumulator_row(lane, 2 * half);
          select_columns<kBlock>(p, ds, half, interval.begin(position) - block.position,
                                 min(interval.end(position) - block.position, block.keys), lane);
        }
      }
      std::uint32_t left[kBlock / 16][4];
      pack_left<E, kBlock>(left, ds);
      multiply_add<E, kD, kBlock, kD>(dq, left, k_tile + by_rows);
      if constexpr (kStages > 1) {
        stage ^= 1;
      } else if (index + 1 < block_end) {
        __syncthreads();  // no warp reads the one stage any more
        load_block(blocks.at(index + 1), 0);
      }
    }
  }

#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dq[n][i] = __fmul_rn(dq[n][i], arguments.scale);
  }
  store_rows<E, kD, kD>(dq, q_tile + warp_rows, arguments.dq.at(tile.query_row + 16 * warp, item.head),
                        arguments.dq.row_stride, tile.rows - 16 * warp, arguments.D);
}

Status launch_backward_queries(const BackwardArguments& arguments, tensor::DType dtype, device::Stream& stream) {
  return for_element_and_width(dtype, arguments.D, [&]<class E, int kD>() {
    return launch("fused attention, dq", fused_attention_dq_sm80_kernel<E, kD>,
                  {dim3(static_cast<unsigned>(arguments.forward_items_count)), kThreads, Cut<kD>::kSharedBytes}, stream,
                  arguments);
  });
}

}  // namespace tandem::kernels::sm80

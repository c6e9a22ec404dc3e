// Forward of fused attention on any card from compute capability 8.0 (fused_attention.h says what is computed).
//
//   grid   a thread block of 4 warps for each item of work: 64 query rows of one segment, one head; 16 rows to a warp
//   loop   over the key blocks of 64 that any of the rows sees, ascending:
//            S = Q K^T; online softmax in base 2, a row's maximum and sum in the four lanes that share it; O += P V
//          K and V have one tile each: V is copied while S is computed, the next K while the softmax and P V are
//   shared Q, K, V: 3 * 64 * 2 D bytes = 24, 48, 96 KiB for D = 64, 128, 256: several blocks to a multiprocessor hide
//          each other's waiting, and D = 256 fits the 99 KiB of the smaller cards
//   regs   O: D/2 a thread, S: 32
//
// A block of keys that a row does not see leaves the row's state as it is, bit for bit: the maximum stays, the factor
// is 1 (or 0 times 0 while nothing was seen), and zeros are added. So a row does not depend on the others of its tile.
// From FlashAttention-2, arXiv:2307.08691.
#include <cuda_runtime.h>

#include "base/check.h"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/tile_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

constexpr int kKeyBlock = 64;

struct ForwardArguments {
  Rows q, k, v, out;
  const float* sinks;  // or null
  float* lse_ln;       // or null
  const ForwardTile* tiles;
  const WorkItem* items;
  std::int64_t T;
  int heads_per_group, D;
  std::int32_t left, right;
  ScoreMap map;
};

// Of the two rows of a lane's sums, rows r and r + 8 of the warp's.
struct RowState {
  float maximum[2] = {-INFINITY, -INFINITY};  // of the scores, before `exponent`
  float sum[2] = {0.0f, 0.0f};                // of this lane's columns; of all four lanes' after the last block
};

// Scores that a row does not see become -infinity. `first_row` is the position of the lane's first row.
__device__ __forceinline__ void mask_scores(float (&scores)[kKeyBlock / 8][4], const RowInterval& interval,
                                            const KeyBlock& block, std::int32_t first_row, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int32_t position = first_row + 8 * half;
    const std::int32_t begin = interval.begin(position) - block.position;
    const std::int32_t end = min(interval.end(position) - block.position, block.keys);
#pragma unroll
    for (int n = 0; n < kKeyBlock / 8; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const std::int32_t key = 8 * n + accumulator_column(lane, i);
        if (key < begin || key >= end) scores[n][i] = -INFINITY;
      }
    }
  }
}

// Scores become probabilities relative to the rows' new maxima, to which sums and output are scaled.
template <int kD>
__device__ __forceinline__ void softmax_step(float (&scores)[kKeyBlock / 8][4], RowState& state,
                                             float (&output)[kD / 8][4], float exponent) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float maximum = state.maximum[half];
#pragma unroll
    for (int n = 0; n < kKeyBlock / 8; ++n) {
      maximum = fmaxf(maximum, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 2));
    // A row that has seen nothing yet: 0 for -infinity, whose difference with itself is not a number.
    const float base = maximum == -INFINITY ? 0.0f : __fmul_rn(maximum, exponent);
    const float factor = exp2_fast(__fsub_rn(__fmul_rn(state.maximum[half], exponent), base));
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kKeyBlock / 8; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = exp2_fast(__fmaf_rn(scores[n][i], exponent, -base));
        sum = __fadd_rn(sum, scores[n][i]);
      }
    }
    state.maximum[half] = maximum;
    state.sum[half] = __fmaf_rn(state.sum[half], factor, sum);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      output[n][2 * half] = __fmul_rn(output[n][2 * half], factor);
      output[n][2 * half + 1] = __fmul_rn(output[n][2 * half + 1], factor);
    }
  }
}

// What the output is multiplied by at the end, and the row's lse.
struct RowEnd {
  float factor, lse_ln;
};

__device__ __forceinline__ RowEnd finish_row(float maximum, float sum, float exponent, const float* sink) {
  constexpr float kLn2 = 0.6931471805599453f;
  const float base = maximum == -INFINITY ? 0.0f : __fmul_rn(maximum, exponent);
  if (sink == nullptr) {
    if (sum == 0.0f) return {0.0f, -INFINITY};
    return {__fdiv_rn(1.0f, sum), __fmul_rn(__fadd_rn(base, log2f(sum)), kLn2)};
  }
  const float sink_log2 = __fmul_rn(*sink, kLog2E);
  if (sum == 0.0f) return {0.0f, *sink};
  const float top = fmaxf(base, sink_log2);
  const float shrink = exp2_fast(__fsub_rn(base, top));
  const float total = __fmaf_rn(sum, shrink, exp2_fast(__fsub_rn(sink_log2, top)));
  return {__fdiv_rn(shrink, total), __fmul_rn(__fadd_rn(top, log2f(total)), kLn2)};
}

template <class E, int kD>
__global__ void __launch_bounds__(kThreads) fused_attention_forward_sm80_kernel(const ForwardArguments arguments) {
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kTileBytes = kTileRows * 2 * kD;
  const std::uint32_t q_tile = shared_address(shared);
  const std::uint32_t k_tile = q_tile + kTileBytes;
  const std::uint32_t v_tile = k_tile + kTileBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t warp_rows = q_tile + warp * 16 * 2 * kD;

  const WorkItem item = arguments.items[blockIdx.x];
  const ForwardTile tile = arguments.tiles[item.tile];
  const int kv_head = item.head / arguments.heads_per_group;
  const KeyBlocks blocks{tile.prefix_begin, tile.prefix_count, tile.key_begin, tile.key_count, kKeyBlock};
  const RowInterval interval{arguments.left, arguments.right, tile.prefix_count + tile.key_count};
  // What some row of the tile sees; what all of them see.
  const std::int32_t last_row = tile.position + tile.rows - 1;
  const std::int32_t seen_begin = interval.begin(tile.position), seen_end = interval.end(last_row);
  const std::int32_t common_begin = interval.begin(last_row), common_end = interval.end(tile.position);

  float output[kD / 8][4] = {};
  RowState state;
  const float exponent = arguments.map.is_capped || arguments.map.exponent <= 0.0f ? 1.0f : arguments.map.exponent;

  if (seen_begin < seen_end) {
    const std::int32_t block_end = blocks.index_of(seen_end - 1) + 1;
    std::int32_t index = blocks.index_of(seen_begin);
    KeyBlock block = blocks.at(index);
    load_tile<kTileRows, kD>(q_tile, arguments.q.at(tile.query_row, item.head), arguments.q.row_stride, tile.rows,
                             arguments.D);
    load_tile<kKeyBlock, kD>(k_tile, arguments.k.at(block.row, kv_head), arguments.k.row_stride, block.keys,
                             arguments.D);
    while (true) {
      copy_wait();
      __syncthreads();  // all copies of K (and Q) are in; and no warp reads V's last block any more
      load_tile<kKeyBlock, kD>(v_tile, arguments.v.at(block.row, kv_head), arguments.v.row_stride, block.keys,
                               arguments.D);
      float scores[kKeyBlock / 8][4];
      multiply_transposed<E, kD, kKeyBlock>(scores, warp_rows + lane_offset_by_rows(lane, 2 * kD),
                                            k_tile + lane_offset_by_chunks(lane, 2 * kD));
      copy_wait();
      __syncthreads();  // all copies of V are in; and no warp reads this block of K any more
      const bool is_last = index + 1 == block_end;
      const KeyBlock next = is_last ? block : blocks.at(index + 1);
      if (!is_last) {
        load_tile<kKeyBlock, kD>(k_tile, arguments.k.at(next.row, kv_head), arguments.k.row_stride, next.keys,
                                 arguments.D);
      }

      if (arguments.map.is_capped) {
#pragma unroll
        for (int n = 0; n < kKeyBlock / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            scores[n][i] = __fmul_rn(arguments.map.capped_log2, arguments.map.tanh_of(scores[n][i]));
          }
        }
      } else if (arguments.map.exponent <= 0.0f) {  // the largest score is not the largest product
#pragma unroll
        for (int n = 0; n < kKeyBlock / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[n][i] = __fmul_rn(scores[n][i], arguments.map.exponent);
        }
      }
      const bool is_whole =
          block.keys == kKeyBlock && block.position >= common_begin && block.position + kKeyBlock <= common_end;
      if (!is_whole) {
        mask_scores(scores, interval, block, tile.position + 16 * warp + accumulator_row(lane, 0), lane);
      }
      softmax_step<kD>(scores, state, output, exponent);
      std::uint32_t probabilities[kKeyBlock / 16][4];
      pack_left<E, kKeyBlock>(probabilities, scores);
      multiply_add<E, kD, kKeyBlock, kD>(output, probabilities, v_tile + lane_offset_by_rows(lane, 2 * kD));
      if (is_last) break;
      block = next;
      ++index;
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, 1));
    sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, 2));
    const RowEnd end = finish_row(state.maximum[half], sum, exponent,
                                  arguments.sinks == nullptr ? nullptr : arguments.sinks + item.head);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
      output[n][2 * half] = __fmul_rn(output[n][2 * half], end.factor);
      output[n][2 * half + 1] = __fmul_rn(output[n][2 * half + 1], end.factor);
    }
    const int row = 16 * warp + accumulator_row(lane, 2 * half);
    if (arguments.lse_ln != nullptr && lane % 4 == 0 && row < tile.rows) {
      arguments.lse_ln[item.head * arguments.T + tile.query_row + row] = end.lse_ln;
    }
  }
  store_rows<E, kD, kD>(output, warp_rows, arguments.out.at(tile.query_row + 16 * warp, item.head),
                        arguments.out.row_stride, tile.rows - 16 * warp, arguments.D);
}

}  // namespace sm80

Status forward_sm80(const FusedForwardCall& call) {
  const FusedAttentionPlan& plan = call.plan;
  const AttentionShape& shape = plan.shape();
  TD_CHECK(plan.tiling().forward_rows == sm80::kTileRows && plan.tiling().key_block == sm80::kKeyBlock);
  const sm80::ForwardArguments arguments{
      .q = sm80::rows_of(call.q),
      .k = sm80::rows_of(call.k),
      .v = sm80::rows_of(call.v),
      .out = sm80::rows_of(call.out),
      .sinks = static_cast<const float*>(call.sinks.data()),
      .lse_ln = static_cast<float*>(call.lse_ln.data()),
      .tiles = reinterpret_cast<const ForwardTile*>(call.words + plan.forward_tiles.offset),
      .items = reinterpret_cast<const WorkItem*>(call.words + plan.forward_items.offset),
      .T = shape.T,
      .heads_per_group = static_cast<int>(shape.H / shape.G),
      .D = static_cast<int>(shape.D),
      .left = plan.window().left,
      .right = plan.window().right,
      .map = sm80::score_map(call.params),
  };
  return sm80::for_element_and_width(call.q.dtype(), shape.D, [&]<class E, int kD>() {
    const LaunchShape launch_shape{.grid = dim3(static_cast<unsigned>(plan.forward_items.count)),
                                   .threads = sm80::kThreads,
                                   .shared_bytes = 3 * sm80::kTileRows * 2 * kD};
    return launch("fused attention, forward", sm80::fused_attention_forward_sm80_kernel<E, kD>, launch_shape,
                  call.stream, arguments);
  });
}

}  // namespace tandem::kernels

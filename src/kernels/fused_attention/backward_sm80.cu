// Backward of fused attention on any card from compute capability 8.0 (fused_attention.h says what is computed), without
// atomics: every gradient is a sum in one register accumulator, in the plan's order. So it is deterministic always.
//
//   statistics   for each head and query {lse in log2, delta = <do, o> - dlse} into scratch; then dsinks, one block a head
//   dk, dv       a block of 4 warps for 64 keys and one kv head; K and V stay in shared memory, Q and dO stream by in steps:
//                  S' = K Q^T, dP' = V dO^T;  P', dS' stay in registers;  dV += P' dO,  dK += dS' Q
//   dq           a block for 64 queries and one head; Q and dO stay, K and V stream by in blocks:
//                  S = Q K^T, dP = dO V^T;  dS stays in registers;  dQ += dS K
// Seven products where a backward that adds dq up from the key tiles has five: what is paid for no atomics, no waiting.
//
// One step or block is 64 rows and the next is copied while it is worked on; for D > 128, 32 rows and no second stage,
// and two blocks for the halves of dk's and dv's columns (which compute S' and dP' twice), for registers' sake.
//   shared       2 * 64 * 2 D + stages * 2 * step * 2 D bytes = 48, 96, 96 KiB for D = 64, 128, 256, and the statistics
//   regs         dk, dv: 64 a thread for D = 64, else 128; dq: D/2; S and dP: a step's rows / 2 each
//
// A pair that is not visible gets p = ds = 0 by selection, whatever the formulas gave for it. Rows past a segment's end
// are zero in shared memory and never read.
#include <cuda_runtime.h>

#include "base/check.h"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/tile_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

struct BackwardArguments {
  Rows q, k, v, out, dout, dq, dk, dv;
  const float* sinks;   // or null
  const float* lse_ln;
  const float* dlse;    // or null
  float* dsinks;        // or null
  float2* statistics;   // [H,T] {lse_log2, delta}
  const ForwardTile* forward_tiles;
  const WorkItem* forward_items;
  const KeyTile* key_tiles;
  const KeyVisit* key_visits;
  const WorkItem* backward_items;
  std::int64_t T;
  int forward_tiles_count, heads_per_group, D;
  std::int32_t left, right;
  float scale;
  ScoreMap map;
};

// How the work on heads of kD is cut.
template <int kD>
struct Cut {
  static constexpr int kStreamRows = kD <= 128 ? 64 : 32;     // of a step or block
  static constexpr int kStages = kD <= 128 ? 2 : 1;           // of them in shared memory
  static constexpr int kKeyColumns = kD <= 128 ? kD : 128;    // of dk and dv in one thread block
  static constexpr int kKeyPart = kD <= 64 ? 64 : 32;         // of a step's rows whose p and ds are held at a time there
  static constexpr int kStationaryBytes = kTileRows * 2 * kD;  // each of two
  static constexpr int kStreamBytes = kStreamRows * 2 * kD;    // each of two in a stage
  static constexpr int kStatisticsBytes = kStreamRows * static_cast<int>(sizeof(float2));  // of a stage
  static constexpr int kSharedBytes = 2 * kStationaryBytes + kStages * (2 * kStreamBytes + kStatisticsBytes);
  static_assert(kSharedBytes <= 99 * 1024, "more than the smaller cards have");
};

// ---- Statistics and sinks. ----

template <class E>
__global__ void __launch_bounds__(kThreads) fused_attention_statistics_sm80_kernel(const BackwardArguments arguments) {
  const WorkItem item = arguments.forward_items[blockIdx.x];
  const ForwardTile tile = arguments.forward_tiles[item.tile];
  const int lane = static_cast<int>(threadIdx.x) % 8;  // of the eight that share a row
  for (int first = 0; first < kTileRows; first += kThreads / 8) {
    const int row = first + static_cast<int>(threadIdx.x) / 8;
    const std::int64_t t = tile.query_row + row;
    float sum = 0.0f;
    if (row < tile.rows) {
      for (int column = 8 * lane; column < arguments.D; column += 64) {
        const uint4 o = *reinterpret_cast<const uint4*>(arguments.out.at(t, item.head) + column);
        const uint4 d = *reinterpret_cast<const uint4*>(arguments.dout.at(t, item.head) + column);
        const std::uint32_t o_pairs[4] = {o.x, o.y, o.z, o.w}, d_pairs[4] = {d.x, d.y, d.z, d.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 a = E::unpack(o_pairs[i]), b = E::unpack(d_pairs[i]);
          sum = __fmaf_rn(a.y, b.y, __fmaf_rn(a.x, b.x, sum));
        }
      }
    }
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, distance));
    }
    if (lane == 0 && row < tile.rows) {
      const std::int64_t index = item.head * arguments.T + t;
      if (arguments.dlse != nullptr) sum = __fsub_rn(sum, arguments.dlse[index]);
      arguments.statistics[index] = {__fmul_rn(arguments.lse_ln[index], kLog2E), sum};
    }
  }
}

// dsinks[h] = -sum_t e^(sink - lse) delta, in an order that the tiles fix.
__global__ void __launch_bounds__(kThreads) fused_attention_dsinks_sm80_kernel(const BackwardArguments arguments) {
  __shared__ float of_warps[kWarps];
  const int head = static_cast<int>(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const float sink_log2 = __fmul_rn(arguments.sinks[head], kLog2E);
  float sum = 0.0f;
  for (int i = warp; i < arguments.forward_tiles_count; i += kWarps) {
    const ForwardTile tile = arguments.forward_tiles[i];
    for (int row = lane; row < tile.rows; row += 32) {
      const float2 row_statistics = arguments.statistics[head * arguments.T + tile.query_row + row];
      if (row_statistics.x == -INFINITY) continue;  // sees nothing, and its sink is -infinity too
      sum = __fmaf_rn(-exp2_fast(__fsub_rn(sink_log2, row_statistics.x)), row_statistics.y, sum);
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, distance));
  }
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) sum = __fadd_rn(sum, of_warps[i]);
  arguments.dsinks[head] = sum;
}

// ---- What both products' kernels do to a pair of query and key. ----

// From <q, k> and <do, v> of a pair to p and ds, in place.
template <bool kIsCapped>
__device__ __forceinline__ void differentiate(float& product, float& dp, float lse_log2, float delta,
                                              const ScoreMap& map) {
  if constexpr (kIsCapped) {
    const float t = map.tanh_of(product);
    product = exp2_fast(__fmaf_rn(map.capped_log2, t, -lse_log2));
    dp = __fmul_rn(__fmul_rn(product, __fsub_rn(dp, delta)), __fmaf_rn(-t, t, 1.0f));
  } else {
    product = exp2_fast(__fmaf_rn(map.exponent, product, -lse_log2));
    dp = __fmul_rn(product, __fsub_rn(dp, delta));
  }
}

// Zeros, for the lane's row of `half`, all columns outside begin .. end - 1.
template <int kColumns>
__device__ __forceinline__ void select_columns(float (&p)[kColumns / 8][4], float (&ds)[kColumns / 8][4], int half,
                                               std::int32_t begin, std::int32_t end, int lane) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      const std::int32_t column = 8 * n + accumulator_column(lane, i);
      const bool is_visible = column >= begin && column < end;
      p[n][i] = is_visible ? p[n][i] : 0.0f;
      ds[n][i] = is_visible ? ds[n][i] : 0.0f;
    }
  }
}

// ---- dk and dv. ----

// Some query rows of one segment and head that a key tile meets.
struct Step {
  std::int32_t query_row, rows, position;  // first row of q, how many, position of the first
  std::int32_t key_position, keys;         // of the tile in the segment's context
  int head;                                // of the group
};

// A key tile's steps: for each visit, for each head of the group, in ascending order of queries.
class StepCursor {
 public:
  __device__ StepCursor(const BackwardArguments& arguments, const KeyTile& tile)
      : arguments_(arguments), visit_(tile.visit_begin), visit_end_(tile.visit_end) {
    if (!is_end()) step_ = visit().step_begin;
  }
  __device__ bool is_end() const { return visit_ == visit_end_; }

  template <int kRows>
  __device__ Step step() const {
    const KeyVisit& now = visit();
    const std::int32_t first = step_ * kRows;
    return {now.query_begin + first, min(kRows, now.query_count - first), now.position + first, now.key_position,
            now.keys, head_};
  }

  __device__ void advance() {
    if (++step_ < visit().step_end) return;
    if (++head_ == arguments_.heads_per_group) {
      head_ = 0;
      ++visit_;
    }
    if (!is_end()) step_ = visit().step_begin;
  }

 private:
  __device__ const KeyVisit& visit() const { return arguments_.key_visits[visit_]; }

  const BackwardArguments& arguments_;
  int visit_, visit_end_;
  int head_ = 0;
  std::int32_t step_ = 0;
};

// A lane's rows are keys, its columns queries, whose statistics lie in shared memory.
template <bool kIsCapped, int kColumns>
__device__ __forceinline__ void differentiate_keys(float (&p)[kColumns / 8][4], float (&ds)[kColumns / 8][4],
                                                   std::uint32_t statistics, int lane, const ScoreMap& map) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
    // {lse_log2, delta} of two neighbouring columns
    const uint4 pair = load_shared(statistics + (8 * n + accumulator_column(lane, 0)) * sizeof(float2));
    const float lse_log2[2] = {__uint_as_float(pair.x), __uint_as_float(pair.z)};
    const float delta[2] = {__uint_as_float(pair.y), __uint_as_float(pair.w)};
#pragma unroll
    for (int i = 0; i < 4; ++i) differentiate<kIsCapped>(p[n][i], ds[n][i], lse_log2[i % 2], delta[i % 2], map);
  }
}

template <class E, int kD>
__global__ void __launch_bounds__(kThreads) fused_attention_dkdv_sm80_kernel(const BackwardArguments arguments) {
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kStep = Cut<kD>::kStreamRows, kStages = Cut<kD>::kStages, kColumns = Cut<kD>::kKeyColumns;
  constexpr int kPart = Cut<kD>::kKeyPart, kStreamBytes = Cut<kD>::kStreamBytes, kStatisticsBytes = Cut<kD>::kStatisticsBytes;
  const std::uint32_t k_tile = shared_address(shared);
  const std::uint32_t v_tile = k_tile + Cut<kD>::kStationaryBytes;
  const std::uint32_t stages = v_tile + Cut<kD>::kStationaryBytes;
  const std::uint32_t statistics_stages = stages + kStages * 2 * kStreamBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t warp_rows = warp * 16 * 2 * kD;
  const std::uint32_t by_rows = lane_offset_by_rows(lane, 2 * kD), by_chunks = lane_offset_by_chunks(lane, 2 * kD);

  const WorkItem item = arguments.backward_items[blockIdx.x];
  const KeyTile tile = arguments.key_tiles[item.tile];
  const int first_column = static_cast<int>(blockIdx.y) * kColumns;
  StepCursor cursor(arguments, tile);

  const auto load_step = [&](const Step& step, int stage) {
    const int head = item.head * arguments.heads_per_group + step.head;
    const std::uint32_t q_tile = stages + stage * 2 * kStreamBytes;
    load_tile<kStep, kD>(q_tile, arguments.q.at(step.query_row, head), arguments.q.row_stride, step.rows, arguments.D);
    load_tile<kStep, kD>(q_tile + kStreamBytes, arguments.dout.at(step.query_row, head), arguments.dout.row_stride,
                         step.rows, arguments.D);
    const int row = static_cast<int>(threadIdx.x);
    if (row < kStep) {
      const float2* from = arguments.statistics + head * arguments.T + step.query_row;
      const bool is_read = row < step.rows;
      copy_async<sizeof(float2)>(statistics_stages + stage * kStatisticsBytes + row * sizeof(float2),
                                 is_read ? from + row : from, is_read);
    }
  };

  float dk[kColumns / 8][4] = {}, dv[kColumns / 8][4] = {};
  if (!cursor.is_end()) {
    load_tile<kTileRows, kD>(k_tile, arguments.k.at(tile.key_row, item.head), arguments.k.row_stride, tile.keys,
                             arguments.D);
    load_tile<kTileRows, kD>(v_tile, arguments.v.at(tile.key_row, item.head), arguments.v.row_stride, tile.keys,
                             arguments.D);
    load_step(cursor.step<kStep>(), 0);
  }
  for (int stage = 0; !cursor.is_end();) {
    const Step step = cursor.step<kStep>();
    cursor.advance();
    copy_wait();
    __syncthreads();  // this step's copies are in; and no warp reads the other stage any more
    if (kStages > 1 && !cursor.is_end()) load_step(cursor.step<kStep>(), stage ^ 1);

    // Query c of the step sees the key at distance d = key's position - first query's iff d - right <= c <= d + left:
    // the rule of visibility with its sides exchanged.
    const RowInterval queries{arguments.right, arguments.left, step.rows};
    const std::int32_t distance = step.key_position - step.position;
    const bool is_whole = step.keys == kTileRows && step.rows == kStep && queries.begin(distance + kTileRows - 1) == 0 &&
                          queries.end(distance) == kStep;
#pragma unroll 1
    for (int part = 0; part < kStep; part += kPart) {
      const std::uint32_t q_part = stages + stage * 2 * kStreamBytes + part * 2 * kD, dout_part = q_part + kStreamBytes;
      float p[kPart / 8][4], ds[kPart / 8][4];
      multiply_transposed<E, kD, kPart>(p, k_tile + warp_rows + by_rows, q_part + by_chunks);
      multiply_transposed<E, kD, kPart>(ds, v_tile + warp_rows + by_rows, dout_part + by_chunks);
      const std::uint32_t statistics = statistics_stages + stage * kStatisticsBytes + part * sizeof(float2);
      if (arguments.map.is_capped) {
        differentiate_keys<true, kPart>(p, ds, statistics, lane, arguments.map);
      } else {
        differentiate_keys<false, kPart>(p, ds, statistics, lane, arguments.map);
      }
      if (!is_whole) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = 16 * warp + accumulator_row(lane, 2 * half);
          select_columns<kPart>(p, ds, half, queries.begin(distance + key) - part,
                                (key < step.keys ? queries.end(distance + key) : 0) - part, lane);
        }
      }
      std::uint32_t left[kPart / 16][4];
      pack_left<E, kPart>(left, p);
      multiply_add<E, kD, kPart, kColumns>(dv, left, (dout_part + by_rows) ^ (first_column * 2));
      pack_left<E, kPart>(left, ds);
      multiply_add<E, kD, kPart, kColumns>(dk, left, (q_part + by_rows) ^ (first_column * 2));
    }
    if constexpr (kStages > 1) {
      stage ^= 1;
    } else if (!cursor.is_end()) {
      __syncthreads();  // no warp reads the one stage any more
      load_step(cursor.step<kStep>(), 0);
    }
  }

#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dk[n][i] = __fmul_rn(dk[n][i], arguments.scale);
  }
  // A warp's rows of K and V are read by itself only, and now serve it for the way out.
  const int rows_count = tile.keys - 16 * warp, columns_count = arguments.D - first_column;
  const std::int64_t row = tile.key_row + 16 * warp;
  store_rows<E, kD, kColumns>(dk, k_tile + warp_rows, arguments.dk.at(row, item.head) + first_column,
                              arguments.dk.row_stride, rows_count, columns_count);
  store_rows<E, kD, kColumns>(dv, v_tile + warp_rows, arguments.dv.at(row, item.head) + first_column,
                              arguments.dv.row_stride, rows_count, columns_count);
}

// ---- dq. ----

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
    load_tile<kBlock, kD>(k_tile + kStreamBytes, arguments.v.at(block.row, kv_head), arguments.v.row_stride,
                          block.keys, arguments.D);
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

}  // namespace sm80

std::size_t backward_sm80_scratch_bytes(const FusedAttentionPlan& plan) {
  return static_cast<std::size_t>(plan.shape().H * plan.shape().T) * sizeof(float2);
}

Status backward_sm80(const FusedBackwardCall& call) {
  constexpr const char* kOp = "fused attention, backward";
  const FusedAttentionPlan& plan = call.plan;
  const AttentionShape& shape = plan.shape();
  const sm80::BackwardArguments arguments{
      .q = sm80::rows_of(call.q),
      .k = sm80::rows_of(call.k),
      .v = sm80::rows_of(call.v),
      .out = sm80::rows_of(call.out),
      .dout = sm80::rows_of(call.dout),
      .dq = sm80::rows_of(call.dq),
      .dk = sm80::rows_of(call.dk),
      .dv = sm80::rows_of(call.dv),
      .sinks = static_cast<const float*>(call.sinks.data()),
      .lse_ln = static_cast<const float*>(call.lse_ln.data()),
      .dlse = static_cast<const float*>(call.dlse.data()),
      .dsinks = static_cast<float*>(call.dsinks.data()),
      .statistics = reinterpret_cast<float2*>(call.scratch.data()),
      .forward_tiles = reinterpret_cast<const ForwardTile*>(call.words + plan.forward_tiles.offset),
      .forward_items = reinterpret_cast<const WorkItem*>(call.words + plan.forward_items.offset),
      .key_tiles = reinterpret_cast<const KeyTile*>(call.words + plan.key_tiles.offset),
      .key_visits = reinterpret_cast<const KeyVisit*>(call.words + plan.key_visits.offset),
      .backward_items = reinterpret_cast<const WorkItem*>(call.words + plan.backward_items.offset),
      .T = shape.T,
      .forward_tiles_count = static_cast<int>(plan.forward_tiles.count),
      .heads_per_group = static_cast<int>(shape.H / shape.G),
      .D = static_cast<int>(shape.D),
      .left = plan.window().left,
      .right = plan.window().right,
      .scale = call.params.scale,
      .map = sm80::score_map(call.params),
  };
  const auto forward_items = static_cast<unsigned>(plan.forward_items.count);
  const auto backward_items = static_cast<unsigned>(plan.backward_items.count);
  return sm80::for_element_and_width(call.q.dtype(), shape.D, [&]<class E, int kD>() -> Status {
    TD_CHECK(plan.tiling().forward_rows == sm80::kTileRows && plan.tiling().backward_keys == sm80::kTileRows &&
             plan.tiling().backward_rows == sm80::Cut<kD>::kStreamRows);
    constexpr int kSharedBytes = sm80::Cut<kD>::kSharedBytes;
    TD_TRY(launch(kOp, sm80::fused_attention_statistics_sm80_kernel<E>, {dim3(forward_items), sm80::kThreads, 0},
                  call.stream, arguments));
    if (arguments.dsinks != nullptr) {
      TD_TRY(launch(kOp, sm80::fused_attention_dsinks_sm80_kernel,
                    {dim3(static_cast<unsigned>(shape.H)), sm80::kThreads, 0}, call.stream, arguments));
    }
    TD_TRY(launch(kOp, sm80::fused_attention_dkdv_sm80_kernel<E, kD>,
                  {dim3(backward_items, kD / sm80::Cut<kD>::kKeyColumns), sm80::kThreads, kSharedBytes}, call.stream,
                  arguments));
    return launch(kOp, sm80::fused_attention_dq_sm80_kernel<E, kD>,
                  {dim3(forward_items), sm80::kThreads, kSharedBytes}, call.stream, arguments);
  });
}

}  // namespace tandem::kernels

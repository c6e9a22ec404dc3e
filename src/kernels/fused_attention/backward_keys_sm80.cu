// dk and dv of the portable backward (backward_sm80.cu).
#include <cuda_runtime.h>

#include "base/check.h"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/backward_sm80.cuh"

namespace tandem::kernels::sm80 {

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
    return {now.query_begin + first,
            min(kRows, now.query_count - first),
            now.position + first,
            now.key_position,
            now.keys,
            head_};
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
  constexpr int kPart = Cut<kD>::kKeyPart, kStreamBytes = Cut<kD>::kStreamBytes,
                kStatisticsBytes = Cut<kD>::kStatisticsBytes;
  const std::uint32_t k_tile = shared_address(shared);
  const std::uint32_t v_tile = k_tile + Cut<kD>::kStationaryBytes;
  const std::uint32_t stages = v_tile + Cut<kD>::kStationaryBytes;
  const std::uint32_t statistics_stages = stages + kStages * 2 * kStreamBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t warp_rows = warp * 16 * 2 * kD;
  const std::uint32_t by_rows = lane_offset_by_rows(lane, 2 * kD), by_chunks = lane_offset_by_chunks(lane, 2 * kD);

  const KeyItem item = arguments.backward_items[blockIdx.x];
  const KeyTile tile = arguments.key_tiles[item.tile];
  const int first_column = static_cast<int>(blockIdx.y) * kColumns;
  StepCursor cursor(arguments, tile);

  const auto load_step = [&](const Step& step, int stage) {
    const int head = item.head + step.head;
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
    load_tile<kTileRows, kD>(k_tile, arguments.k.at(tile.key_row, item.kv_head), arguments.k.row_stride, tile.keys,
                             arguments.D);
    load_tile<kTileRows, kD>(v_tile, arguments.v.at(tile.key_row, item.kv_head), arguments.v.row_stride, tile.keys,
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
    const bool is_whole = step.keys == kTileRows && step.rows == kStep &&
                          queries.begin(distance + kTileRows - 1) == 0 && queries.end(distance) == kStep;
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
  store_rows<E, kD, kColumns>(dk, k_tile + warp_rows, arguments.dk.at(row, item.kv_head) + first_column,
                              arguments.dk.row_stride, rows_count, columns_count);
  store_rows<E, kD, kColumns>(dv, v_tile + warp_rows, arguments.dv.at(row, item.kv_head) + first_column,
                              arguments.dv.row_stride, rows_count, columns_count);
}

Status launch_backward_keys(const BackwardArguments& arguments, tensor::DType dtype, device::Stream& stream) {
  return for_element_and_width(dtype, arguments.D, [&]<class E, int kD>() {
    TD_CHECK(arguments.step_rows == Cut<kD>::kStreamRows, arguments.step_rows);
    const dim3 grid(static_cast<unsigned>(arguments.backward_items_count), kD / Cut<kD>::kKeyColumns);
    return launch("fused attention, dk and dv", fused_attention_dkdv_sm80_kernel<E, kD>,
                  {grid, kThreads, Cut<kD>::kSharedBytes}, stream, arguments);
  });
}

}  // namespace tandem::kernels::sm80

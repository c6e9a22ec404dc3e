// Backward of fused attention on any card from compute capability 8.0 (fused_attention.h says what is computed),
// without atomics: every gradient is a sum in one register accumulator, in the plan's order. So it is deterministic
// always.
//
//   statistics   for each head and query {lse in log2, delta = <do, o> - dlse}, into scratch
//   dsinks       a block for each head
//   dk, dv       a block of 4 warps for 64 keys and one kv head; K and V stay in shared memory, Q and dO stream by:
//                  S' = K Q^T, dP' = V dO^T;  P', dS' stay in registers;  dV += P' dO,  dK += dS' Q
//   dq           a block for 64 queries and one head; Q and dO stay, K and V stream by:
//                  S = Q K^T, dP = dO V^T;  dS stays in registers;  dQ += dS K
// Seven products where a backward that adds dq up from the key tiles has five: what is paid for no atomics, no waiting.
//
// What streams by comes 64 rows at a time, and the next are copied while these are worked on; for D > 128, 32 rows and
// no second stage, and two blocks for the halves of dk's and dv's columns (which compute S' and dP' twice), for the
// registers' sake.
//   shared       K, V and the stages of Q, dO (or the other way round): 48, 96, 96 KiB for D = 64, 128, 256, and the
//                statistics
//   regs         dk, dv: 64 a thread for D = 64, else 128; dq: D/2; S and dP: half as many each as rows at a time
//
// A pair that is not visible gets p = ds = 0 by selection, whatever the formulas gave for it. Rows past a segment's end
// are zero in shared memory and never read.
#include <cuda_runtime.h>

#include "base/check.h"
#include "kernels/common/launch.cuh"
#include "kernels/fused_attention/backward_sm80.cuh"

namespace tandem::kernels {
namespace sm80 {

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

}  // namespace sm80

std::size_t backward_sm80_scratch_bytes(const FusedAttentionPlan& plan) {
  return static_cast<std::size_t>(plan.shape().H * plan.shape().T) * sizeof(float2);
}

Status backward_sm80(const FusedBackwardCall& call) {
  const FusedAttentionPlan& plan = call.plan;
  const AttentionShape& shape = plan.shape();
  TD_CHECK(plan.tiling().forward_rows == sm80::kTileRows && plan.tiling().backward_keys == sm80::kTileRows);
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
      .backward_items = reinterpret_cast<const KeyItem*>(call.words + plan.backward_items.offset),
      .forward_tiles_count = static_cast<int>(plan.forward_tiles.count),
      .forward_items_count = static_cast<int>(plan.forward_items.count),
      .backward_items_count = static_cast<int>(plan.backward_items.count),
      .step_rows = plan.tiling().backward_rows,
      .heads_per_group = static_cast<int>(shape.H / shape.G),
      .D = static_cast<int>(shape.D),
      .T = shape.T,
      .left = plan.window().left,
      .right = plan.window().right,
      .scale = call.params.scale,
      .map = sm80::score_map(call.params),
  };
  const tensor::DType dtype = call.q.dtype();
  const auto statistics_kernel = dtype == tensor::DType::kBf16
                                     ? sm80::fused_attention_statistics_sm80_kernel<sm80::Bf16>
                                     : sm80::fused_attention_statistics_sm80_kernel<sm80::F16>;
  TD_TRY(launch("fused attention, statistics", statistics_kernel,
                {dim3(static_cast<unsigned>(plan.forward_items.count)), sm80::kThreads, 0}, call.stream, arguments));
  if (arguments.dsinks != nullptr) {
    TD_TRY(launch("fused attention, dsinks", sm80::fused_attention_dsinks_sm80_kernel,
                  {dim3(static_cast<unsigned>(shape.H)), sm80::kThreads, 0}, call.stream, arguments));
  }
  TD_TRY(sm80::launch_backward_keys(arguments, dtype, call.stream));
  return sm80::launch_backward_queries(arguments, dtype, call.stream);
}

}  // namespace tandem::kernels

// Fused attention forward on Hopper: fused_attention.h says what it computes.
//
//   grid           one block an SM; each takes the plan's next item when it is done with one. Which block computes what
//                  is not fixed, what it computes is.
//   warpgroup 0    one thread: takes items; copies Q (two buffers where they fit), K and V (a ring)
//   warpgroup 1 .. 64 rows each. For each key block j, ascending:
//
//       issue S' = Q K(j+1)^T, then O += P V(j);  wait for S';  softmax of S' while the second product runs
//
//     and, where it helps, in turns: a warpgroup issues its products when the one before has, so that one's softmax
//     runs under another's products (arXiv:2407.08608). A packed accumulator is the next product's A operand, so P
//     never leaves registers.
//
// Budget  D   rows  keys  shared memory                              registers of O + S + P
//         64  192   128   Q 2 x 24 + K, V 2 x 4 x 16 = 176 KiB       32 + 64 + 32
//         64  128   128   Q 2 x 16 + K, V 2 x 4 x 16 = 160 KiB       the same; where less of a tile is wasted (plan.cc)
//         128 128   128   Q 2 x 32 + K, V 2 x 2 x 32 = 192 KiB       64 + 64 + 32
//         256 128   80    Q 64     + K, V 2 x 2 x 40 = 224 KiB       128 + 40 + 20
// Bound   4 D flop a visible pair and head over the tensor cores' rate; one ex2 a pair over 16 a clock and SM.
//         docs/kernels/attention.md has both, and what was measured.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/blocks.cuh"
#include "kernels/fused_attention/forward_sm90.cuh"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/rows_sm90.cuh"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;
using namespace sm90::forward;

constexpr float kLn2 = 0.6931471805599453f;

__device__ __forceinline__ ForwardTile load_tile(const ForwardTile* tile) {
  const int4 a = __ldg(reinterpret_cast<const int4*>(tile)), b = __ldg(reinterpret_cast<const int4*>(tile) + 1);
  return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

constexpr int kItemNotes = 2, kBlockNotes = 8;

template <class C>
struct alignas(16) Barriers {
  BlockNote block[kBlockNotes];  // more than stages: read after the stage's K may have been given back
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t q_full[C::kQBuffers], q_empty[C::kQBuffers];
  std::uint64_t k_full[C::kStages], k_empty[C::kStages], v_full[C::kStages], v_empty[C::kStages];
};

template <class C>
__device__ __forceinline__ void produce(const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const ForwardArguments& args, std::uint32_t shared, Barriers<C>& barriers) {
  const std::uint32_t ks = shared + C::kQBuffers * C::kQBytes, vs = ks + C::kStages * C::kKvBytes;
  RingPlace<C::kQBuffers> q_place;
  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<kBlockNotes> note_place;
  int index = static_cast<int>(blockIdx.x);
  // The next item is taken when this one's last load is under way. Earlier, a block with much to do would hold what
  // others could begin.
  for (;; index = static_cast<int>(gridDim.x) + atomicAdd(args.taken, 1)) {
    barrier_wait(&barriers.item_empty[item_place.index()], item_place.parity() ^ 1);
    ItemNote& note = barriers.item[item_place.index()];
    if (index >= args.items_count) {
      note.state = ItemNote::kEnd;
      barrier_arrive(&barriers.item_full[item_place.index()]);
      break;
    }
    const WorkItem item = args.items[index];
    const ForwardTile tile = load_tile(args.tiles + item.tile);
    TileBlocks<C::kKeys> blocks(tile, args.left, args.right);
    const bool sees_some = !blocks.done();
    note = {tile.query_row, tile.rows,
            tile.position,  tile.prefix_count + tile.key_count,
            item.head,      sees_some ? ItemNote::kBlocks : ItemNote::kNoBlocks};
    barrier_arrive(&barriers.item_full[item_place.index()]);
    item_place.advance();
    if (!sees_some) continue;
    const int g = item.head / args.heads_per_group;
    barrier_wait(&barriers.q_empty[q_place.index()], q_place.parity() ^ 1);
    barrier_expect_bytes(&barriers.q_full[q_place.index()], C::kQBytes);
#pragma unroll
    for (int c = 0; c < C::kD / 64; ++c) {
      load_box(shared + q_place.index() * C::kQBytes + c * C::kRows * 128, q_map, &barriers.q_full[q_place.index()],
               c * 64, tile.query_row, item.head);
    }
    while (!blocks.done()) {
      const int row = blocks.row();
      BlockNote block{blocks.position(), blocks.keys(), blocks.is_whole(), 0};
      blocks.advance();
      block.is_last = blocks.done();
      barrier_wait(&barriers.k_empty[place.index()], place.parity() ^ 1);
      barriers.block[note_place.index()] = block;
      note_place.advance();
      barrier_expect_bytes(&barriers.k_full[place.index()], C::kKvBytes);
#pragma unroll
      for (int c = 0; c < C::kD / 64; ++c) {
        load_box(ks + place.index() * C::kKvBytes + c * C::kKeys * 128, k_map, &barriers.k_full[place.index()], c * 64,
                 row, g);
      }
      barrier_wait(&barriers.v_empty[place.index()], place.parity() ^ 1);
      barrier_expect_bytes(&barriers.v_full[place.index()], C::kKvBytes);
#pragma unroll
      for (int c = 0; c < C::kD / 64; ++c) {
        load_box(vs + place.index() * C::kKvBytes + c * C::kKeys * 128, v_map, &barriers.v_full[place.index()], c * 64,
                 row, g);
      }
      place.advance();
    }
    q_place.advance();
  }
}

// Values of keys that are not the range's could be anything; p = 0 does not silence NaN.
template <class C>
__device__ __forceinline__ void zero_values(std::byte* tile, int keys, int barrier) {
  const int thread = threadIdx.x % 128;
#pragma unroll
  for (int c = 0; c < C::kD / 64; ++c) {
    for (int at = keys * 128 + thread * 16; at < C::kKeys * 128; at += 128 * 16) {
      *reinterpret_cast<uint4*>(tile + c * C::kKeys * 128 + at) = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_shared();
  named_sync(barrier, 128);
}

template <class C, class Half>
__device__ __forceinline__ void consume(const ForwardArguments& args, std::byte* shared, Barriers<C>& barriers) {
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool is_elected = thread == 0;
  const int turn = 1 + warpgroup, next_turn = 1 + (warpgroup + 1) % C::kWarpgroups,
            own = 1 + C::kWarpgroups + warpgroup;
  std::byte* const ks = shared + C::kQBuffers * C::kQBytes;
  std::byte* const vs = ks + C::kStages * C::kKvBytes;
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  if (C::kTurns && warpgroup == C::kWarpgroups - 1) named_arrive(1, 256);

  RingPlace<C::kQBuffers> q_place;
  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<kBlockNotes> note_place;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    const int row = warpgroup * 64 + warp * 16 + lane / 4;  // of the tile; and row + 8
    if (item.state == ItemNote::kNoBlocks) {
      write_nothing_seen<Half>(args, item, warpgroup * 64 + warp * 16);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    Rows<C, Half> rows;
    rows.begin();
    const auto softmax = [&](const BlockNote& b, float(&fade)[2]) {
      if (args.softcap > 0.0f) rows.cap(args.scale / args.softcap, args.softcap);
      if (!b.is_whole) {
        const RowInterval interval{args.left, args.right, item.context};
        int begin[2], end[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int position = item.position + row + 8 * r;
          begin[r] = interval.begin(position) - b.position;
          end[r] = min(interval.end(position) - b.position, b.keys);
        }
        rows.mask(begin, end);
      }
      rows.exponentiate(scale_log2, fade);
    };
    std::byte* const q_tile = shared + q_place.index() * C::kQBytes + warpgroup * 64 * 128;
    const std::uint64_t q = operand(q_tile, 16);
    const std::uint64_t k = operand(ks, 16), v = operand(vs, C::kKeys * 128);
    float fade[2];
    barrier_wait(&barriers.q_full[q_place.index()], q_place.parity());
    barrier_wait(&barriers.k_full[place.index()], place.parity());
    BlockNote b = barriers.block[note_place.index()];
    note_place.advance();
    rows.issue_scores(q, operand_at(k, place.index() * C::kKvBytes));
    product_wait<0>();
    product_touch(rows.scores);
    if (is_elected) barrier_arrive(&barriers.k_empty[place.index()]);
    if (!C::kWritesThroughQ && b.is_last && lane == 0) barrier_arrive(&barriers.q_empty[q_place.index()]);
    softmax(b, fade);
    rows.pack_p();
    int accumulate = 0;
    while (!b.is_last) {
      const RingPlace<C::kStages> last = place;
      const int last_keys = b.keys;
      place.advance();
      barrier_wait(&barriers.k_full[place.index()], place.parity());
      b = barriers.block[note_place.index()];
      note_place.advance();
      if constexpr (C::kTurns) named_sync(turn, 256);
      rows.issue_scores(q, operand_at(k, place.index() * C::kKvBytes));
      barrier_wait(&barriers.v_full[last.index()], last.parity());
      if (last_keys < C::kKeys) zero_values<C>(vs + last.index() * C::kKvBytes, last_keys, own);
      rows.issue_sums(operand_at(v, last.index() * C::kKvBytes), accumulate);
      accumulate = 1;
      if constexpr (C::kTurns) named_arrive(next_turn, 256);
      product_wait<1>();
      product_touch(rows.scores);
      if (is_elected) barrier_arrive(&barriers.k_empty[place.index()]);
      if (!C::kWritesThroughQ && b.is_last && lane == 0) barrier_arrive(&barriers.q_empty[q_place.index()]);
      softmax(b, fade);
      product_wait<0>();
      product_touch(rows.sums);
      if (is_elected) barrier_arrive(&barriers.v_empty[last.index()]);
      rows.fade_sums(fade);
      rows.pack_p();
    }
    barrier_wait(&barriers.v_full[place.index()], place.parity());
    if (b.keys < C::kKeys) zero_values<C>(vs + place.index() * C::kKvBytes, b.keys, own);
    rows.issue_sums(operand_at(v, place.index() * C::kKvBytes), accumulate);
    product_wait<0>();
    product_touch(rows.sums);
    if (is_elected) barrier_arrive(&barriers.v_empty[place.index()]);
    place.advance();

    // o = sums / total, the sink joining the total last; a row that sees nothing is zero.
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowEnd end = rows.end(r, scale_log2, args.sinks != nullptr ? args.sinks + item.head : nullptr);
      inverse[r] = end.inverse;
      const int of_tile = row + 8 * r;
      if (args.lse != nullptr && lane % 4 == 0 && of_tile < item.rows) {
        args.lse[item.head * args.lse_head_stride + item.query_row + of_tile] =
            end.total == 0.0f ? -INFINITY : (end.max_log2 + log2_approx(end.total)) * kLn2;
      }
    }

    if constexpr (C::kWritesThroughQ) {
      write_through<C, Half>(q_tile, own, args, item, warpgroup, rows.sums, inverse);
    } else {
      write_from_registers<C, Half>(args, item, row, rows.sums, inverse);
    }
    __syncwarp();
    if (lane == 0) {
      if (C::kWritesThroughQ) barrier_arrive(&barriers.q_empty[q_place.index()]);
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
    q_place.advance();
  }
}

template <class C, class Half>
__global__ __launch_bounds__(C::kThreads,
                             1) void fused_attention_forward_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                         const __grid_constant__ CUtensorMap k_map,
                                                                         const __grid_constant__ CUtensorMap v_map,
                                                                         const ForwardArguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers<C> barriers;
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    for (int i = 0; i < C::kQBuffers; ++i) {
      barrier_init(&barriers.q_full[i], 1);
      barrier_init(&barriers.q_empty[i], 4 * C::kWarpgroups);
    }
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.k_full[i], 1);
      barrier_init(&barriers.v_full[i], 1);
      barrier_init(&barriers.k_empty[i], C::kWarpgroups);
      barrier_init(&barriers.v_empty[i], C::kWarpgroups);
    }
    for (int i = 0; i < kItemNotes; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], 4 * C::kWarpgroups);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_give_back<C::kProducerRegisters>();
    if (threadIdx.x == 0) produce<C>(&q_map, &k_map, &v_map, args, shared_address(shared), barriers);
  } else {
    registers_take<C::kConsumerRegisters>();
    consume<C, Half>(args, shared, barriers);
  }
}

template <class C, class Half>
Status launch(const FusedForwardCall& call) {
  const FusedAttentionPlan& plan = call.plan;
  const AttentionTiling& tiling = plan.tiling();
  TD_CHECK(tiling.forward_rows == C::kRows && tiling.key_block == C::kKeys, tiling.forward_rows, tiling.key_block);
  const auto kernel = fused_attention_forward_sm90_kernel<C, Half>;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  const CUtensorMap q_map = TD_TRY(make_row_map(call.q, C::kRows));
  const CUtensorMap k_map = TD_TRY(make_row_map(call.k, C::kKeys));
  const CUtensorMap v_map = TD_TRY(make_row_map(call.v, C::kKeys));
  const ForwardArguments args{
      .tiles = reinterpret_cast<const ForwardTile*>(call.words + plan.forward_tiles.offset),
      .items = reinterpret_cast<const WorkItem*>(call.words + plan.forward_items.offset),
      .items_count = static_cast<int>(plan.forward_items.count),
      .taken = reinterpret_cast<int*>(call.scratch.data()),
      .left = plan.window().left,
      .right = plan.window().right,
      .heads_per_group = static_cast<int>(plan.shape().H / plan.shape().G),
      .scale = call.params.scale,
      .softcap = call.params.softcap,
      .sinks = call.sinks ? call.sinks.as<const float>() : nullptr,
      .out = call.out.data(),
      .out_row_stride = call.out.stride(0),
      .out_head_stride = call.out.stride(1),
      .lse = call.lse_ln ? call.lse_ln.as<float>() : nullptr,
      .lse_head_stride = plan.shape().T,
      .D = static_cast<int>(plan.shape().D),
  };
  cudaMemsetAsync(args.taken, 0, sizeof(int), call.stream.cuda());
  const int grid = std::min(multiprocessors, args.items_count);
  kernel<<<grid, C::kThreads, C::kSharedBytes, call.stream.cuda()>>>(q_map, k_map, v_map, args);
  return launch_status("fused attention forward");
}

template <class Half>
Status launch_for(const FusedForwardCall& call) {
  const std::int64_t D = call.plan.shape().D;
  if (D <= 64 && call.plan.tiling().forward_rows == 192) return launch<Config<64, 3>, Half>(call);
  if (D <= 64) return launch<Config<64, 2>, Half>(call);
  if (D <= 128) return launch<Config<128, 2>, Half>(call);
  return launch<Config<256, 2>, Half>(call);
}

}  // namespace

Status forward_sm90(const FusedForwardCall& call) {
  if (call.plan.forward_items.count == 0) return ok_status();
  const OnDevice on(call.stream.device());
  return call.q.dtype() == tensor::DType::kBf16 ? launch_for<__nv_bfloat16>(call) : launch_for<__half>(call);
}

}  // namespace tandem::kernels

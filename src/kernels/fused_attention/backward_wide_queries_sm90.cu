// dq on Hopper for head dims above 128: a part of backward_wide_sm90.cu.
//
//   grid           one block an SM, persistent; an item is 128 query rows of one head, Q and dO in shared memory, while
//                  blocks of 64 keys stream past, ascending
//   warpgroup 0    one thread: takes items; copies Q, dO, and for each block K (a ring of two) and V
//   warpgroup 1, 2 64 rows each. A block:
//
//       S = Q K^T;  dP = dO V^T;  P = 2^(S c - lse);  dS = P (dP - delta);  dQ += dS K
//
//     The next S is issued behind dQ, the next dP behind both; P is worked out while dP runs. Packed dS is the A
//     operand of dQ.
//
// Budget  shared memory  Q, dO 2 x 64 + K 2 x 32 + V 32 = 224 KiB
//         registers      dQ, S, dP, dS: 128 + 32 + 32 + 16
// Bound   a block's three products: 3072 clocks of the tensor cores. They read 320 KiB of shared memory and the copies
//         write 64, at 128 bytes a clock as many clocks.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/launch.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/backward_wide_sm90.cuh"
#include "kernels/fused_attention/blocks.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;
using namespace sm90::wide;

constexpr int kRows = 128;  // two warpgroups'
constexpr int kStages = 2;  // of K
constexpr int kRowsBytes = kRows * kD * 2;
constexpr int kQ = 0, kDo = kQ + kRowsBytes, kK = kDo + kRowsBytes, kV = kK + kStages * kTileBytes;
constexpr int kSharedBytes = kV + kTileBytes + 1024;  // and to align
static_assert(kSharedBytes <= 226 * 1024);

struct QueriesArguments {
  const ForwardTile* tiles;
  const WorkItem* items;
  int items_count;
  int* taken;  // items taken so far, beyond the first one of each block
  int steps_count;
  int left, right;
  int heads_per_group;
  float scale, softcap;
  const float* lse;    // [H,steps,kStepRows], BackwardRows
  const float* delta;  // the same
  void* dq;
  std::int64_t dq_row_stride, dq_head_stride;
  int D;
};

struct ItemNote {
  int query_row, rows, position, context, head;
  int step;   // of the first row
  int state;  // kBlocks, kNoBlocks (no row sees a key), kEnd
  static constexpr int kBlocks = 0, kNoBlocks = 1, kEnd = 2;
};
struct alignas(16) BlockNote {
  int position, keys;  // of the block's first key; keys that are the range's
  int is_whole, is_last;
};

constexpr int kItemNotes = 2;

struct alignas(16) Barriers {
  BlockNote block[kStages];  // with a place of K; read before that is given back
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t q_full, q_empty, do_full, do_empty;
  std::uint64_t k_full[kStages], k_empty[kStages], v_full, v_empty;
};

__device__ __forceinline__ void produce(const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const CUtensorMap* do_map, const QueriesArguments& args, std::uint32_t shared,
                                        Barriers& barriers) {
  RingPlace<1> row_place, v_place;
  RingPlace<kStages> k_place;
  RingPlace<kItemNotes> item_place;
  int index = static_cast<int>(blockIdx.x);
  // The next item is taken when this one's last load is under way: earlier, it would keep others from beginning it.
  for (;; index = static_cast<int>(gridDim.x) + atomicAdd(args.taken, 1)) {
    barrier_wait(&barriers.item_empty[item_place.index()], item_place.parity() ^ 1);
    ItemNote& note = barriers.item[item_place.index()];
    if (index >= args.items_count) {
      note.state = ItemNote::kEnd;
      barrier_arrive(&barriers.item_full[item_place.index()]);
      break;
    }
    const WorkItem item = args.items[index];
    const ForwardTile tile = args.tiles[item.tile];
    TileBlocks<kKeys> blocks(tile, args.left, args.right);
    const bool sees_some = !blocks.done();
    note = {tile.query_row,
            tile.rows,
            tile.position,
            tile.prefix_count + tile.key_count,
            item.head,
            tile.step,
            sees_some ? ItemNote::kBlocks : ItemNote::kNoBlocks};
    barrier_arrive(&barriers.item_full[item_place.index()]);
    item_place.advance();
    if (!sees_some) continue;
    const int g = item.head / args.heads_per_group;
    // In the order in which the last item gives room: dO, K, V, and Q last, through which its dq is written.
    barrier_wait(&barriers.do_empty, row_place.parity() ^ 1);
    barrier_expect_bytes(&barriers.do_full, kRowsBytes);
    load_rows<kRows>(shared + kDo, do_map, &barriers.do_full, tile.query_row, item.head);
    bool is_first = true;
    while (!blocks.done()) {
      const int row = blocks.row();
      BlockNote block{blocks.position(), blocks.keys(), blocks.is_whole(), 0};
      blocks.advance();
      block.is_last = blocks.done();
      barrier_wait(&barriers.k_empty[k_place.index()], k_place.parity() ^ 1);
      barriers.block[k_place.index()] = block;
      barrier_expect_bytes(&barriers.k_full[k_place.index()], kTileBytes);
      load_rows<kKeys>(shared + kK + k_place.index() * kTileBytes, k_map, &barriers.k_full[k_place.index()], row, g);
      k_place.advance();
      barrier_wait(&barriers.v_empty, v_place.parity() ^ 1);
      barrier_expect_bytes(&barriers.v_full, kTileBytes);
      load_rows<kKeys>(shared + kV, v_map, &barriers.v_full, row, g);
      v_place.advance();
      if (is_first) {
        is_first = false;
        barrier_wait(&barriers.q_empty, row_place.parity() ^ 1);
        barrier_expect_bytes(&barriers.q_full, kRowsBytes);
        load_rows<kRows>(shared + kQ, q_map, &barriers.q_full, tile.query_row, item.head);
      }
    }
    row_place.advance();
  }
}

template <class Half>
__device__ __forceinline__ void sum_queries(const QueriesArguments& args, std::byte* shared, Barriers& barriers) {
  // By a shuffle, so that the compiler knows it to be the same in all lanes, and keeps operands in uniform registers.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1, own = 1 + warpgroup;
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  const int row = warp * 16 + lane / 4;  // of the warpgroup's; and row + 8
  std::byte* const q_rows = shared + kQ + warpgroup * 64 * 128;
  const std::uint64_t q = operand(q_rows, 16), dout = operand(shared + kDo + warpgroup * 64 * 128, 16);
  const std::uint64_t k = operand(shared + kK, 16), k_columns = operand(shared + kK, kKeys * 128);
  const std::uint64_t v = operand(shared + kV, 16);

  RingPlace<1> row_place, v_place;
  RingPlace<kStages> k_place;
  RingPlace<kItemNotes> item_place;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    const int rows = item.rows - warpgroup * 64;  // that exist of the warpgroup's
    Half* const to = static_cast<Half*>(args.dq) +
                     (static_cast<std::int64_t>(item.query_row) + warpgroup * 64) * args.dq_row_stride +
                     item.head * args.dq_head_stride;
    if (item.state == ItemNote::kNoBlocks) {
      write_zero_rows(to, args.dq_row_stride, warp * 16, rows, args.D);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    float lse[2], delta[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t at =
          (static_cast<std::int64_t>(item.head) * args.steps_count + item.step + warpgroup) * kStepRows + row + 8 * r;
      const bool exists = row + 8 * r < rows;
      lse[r] = exists ? args.lse[at] : INFINITY;
      delta[r] = exists ? args.delta[at] : 0.0f;
    }
    float dq[kD / 2];
    {
      float s[kKeys / 2];
      // The next block, whose K is at k_place: its note, and its S under way.
      const auto begin_block = [&] {
        barrier_wait(&barriers.k_full[k_place.index()], k_place.parity());
        const BlockNote block = barriers.block[k_place.index()];
        if (block.keys < kKeys) zero_tail(shared + kK + k_place.index() * kTileBytes, block.keys, own);
        issue_scores<Half, kRows, kKeys>(s, q, operand_at(k, k_place.index() * kTileBytes));
        return block;
      };
      barrier_wait(&barriers.q_full, row_place.parity());
      BlockNote block = begin_block();
      barrier_wait(&barriers.do_full, row_place.parity());
      int accumulate = 0;
      for (;;) {
        float dp[kKeys / 2];
        std::uint32_t ds[kKeys / 16][4];
        product_wait<1>();  // the last block's dQ
        product_touch(dq);
        if (accumulate != 0) {
          __syncwarp();  // all lanes have read that block's note
          if (lane == 0) barrier_arrive(&barriers.k_empty[k_place.index() ^ 1]);
        }
        barrier_wait(&barriers.v_full, v_place.parity());
        v_place.advance();
        if (block.keys < kKeys) zero_tail(shared + kV, block.keys, own);
        issue_scores<Half, kRows, kKeys>(dp, dout, v);
        product_wait<1>();  // S
        product_touch(s);

        if (args.softcap > 0.0f) cap_scores(s, args.scale / args.softcap, args.softcap);
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) s[i] = exp2_approx(__fmaf_rn(s[i], scale_log2, -lse[i / 2 % 2]));
        if (!block.is_whole) {
          const RowInterval interval{args.left, args.right, item.context};
          const int column = 2 * (lane % 4);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const int position = item.position + warpgroup * 64 + row + 8 * r;
            const int begin = interval.begin(position) - block.position;
            const int end = min(interval.end(position) - block.position, block.keys);
#pragma unroll
            for (int i = 0; i < kKeys / 4; ++i) {
              const int c = column + 8 * (i / 2) + i % 2;
              if (c < begin || c >= end) s[4 * (i / 2) + 2 * r + i % 2] = 0.0f;
            }
          }
        }
        product_wait<0>();  // dP
        product_touch(dp);
        if (lane == 0) barrier_arrive(&barriers.v_empty);
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i) {  // 8 keys at a time
          float* const x = dp + 4 * i;
#pragma unroll
          for (int j = 0; j < 4; ++j) x[j] = s[4 * i + j] * (x[j] - delta[j / 2]);
          if (args.softcap > 0.0f) {
            const float inverse = 1.0f / (args.softcap * kLog2E);
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] = through_cap(x[j], s[4 * i + j], lse[j / 2], inverse);
          }
          ds[i / 2][2 * (i % 2)] = pack<Half>(x[0], x[1]);
          ds[i / 2][2 * (i % 2) + 1] = pack<Half>(x[2], x[3]);
        }
        issue_sums<Half>(dq, ds, operand_at(k_columns, k_place.index() * kTileBytes), accumulate);
        accumulate = 1;
        k_place.advance();
        if (block.is_last) break;
        block = begin_block();
      }
      if (lane == 0) barrier_arrive(&barriers.do_empty);
      product_wait<0>();
      product_touch(dq);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.k_empty[k_place.index() ^ 1]);
      row_place.advance();
    }
    __syncwarp();
    named_sync(own, 128);  // these rows of Q are read by nobody any more
    write_rows<kD, kRows>(dq, args.scale, q_rows, to, args.dq_row_stride, rows, args.D);
    fence_async_shared();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&barriers.q_empty);
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
  }
}

template <class Half>
__global__ __launch_bounds__(kThreads, 1) void fused_attention_backward_wide_queries_sm90_kernel(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
    const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap do_map,
    const QueriesArguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers barriers;
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    prefetch_map(&do_map);
    // "Full" counts the copying thread, "empty" the eight warps that compute.
    const auto init = [](std::uint64_t& full, std::uint64_t& empty) {
      barrier_init(&full, 1);
      barrier_init(&empty, 8);
    };
    for (int i = 0; i < kItemNotes; ++i) init(barriers.item_full[i], barriers.item_empty[i]);
    for (int i = 0; i < kStages; ++i) init(barriers.k_full[i], barriers.k_empty[i]);
    init(barriers.q_full, barriers.q_empty);
    init(barriers.do_full, barriers.do_empty);
    init(barriers.v_full, barriers.v_empty);
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_give_back<kProducerRegisters>();
    if (threadIdx.x == 0) produce(&q_map, &k_map, &v_map, &do_map, args, shared_address(shared), barriers);
  } else {
    registers_take<kConsumerRegisters>();
    sum_queries<Half>(args, shared, barriers);
  }
}

template <class Half>
Status launch_queries(const FusedBackwardCall& call, const BackwardRows& rows, int* taken) {
  const FusedAttentionPlan& plan = call.plan;
  const auto kernel = fused_attention_backward_wide_queries_sm90_kernel<Half>;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
  const CUtensorMap q_map = TD_TRY(make_row_map(call.q, kRows)), do_map = TD_TRY(make_row_map(call.dout, kRows));
  // Without keys nobody sees any, and these are not read.
  const bool has_keys = plan.shape().S > 0;
  const CUtensorMap k_map = has_keys ? TD_TRY(make_row_map(call.k, kKeys)) : q_map;
  const CUtensorMap v_map = has_keys ? TD_TRY(make_row_map(call.v, kKeys)) : q_map;
  const QueriesArguments args{
      .tiles = reinterpret_cast<const ForwardTile*>(call.words + plan.forward_tiles.offset),
      .items = reinterpret_cast<const WorkItem*>(call.words + plan.forward_items.offset),
      .items_count = static_cast<int>(plan.forward_items.count),
      .taken = taken,
      .steps_count = static_cast<int>(plan.steps_count),
      .left = plan.window().left,
      .right = plan.window().right,
      .heads_per_group = static_cast<int>(plan.shape().H / plan.shape().G),
      .scale = call.params.scale,
      .softcap = call.params.softcap,
      .lse = rows.lse,
      .delta = rows.delta,
      .dq = call.dq.data(),
      .dq_row_stride = call.dq.stride(0),
      .dq_head_stride = call.dq.stride(1),
      .D = static_cast<int>(plan.shape().D),
  };
  const dim3 grid(static_cast<unsigned>(std::min(multiprocessors, args.items_count)));
  return launch("fused attention backward, queries", kernel, {grid, kThreads, kSharedBytes}, call.stream, q_map, k_map,
                v_map, do_map, args);
}

}  // namespace

Status backward_wide_queries_sm90(const FusedBackwardCall& call, const BackwardRows& rows, int* taken) {
  const AttentionTiling& tiling = call.plan.tiling();
  TD_CHECK(tiling.forward_rows == kRows && tiling.backward_rows == kStepRows, tiling.forward_rows,
           tiling.backward_rows);
  if (call.plan.forward_items.count == 0) return ok_status();
  return call.q.dtype() == tensor::DType::kBf16 ? launch_queries<__nv_bfloat16>(call, rows, taken)
                                                : launch_queries<__half>(call, rows, taken);
}

}  // namespace tandem::kernels

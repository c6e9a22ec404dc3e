// dk and dv on Hopper for head dims above 128: a part of backward_wide_sm90.cu.
//
//   grid: one block an SM, persistent; an item is 64 keys of one kv head, in shared memory, while steps of 64 query
//   rows stream past
//   warpgroup 0, one thread: takes items; copies K, V, and for each step Q, dO, lse, delta (a ring of two)
//   warpgroup 1: S^T = K Q^T;   P^T = 2^(S^T c - lse), in f32 to shared memory;   dV += P^T dO
//   warpgroup 2: dP^T = V dO^T;   dS^T = P^T (dP^T - delta), P^T from there;      dK += dS^T Q
//     Each issues its next step's first product behind its sum, and works on the result while the other multiplies.
//     Packed accumulators are the A operands of the sums.
//
// Budget  shared memory  K, V 2 x 32 + Q, dO 2 x 2 x 32 + P 2 x 16 = 224 KiB, and lse, delta
//         registers      dV, S, P: 128 + 32 + 16; dK, dP, dS the same
// Bound   a step's four products: 2048 clocks of the tensor cores. They read 192 KiB of shared memory, the copies write
//         64, P^T passes twice: 288 KiB at 128 bytes a clock, 2304 clocks.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/backward_wide_sm90.cuh"
#include "kernels/fused_attention/interval.h"

namespace tandem::kernels {
namespace {

using namespace sm90;
using namespace sm90::wide;

constexpr int kStages = 2;
constexpr int kPBytes = kKeys * kStepRows * 4, kRowBytes = kStepRows * 4;
constexpr int kK = 0, kV = kK + kTileBytes, kQ = kV + kTileBytes, kDo = kQ + kStages * kTileBytes;
constexpr int kP = kDo + kStages * kTileBytes, kLse = kP + kStages * kPBytes, kDelta = kLse + kStages * kRowBytes;
constexpr int kSharedBytes = kDelta + kStages * kRowBytes + 1024;  // and to align
static_assert(kSharedBytes <= 226 * 1024);

struct KeysArguments {
  const KeyTile* tiles;
  const KeyVisit* visits;
  const KeyItem* items;
  int items_count;
  int* taken;  // items taken so far, beyond the first one of each block
  int steps_count;
  int left, right;
  float scale, softcap;
  const float* lse;    // [H,steps,kStepRows], BackwardRows
  const float* delta;  // the same
  void *dk, *dv;
  std::int64_t dk_row_stride, dk_head_stride, dv_row_stride, dv_head_stride;
  int D;
};

struct ItemNote {
  int key_row, keys, head, steps;
  int state;  // kSteps, kNoSteps (nobody sees these keys), kEnd
  static constexpr int kSteps = 0, kNoSteps = 1, kEnd = 2;
};
struct alignas(16) StepNote {
  int position, rows;      // of the step's first query; rows that exist
  int key_position, keys;  // of the tile's first key in this segment's context; keys that are its
  int is_whole;            // every row sees every key
};

constexpr int kItemNotes = 2;

struct alignas(16) Barriers {
  KeyVisit visit;          // that the thread which copies is at
  StepNote step[kStages];  // with a place of Q; read before that is given back
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t k_full, k_empty, v_full, v_empty;
  std::uint64_t q_full[kStages], q_empty[kStages], do_full[kStages], do_empty[kStages];
};

// Named barriers: each warpgroup's own; P written and read, for each stage.
constexpr int kOwnOfValues = 1, kOwnOfKeys = 2, kPFull = 3, kPEmpty = 5;

__device__ __forceinline__ void produce(const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const CUtensorMap* do_map, const KeysArguments& args, std::uint32_t shared,
                                        Barriers& barriers) {
  RingPlace<kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<1> kv_place;
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
    const KeyItem item = args.items[index];
    const KeyTile tile = args.tiles[item.tile];
    const bool has_steps = tile.visit_begin < tile.visit_end;
    note = {tile.key_row, tile.keys, item.kv_head, tile.steps * item.heads,
            has_steps ? ItemNote::kSteps : ItemNote::kNoSteps};
    barrier_arrive(&barriers.item_full[item_place.index()]);
    item_place.advance();
    if (!has_steps) continue;
    bool is_first = true;
    for (int i = tile.visit_begin; i < tile.visit_end; ++i) {
      copy_visit(args.visits + i, &barriers.visit);
      const volatile KeyVisit& visit = barriers.visit;
      for (int h = item.head; h < item.head + item.heads; ++h) {
        for (int step = visit.step_end - 1; step >= visit.step_begin; --step) {
          const int position = visit.position + step * kStepRows;
          const int rows = min(kStepRows, visit.query_count - step * kStepRows);
          const int row = visit.query_begin + step * kStepRows;
          const std::int64_t of_rows =
              (static_cast<std::int64_t>(h) * args.steps_count + visit.step_base + step) * kStepRows;
          barrier_wait(&barriers.q_empty[place.index()], place.parity() ^ 1);
          const RowInterval interval{args.left, args.right, visit.context};
          StepNote& of_step = barriers.step[place.index()];
          of_step.position = position, of_step.rows = rows;
          of_step.key_position = visit.key_position, of_step.keys = visit.keys;
          of_step.is_whole = rows == kStepRows && visit.keys == kKeys &&
                             interval.begin(position + kStepRows - 1) <= visit.key_position &&
                             visit.key_position + kKeys <= interval.end(position);
          barrier_expect_bytes(&barriers.q_full[place.index()], kTileBytes + kRowBytes);
          load_rows<kStepRows>(shared + kQ + place.index() * kTileBytes, q_map, &barriers.q_full[place.index()], row,
                               h);
          fence_async_shared();  // the last lse there have been read by ordinary loads; delta below
          load_bytes(shared + kLse + place.index() * kRowBytes, args.lse + of_rows, kRowBytes,
                     &barriers.q_full[place.index()]);
          if (is_first) {  // after the first Q, which had not to wait for the last item's end
            is_first = false;
            barrier_wait(&barriers.k_empty, kv_place.parity() ^ 1);
            barrier_expect_bytes(&barriers.k_full, kTileBytes);
            load_rows<kKeys>(shared + kK, k_map, &barriers.k_full, tile.key_row, item.kv_head);
            barrier_wait(&barriers.v_empty, kv_place.parity() ^ 1);
            barrier_expect_bytes(&barriers.v_full, kTileBytes);
            load_rows<kKeys>(shared + kV, v_map, &barriers.v_full, tile.key_row, item.kv_head);
            kv_place.advance();
          }
          barrier_wait(&barriers.do_empty[place.index()], place.parity() ^ 1);
          barrier_expect_bytes(&barriers.do_full[place.index()], kTileBytes + kRowBytes);
          load_rows<kStepRows>(shared + kDo + place.index() * kTileBytes, do_map, &barriers.do_full[place.index()], row,
                               h);
          fence_async_shared();
          load_bytes(shared + kDelta + place.index() * kRowBytes, args.delta + of_rows, kRowBytes,
                     &barriers.do_full[place.index()]);
          place.advance();
        }
      }
    }
  }
}

// S^T, P^T and dV.
template <class Half>
__device__ __forceinline__ void sum_values(const KeysArguments& args, std::byte* shared, Barriers& barriers) {
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  const int key = warp * 16 + lane / 4;  // of the tile; and key + 8
  const int column = 2 * (lane % 4);     // of every 8 queries; and the next
  const std::uint64_t k = operand(shared + kK, 16), q = operand(shared + kQ, 16);
  const std::uint64_t dout = operand(shared + kDo, kStepRows * 128);

  RingPlace<kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<1> k_place;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    Half* const to = static_cast<Half*>(args.dv) + item.key_row * args.dv_row_stride + item.head * args.dv_head_stride;
    if (item.state == ItemNote::kNoSteps) {
      write_zero_rows(to, args.dv_row_stride, warp * 16, item.keys, args.D);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    float dv[kD / 2];
    barrier_wait(&barriers.k_full, k_place.parity());
    k_place.advance();
    if (item.keys < kKeys) zero_tail(shared + kK, item.keys, kOwnOfValues);
    int accumulate = 0;
    for (int steps = item.steps; steps > 0; --steps) {
      float s[kStepRows / 2];
      std::uint32_t p[kStepRows / 16][4];
      const int stage = place.index();
      barrier_wait(&barriers.q_full[stage], place.parity());
      const StepNote note = barriers.step[stage];
      issue_scores<Half, kKeys, kStepRows>(s, k, operand_at(q, stage * kTileBytes));
      product_wait<1>();  // the last step's dV
      product_touch(dv);
      if (accumulate != 0 && lane == 0) barrier_arrive(&barriers.do_empty[stage ^ 1]);
      product_wait<0>();
      product_touch(s);

      const float* const lse = reinterpret_cast<const float*>(shared + kLse) + stage * kStepRows + column;
      if (args.softcap > 0.0f) cap_scores(s, args.scale / args.softcap, args.softcap);
#pragma unroll
      for (int j = 0; j < kStepRows / 8; ++j) {
        const float2 shift = *reinterpret_cast<const float2*>(lse + 8 * j);
        s[4 * j] = exp2_approx(__fmaf_rn(s[4 * j], scale_log2, -shift.x));
        s[4 * j + 1] = exp2_approx(__fmaf_rn(s[4 * j + 1], scale_log2, -shift.y));
        s[4 * j + 2] = exp2_approx(__fmaf_rn(s[4 * j + 2], scale_log2, -shift.x));
        s[4 * j + 3] = exp2_approx(__fmaf_rn(s[4 * j + 3], scale_log2, -shift.y));
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.q_empty[stage]);
      if (!note.is_whole) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int offset = note.key_position + key + 8 * r - note.position;  // the key's own query's column
          const int begin = offset - args.right;
          const int end = key + 8 * r < note.keys ? min(offset + args.left + 1, note.rows) : 0;
#pragma unroll
          for (int i = 0; i < kStepRows / 4; ++i) {
            const int c = column + 8 * (i / 2) + i % 2;
            if (c < begin || c >= end) s[4 * (i / 2) + 2 * r + i % 2] = 0.0f;
          }
        }
      }
      __syncwarp();
      named_sync(kPEmpty + stage, 256);
      float4* const handed = reinterpret_cast<float4*>(shared + kP + stage * kPBytes) + thread;
#pragma unroll
      for (int i = 0; i < 8; ++i) handed[i * 128] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
      named_arrive(kPFull + stage, 256);
#pragma unroll
      for (int i = 0; i < kStepRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) p[i][j] = pack<Half>(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
      }
      barrier_wait(&barriers.do_full[stage], place.parity());
      if (note.rows < kStepRows) zero_tail(shared + kDo + stage * kTileBytes, note.rows, kOwnOfValues);
      issue_sums<Half>(dv, p, operand_at(dout, stage * kTileBytes), accumulate);
      accumulate = 1;
      place.advance();
    }
    product_wait<0>();
    product_touch(dv);
    if (lane == 0) barrier_arrive(&barriers.do_empty[place.index() ^ 1]);
    __syncwarp();
    named_sync(kOwnOfValues, 128);  // K, which nobody else reads, is read by none of this warpgroup any more
    write_rows<kD, kKeys>(dv, 1.0f, shared + kK, to, args.dv_row_stride, item.keys, args.D);
    fence_async_shared();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&barriers.k_empty);
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
  }
}

// dP^T, dS^T and dK.
template <class Half>
__device__ __forceinline__ void sum_keys(const KeysArguments& args, std::byte* shared, Barriers& barriers) {
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const int column = 2 * (lane % 4);  // of every 8 queries; and the next
  const std::uint64_t v = operand(shared + kV, 16), dout = operand(shared + kDo, 16);
  const std::uint64_t q = operand(shared + kQ, kStepRows * 128);
  for (int stage = 0; stage < kStages; ++stage) named_arrive(kPEmpty + stage, 256);

  RingPlace<kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<1> v_place;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    Half* const to = static_cast<Half*>(args.dk) + item.key_row * args.dk_row_stride + item.head * args.dk_head_stride;
    if (item.state == ItemNote::kNoSteps) {
      write_zero_rows(to, args.dk_row_stride, warp * 16, item.keys, args.D);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    float dk[kD / 2];
    barrier_wait(&barriers.v_full, v_place.parity());
    v_place.advance();
    if (item.keys < kKeys) zero_tail(shared + kV, item.keys, kOwnOfKeys);
    int accumulate = 0;
    for (int steps = item.steps; steps > 0; --steps) {
      float dp[kStepRows / 2];
      std::uint32_t ds[kStepRows / 16][4];
      const int stage = place.index();
      barrier_wait(&barriers.do_full[stage], place.parity());
      const int rows = barriers.step[stage].rows;
      if (rows < kStepRows) zero_tail(shared + kDo + stage * kTileBytes, rows, kOwnOfKeys);
      issue_scores<Half, kKeys, kStepRows>(dp, v, operand_at(dout, stage * kTileBytes));
      product_wait<1>();  // the last step's dK
      product_touch(dk);
      if (accumulate != 0 && lane == 0) barrier_arrive(&barriers.q_empty[stage ^ 1]);
      product_wait<0>();
      product_touch(dp);

      barrier_wait(&barriers.q_full[stage], place.parity());
      __syncwarp();
      named_sync(kPFull + stage, 256);
      const float4* const handed = reinterpret_cast<const float4*>(shared + kP + stage * kPBytes) + thread;
      const float* const delta = reinterpret_cast<const float*>(shared + kDelta) + stage * kStepRows + column;
      const float* const lse = reinterpret_cast<const float*>(shared + kLse) + stage * kStepRows + column;
#pragma unroll
      for (int i = 0; i < kStepRows / 8; ++i) {  // 8 queries at a time
        const float4 of_thread = handed[i * 128];
        const float2 shift = *reinterpret_cast<const float2*>(delta + 8 * i);
        const float p[4] = {of_thread.x, of_thread.y, of_thread.z, of_thread.w};
        float* const x = dp + 4 * i;
#pragma unroll
        for (int j = 0; j < 4; ++j) x[j] = p[j] * (x[j] - (j % 2 == 0 ? shift.x : shift.y));
        if (args.softcap > 0.0f) {
          const float inverse = 1.0f / (args.softcap * kLog2E);
#pragma unroll
          for (int j = 0; j < 4; ++j) x[j] = through_cap(x[j], p[j], lse[8 * i + j % 2], inverse);
        }
        ds[i / 2][2 * (i % 2)] = pack<Half>(x[0], x[1]);
        ds[i / 2][2 * (i % 2) + 1] = pack<Half>(x[2], x[3]);
      }
      __syncwarp();
      named_arrive(kPEmpty + stage, 256);
      if (lane == 0) barrier_arrive(&barriers.do_empty[stage]);
      if (rows < kStepRows) zero_tail(shared + kQ + stage * kTileBytes, rows, kOwnOfKeys);
      issue_sums<Half>(dk, ds, operand_at(q, stage * kTileBytes), accumulate);
      accumulate = 1;
      place.advance();
    }
    product_wait<0>();
    product_touch(dk);
    if (lane == 0) barrier_arrive(&barriers.q_empty[place.index() ^ 1]);
    __syncwarp();
    named_sync(kOwnOfKeys, 128);  // V, which nobody else reads, is read by none of this warpgroup any more
    write_rows<kD, kKeys>(dk, args.scale, shared + kV, to, args.dk_row_stride, item.keys, args.D);
    fence_async_shared();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&barriers.v_empty);
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
  }
}

template <class Half>
__global__ __launch_bounds__(kThreads, 1) void fused_attention_backward_wide_keys_sm90_kernel(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
    const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap do_map, const KeysArguments args) {
  extern __shared__ std::byte raw[];
  __shared__ Barriers barriers;
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    prefetch_map(&do_map);
    // "Empty" counts warps.
    for (int i = 0; i < kItemNotes; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], 8);
    }
    barrier_init(&barriers.k_full, 1);
    barrier_init(&barriers.v_full, 1);
    barrier_init(&barriers.k_empty, 4);
    barrier_init(&barriers.v_empty, 4);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&barriers.q_full[i], 1);
      barrier_init(&barriers.do_full[i], 1);
      barrier_init(&barriers.q_empty[i], 8);
      barrier_init(&barriers.do_empty[i], 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_give_back<kProducerRegisters>();
    if (threadIdx.x == 0) produce(&q_map, &k_map, &v_map, &do_map, args, shared_address(shared), barriers);
  } else {
    registers_take<kConsumerRegisters>();
    if (threadIdx.x < 256) {
      sum_values<Half>(args, shared, barriers);
    } else {
      sum_keys<Half>(args, shared, barriers);
    }
  }
}

template <class Half>
Status launch_keys(const FusedBackwardCall& call, const BackwardRows& rows, int* taken) {
  const FusedAttentionPlan& plan = call.plan;
  const auto kernel = fused_attention_backward_wide_keys_sm90_kernel<Half>;
  const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
  const CUtensorMap k_map = TD_TRY(make_row_map(call.k, kKeys)), v_map = TD_TRY(make_row_map(call.v, kKeys));
  // Without queries there are no steps, and these are not read.
  const bool has_queries = plan.shape().T > 0;
  const CUtensorMap q_map = has_queries ? TD_TRY(make_row_map(call.q, kStepRows)) : k_map;
  const CUtensorMap do_map = has_queries ? TD_TRY(make_row_map(call.dout, kStepRows)) : k_map;
  const KeysArguments args{
      .tiles = reinterpret_cast<const KeyTile*>(call.words + plan.key_tiles.offset),
      .visits = reinterpret_cast<const KeyVisit*>(call.words + plan.key_visits.offset),
      .items = reinterpret_cast<const KeyItem*>(call.words + plan.backward_items.offset),
      .items_count = static_cast<int>(plan.backward_items.count),
      .taken = taken,
      .steps_count = static_cast<int>(plan.steps_count),
      .left = plan.window().left,
      .right = plan.window().right,
      .scale = call.params.scale,
      .softcap = call.params.softcap,
      .lse = rows.lse,
      .delta = rows.delta,
      .dk = call.dk.data(),
      .dv = call.dv.data(),
      .dk_row_stride = call.dk.stride(0),
      .dk_head_stride = call.dk.stride(1),
      .dv_row_stride = call.dv.stride(0),
      .dv_head_stride = call.dv.stride(1),
      .D = static_cast<int>(plan.shape().D),
  };
  const dim3 grid(static_cast<unsigned>(std::min(multiprocessors, args.items_count)));
  return launch("fused attention backward, keys", kernel, {grid, kThreads, kSharedBytes}, call.stream, q_map, k_map,
                v_map, do_map, args);
}

}  // namespace

Status backward_wide_keys_sm90(const FusedBackwardCall& call, const BackwardRows& rows, int* taken) {
  const AttentionTiling& tiling = call.plan.tiling();
  TD_CHECK(tiling.backward_rows == kStepRows && tiling.backward_keys == kKeys, tiling.backward_rows,
           tiling.backward_keys);
  if (call.plan.backward_items.count == 0) return ok_status();
  return call.q.dtype() == tensor::DType::kBf16 ? launch_keys<__nv_bfloat16>(call, rows, taken)
                                                : launch_keys<__half>(call, rows, taken);
}

}  // namespace tandem::kernels

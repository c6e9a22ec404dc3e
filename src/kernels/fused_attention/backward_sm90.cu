// Fused attention backward on Hopper, head dims to 128: fused_attention.h says what it computes.
//
// Three kernels: `prepare` makes delta and the shifted log-sum-exp, padded to steps; the main one makes dk, dv and the
// sums of dq; `finish` scales and rounds dq. The main kernel, persistent, takes the plan's items: 128 keys of one kv
// head, held in shared memory, while steps of query rows stream past:
//
//   warpgroup 0    warp 0 takes items and copies each step's Q and lse; warp 3 copies K, V, dO, delta;
//                  warps 1 and 2 add each step's dQ, left in shared memory, to the accumulator in device memory
//   warpgroup 1, 2 64 keys each. A step:
//
//       S^T = K Q^T, dP^T = V dO^T;  P^T = 2^(S^T c - lse)
//       dS^T = P^T (dP^T - delta), also to shared memory;  dV += P^T dO;  meet
//       dQ = dS K, each warpgroup its half;  dK += dS^T Q;  dQ to shared memory
//
//     S^T and dP^T lie in registers just as the A operand of the last products wants them.
//
// The sums of dq: one accumulator a step and head, in the order of the registers that made it. With `deterministic`, a
// key tile adds when its turn comes, in the order of the plan's ordinals; items are taken in an order in which a tile
// of a lower ordinal is taken first, so that whoever waits, waits for a block at work.
//
// Budget  D    step       shared memory                                             registers of dK, dV, S, dP, P, dS
//         64   128 rows   K, V 2 x 16 + Q, dO 4 x 16 + dS 2 x 32 + dQ 32 = 192 KiB   32 + 32 + 64 + 64 + 32 + 32
//         128  64 rows    K, V 2 x 32 + Q, dO 6 x 16 + dS 2 x 16 + dQ 32 = 224 KiB   64 + 64 + 32 + 32 + 16 + 16
// Bound   10 D flop a visible pair and head. docs/kernels/attention.md has what was measured.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/fused_attention/backward_rows_sm90.cuh"
#include "kernels/fused_attention/backward_wide_sm90.cuh"
#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/paths.h"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels {
namespace {

using namespace sm90;

constexpr float kLog2E = 1.4426950408889634f;

template <int kD>
struct Config {
  static constexpr int kRows = kD == 64 ? 128 : 64;  // query rows a step
  static constexpr int kKeys = 128;
  static constexpr int kStages = kD == 64 ? 2 : 3;  // of Q and dO
  // dK's product runs on into the next step, where registers allow it.
  static constexpr bool kDkRunsOn = kD == 128;
  static constexpr int kThreads = 3 * 128, kConsumers = 2 * 128;
  static constexpr int kKvBytes = kKeys * kD * 2, kStepBytes = kRows * kD * 2;
  static constexpr int kDsBytes = kKeys * kRows * 2, kDqBytes = kRows * kD * 4, kDqSliceBytes = kDqBytes / 2;
  static constexpr int kK = 0, kV = kK + kKvBytes, kQ = kV + kKvBytes, kDo = kQ + kStages * kStepBytes;
  static constexpr int kDs = kDo + kStages * kStepBytes, kDq = kDs + 2 * kDsBytes;
  static constexpr int kLse = kDq + kDqBytes, kDelta = kLse + kStages * kRows * 4;
  static constexpr int kSharedBytes = kDelta + kStages * kRows * 4 + 1024;  // and to align
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  static_assert(kSharedBytes <= 227 * 1024 - 512);  // the barriers
};

struct BackwardArguments {
  const KeyTile* tiles;
  const KeyVisit* visits;
  const WorkItem* items;
  int items_count;
  int* taken;  // items taken so far
  int* turns;  // [H,steps]: key tiles that have added to the accumulator
  int steps_count;
  int left, right;
  int heads_per_group;
  float scale, softcap;
  bool deterministic;
  const float* lse;    // [H,steps,kRows], times log2 e; infinity for rows that see nothing or do not exist
  const float* delta;  // [H,steps,kRows]
  float* dq;           // [H,steps, 2, kRows*kD/256 / 4, 128, 4]: a warpgroup's registers, four at a time
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
  int accumulator, turn;   // where dq is added up; how many key tiles add before this one
  int row, head;           // of q
};

constexpr int kItemNotes = 2, kStepNotes = 4;

template <int kD>
struct alignas(16) Barriers {
  static constexpr int kStages = Config<kD>::kStages;
  StepNote step[kStepNotes];
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t kv_full, kv_empty;
  std::uint64_t note_full[kStages];
  std::uint64_t q_full[kStages], q_empty[kStages], do_full[kStages], do_empty[kStages];
};

// Named barriers. kDqFull, kDqEmpty: for even and odd steps, each for both warpgroups.
constexpr int kMeet = 1, kDqFull = 2, kDqEmpty = 6;

// The two threads that copy have 24 registers: what they count lies in shared memory, and is volatile to stay there.
struct CopyState {
  int item, visit, head, step;  // where it is; warp 3: items with steps so far, and steps left
  int stage, parity, steps_done, items_done;

  template <int kStages>
  __device__ __forceinline__ void advance() volatile {
    steps_done = steps_done + 1;
    const int next = stage + 1;
    stage = next == kStages ? 0 : next;
    if (next == kStages) parity = parity ^ 1;
  }
};

// Warp 0, one thread: takes items, writes the notes, copies Q and lse.
template <int kD>
__device__ __forceinline__ void copy_queries(const CUtensorMap* q_map, const BackwardArguments& args,
                                             std::uint32_t shared, Barriers<kD>& barriers, volatile CopyState& state) {
  using C = Config<kD>;
  // The next item is taken when this one's last load is under way. Earlier, a block with much to do would hold what
  // others could begin, or what they wait for. The first, too, is taken and not assigned: a block that has no
  // multiprocessor yet must not hold what running blocks wait for.
  for (state.item = atomicAdd(args.taken, 1);; state.item = atomicAdd(args.taken, 1)) {
    const int slot = state.items_done & 1;
    barrier_wait(&barriers.item_empty[slot], state.items_done / 2 & 1 ^ 1);
    volatile ItemNote& note = barriers.item[slot];
    if (state.item >= args.items_count) {
      note.state = ItemNote::kEnd, note.steps = 0;
      barrier_arrive(&barriers.item_full[slot]);
      break;
    }
    const volatile WorkItem& item = args.items[state.item];
    const volatile KeyTile& tile = args.tiles[item.tile];
    note.key_row = tile.key_row, note.keys = tile.keys, note.head = item.head;
    note.steps = tile.steps * args.heads_per_group;
    note.state = tile.steps > 0 ? ItemNote::kSteps : ItemNote::kNoSteps;
    barrier_arrive(&barriers.item_full[slot]);
    state.items_done = state.items_done + 1;
    for (state.visit = tile.visit_begin; state.visit < tile.visit_end; state.visit = state.visit + 1) {
      const volatile KeyVisit& visit = args.visits[state.visit];
      for (state.head = 0; state.head < args.heads_per_group; state.head = state.head + 1) {
        for (state.step = visit.step_end - 1; state.step >= visit.step_begin; state.step = state.step - 1) {
          barrier_wait(&barriers.q_empty[state.stage], state.parity ^ 1);
          volatile StepNote& step = barriers.step[state.steps_done % kStepNotes];
          {
            const int h = item.head * args.heads_per_group + state.head;
            step.row = visit.query_begin + state.step * C::kRows, step.head = h;
            step.accumulator = h * args.steps_count + visit.step_base + state.step;
          }
          {
            const int position = visit.position + state.step * C::kRows;
            const int rows = min(C::kRows, visit.query_count - state.step * C::kRows),
                      key_position = visit.key_position;
            step.position = position, step.rows = rows, step.key_position = key_position, step.keys = visit.keys;
            const RowInterval interval{args.left, args.right, visit.context};
            step.is_whole = rows == C::kRows && visit.keys == C::kKeys &&
                            interval.begin(position + C::kRows - 1) <= key_position &&
                            key_position + C::kKeys <= interval.end(position);
            const int first = interval.begin(position), prefix_count = visit.prefix_count;
            step.turn = visit.ordinal - (first < prefix_count ? first / C::kKeys
                                                              : visit.prefix_tiles + (first - prefix_count) / C::kKeys);
          }
          const int stage = state.stage;
          barrier_arrive(&barriers.note_full[stage]);
          barrier_expect_bytes(&barriers.q_full[stage], C::kStepBytes + C::kRows * 4);
#pragma unroll
          for (int c = 0; c < kD / 64; ++c) {
            load_box(shared + C::kQ + stage * C::kStepBytes + c * C::kRows * 128, q_map, &barriers.q_full[stage],
                     c * 64, step.row, step.head);
          }
          load_bytes(shared + C::kLse + stage * C::kRows * 4,
                     args.lse + static_cast<std::int64_t>(step.accumulator) * C::kRows, C::kRows * 4,
                     &barriers.q_full[stage]);
          state.advance<C::kStages>();
        }
      }
    }
  }
}

// Warp 3, one thread: copies K and V of each item, dO and delta of each step.
template <int kD>
__device__ __forceinline__ void copy_rest(const CUtensorMap* k_map, const CUtensorMap* v_map, const CUtensorMap* do_map,
                                          const BackwardArguments& args, std::uint32_t shared, Barriers<kD>& barriers,
                                          volatile CopyState& state) {
  using C = Config<kD>;
  for (;; state.items_done = state.items_done + 1) {
    const int slot = state.items_done & 1;
    barrier_wait(&barriers.item_full[slot], state.items_done / 2 & 1);
    const volatile ItemNote& item = barriers.item[slot];
    if (item.state == ItemNote::kEnd) break;
    if (item.state == ItemNote::kSteps) {
      barrier_wait(&barriers.kv_empty, state.item & 1 ^ 1);
      state.item = state.item + 1;
      barrier_expect_bytes(&barriers.kv_full, 2 * C::kKvBytes);
#pragma unroll
      for (int c = 0; c < kD / 64; ++c) {
        load_box(shared + C::kK + c * C::kKeys * 128, k_map, &barriers.kv_full, c * 64, item.key_row, item.head);
        load_box(shared + C::kV + c * C::kKeys * 128, v_map, &barriers.kv_full, c * 64, item.key_row, item.head);
      }
    }
    state.step = item.steps;
    barrier_arrive(&barriers.item_empty[slot]);
    for (; state.step > 0; state.step = state.step - 1) {
      const int stage = state.stage;
      barrier_wait(&barriers.note_full[stage], state.parity);
      const volatile StepNote& step = barriers.step[state.steps_done % kStepNotes];
      barrier_wait(&barriers.do_empty[stage], state.parity ^ 1);
      barrier_expect_bytes(&barriers.do_full[stage], C::kStepBytes + C::kRows * 4);
#pragma unroll
      for (int c = 0; c < kD / 64; ++c) {
        load_box(shared + C::kDo + stage * C::kStepBytes + c * C::kRows * 128, do_map, &barriers.do_full[stage], c * 64,
                 step.row, step.head);
      }
      load_bytes(shared + C::kDelta + stage * C::kRows * 4,
                 args.delta + static_cast<std::int64_t>(step.accumulator) * C::kRows, C::kRows * 4,
                 &barriers.do_full[stage]);
      state.advance<C::kStages>();
    }
  }
}

// Warps 1 and 2, every other step each, so that one can wait for its additions to be done while the next begin.
template <int kD>
__device__ __forceinline__ void add_up(int parity, const BackwardArguments& args, std::byte* shared,
                                       Barriers<kD>& barriers) {
  using C = Config<kD>;
  const bool is_elected = threadIdx.x % 32 == 0;
  RingPlace<kItemNotes> item_place;
  RingPlace<kStepNotes> note_place;
  if (parity == 1) {  // before the first step nothing is to be read
    named_arrive(kDqEmpty + 2, 160);
    named_arrive(kDqEmpty + 3, 160);
  }
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const int state = barriers.item[item_place.index()].state;
    int steps = barriers.item[item_place.index()].steps;
    __syncwarp();
    if (is_elected) barrier_arrive(&barriers.item_empty[item_place.index()]);
    __syncwarp();
    if (state == ItemNote::kEnd) break;
    for (; steps > 0; --steps, note_place.advance()) {
      if ((note_place.index() & 1) != parity) continue;
      named_sync(kDqFull + 2 * parity, 160);
      const StepNote note = barriers.step[note_place.index()];
      float* const to = args.dq + static_cast<std::int64_t>(note.accumulator) * (C::kDqBytes / 4);
      int* const turn = args.turns + note.accumulator;
      const bool is_alone = args.deterministic && note.turn == 0;  // the first sets, so nobody has to clear
      if (is_elected) {
        if (args.deterministic && note.turn > 0) {
          while (load_acquire(turn) != note.turn) {
          }
          fence_async();
        }
        if (is_alone) store_bytes(to, shared + C::kDq, C::kDqSliceBytes);
        if (!is_alone) add_floats(to, shared + C::kDq, C::kDqSliceBytes);
        bulk_commit();
      }
      __syncwarp();
      named_sync(kDqFull + 2 * parity + 1, 160);
      if (is_elected) {
        float* const half = to + C::kDqSliceBytes / 4;
        if (is_alone) store_bytes(half, shared + C::kDq + C::kDqSliceBytes, C::kDqSliceBytes);
        if (!is_alone) add_floats(half, shared + C::kDq + C::kDqSliceBytes, C::kDqSliceBytes);
        bulk_commit();
        bulk_wait_read<1>();
      }
      __syncwarp();
      named_arrive(kDqEmpty + 2 * parity, 160);
      if (is_elected) bulk_wait_read<0>();
      __syncwarp();
      named_arrive(kDqEmpty + 2 * parity + 1, 160);
      if (is_elected && args.deterministic) {
        bulk_wait<0>();
        fence_async();
        store_release(turn, note.turn + 1);
      }
      __syncwarp();  // named barriers count whole warps
    }
  }
  if (is_elected) bulk_wait<0>();
}

// dk = dv = 0 for the warp's 16 keys.
template <class Half>
__device__ __forceinline__ void write_zeros(const BackwardArguments& args, const ItemNote& item, int first) {
  const int lane = threadIdx.x % 32;
  for (int key = first; key < min(first + 16, item.keys); ++key) {
    const std::int64_t row = item.key_row + key;
    if (lane * 8 >= args.D) continue;
    Half* const dk = static_cast<Half*>(args.dk) + row * args.dk_row_stride + item.head * args.dk_head_stride;
    Half* const dv = static_cast<Half*>(args.dv) + row * args.dv_row_stride + item.head * args.dv_head_stride;
    *reinterpret_cast<uint4*>(dk + lane * 8) = make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4*>(dv + lane * 8) = make_uint4(0, 0, 0, 0);
  }
}

template <int kD, class Half>
__device__ __forceinline__ void consume(const BackwardArguments& args, std::byte* shared, Barriers<kD>& barriers) {
  using C = Config<kD>;
  // From one lane, so that the compiler knows it for uniform: descriptors then need no move before each product.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const bool is_elected = thread == 0;
  const float scale_log2 = args.softcap > 0.0f ? kLog2E : args.scale * kLog2E;
  const int key = warpgroup * 64 + warp * 16 + lane / 4;  // of the tile; and key + 8
  const int column = 2 * (lane % 4);                      // of every 8 queries; and the next

  const std::uint64_t k_rows = operand(shared + C::kK + warpgroup * 64 * 128, 16);
  const std::uint64_t v_rows = operand(shared + C::kV + warpgroup * 64 * 128, 16);
  const std::uint64_t q = operand(shared + C::kQ, C::kRows * 128), dout = operand(shared + C::kDo, C::kRows * 128);
  // dQ: this warpgroup's half of the rows (D 64) or of the columns (D 128).
  const std::uint64_t ds_half = operand(shared + C::kDs + (kD == 64 ? warpgroup * C::kKeys * 128 : 0), 16);
  const std::uint64_t k_half = operand(shared + C::kK + (kD == 64 ? 0 : warpgroup * C::kKeys * 128), 16);
  const std::uint32_t ds_store = shared_address(shared + C::kDs) + (warpgroup * 64 + warp * 16 + lane % 16) * 128;

  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  RingPlace<kStepNotes> note_place;
  std::uint32_t kv_parity = 0;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote& item = barriers.item[item_place.index()];
    if (item.state == ItemNote::kEnd) break;
    if (item.state == ItemNote::kNoSteps) {
      write_zeros<Half>(args, item, warpgroup * 64 + warp * 16);
      __syncwarp();
      if (lane == 0) barrier_arrive(&barriers.item_empty[item_place.index()]);
      continue;
    }
    float dk[kD / 2], dv[kD / 2];
    barrier_wait(&barriers.kv_full, kv_parity);
    kv_parity ^= 1;
    if (item.keys < C::kKeys) {
      zero_rows<C::kKeys, kD / 64>(shared + C::kK, item.keys);
      zero_rows<C::kKeys, kD / 64>(shared + C::kV, item.keys);
      fence_async_shared();
      named_sync(kMeet, C::kConsumers);
    }
    int accumulate = 0;
    for (int steps = item.steps; steps > 0; --steps) {
      float s[C::kRows / 2], dp[C::kRows / 2];
      std::uint32_t p[C::kRows / 16][4];
      const int stage = place.index();
      barrier_wait(&barriers.q_full[stage], place.parity());
      const StepNote note = barriers.step[note_place.index()];
      const int parity = note_place.index() & 1;  // of the step: which buffer of dS, who adds dQ up
      note_place.advance();
      if (note.rows < C::kRows) {
        barrier_wait(&barriers.do_full[stage], place.parity());
        zero_rows<C::kRows, kD / 64>(shared + C::kQ + stage * C::kStepBytes, note.rows);
        zero_rows<C::kRows, kD / 64>(shared + C::kDo + stage * C::kStepBytes, note.rows);
        fence_async_shared();
        named_sync(kMeet, C::kConsumers);
      }
      product_fence();
#pragma unroll
      for (int i = 0; i < kD / 16; ++i) {
        multiply<Half, C::kRows, false, false>(
            s, operand_at(k_rows, (i / 4) * C::kKeys * 128 + (i % 4) * 32),
            operand_at(q, stage * C::kStepBytes + (i / 4) * C::kRows * 128 + (i % 4) * 32), i > 0);
      }
      product_commit();
      barrier_wait(&barriers.do_full[stage], place.parity());
      product_fence();
#pragma unroll
      for (int i = 0; i < kD / 16; ++i) {
        multiply<Half, C::kRows, false, false>(
            dp, operand_at(v_rows, (i / 4) * C::kKeys * 128 + (i % 4) * 32),
            operand_at(dout, stage * C::kStepBytes + (i / 4) * C::kRows * 128 + (i % 4) * 32), i > 0);
      }
      product_commit();
      product_wait<1>();  // S, and before it the last step's dK
      product_touch(s);
      if (C::kDkRunsOn && accumulate != 0 && is_elected) barrier_arrive(&barriers.q_empty[place.before()]);

      const float* const lse = reinterpret_cast<const float*>(shared + C::kLse) + stage * C::kRows + column;
      if (args.softcap > 0.0f) {
        const float inner = args.scale / args.softcap;
#pragma unroll
        for (int i = 0; i < C::kRows / 2; ++i) s[i] = args.softcap * tanh_approx(s[i] * inner);
      }
#pragma unroll
      for (int j = 0; j < C::kRows / 8; ++j) {
        const float2 shift = *reinterpret_cast<const float2*>(lse + 8 * j);
        s[4 * j] = exp2_approx(__fmaf_rn(s[4 * j], scale_log2, -shift.x));
        s[4 * j + 1] = exp2_approx(__fmaf_rn(s[4 * j + 1], scale_log2, -shift.y));
        s[4 * j + 2] = exp2_approx(__fmaf_rn(s[4 * j + 2], scale_log2, -shift.x));
        s[4 * j + 3] = exp2_approx(__fmaf_rn(s[4 * j + 3], scale_log2, -shift.y));
      }
      if (!note.is_whole) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int offset = note.key_position + key + 8 * r - note.position;  // the key's own query's column
          const int begin = offset - args.right;
          const int end = key + 8 * r < note.keys ? min(offset + args.left + 1, note.rows) : 0;
#pragma unroll
          for (int i = 0; i < C::kRows / 4; ++i) {
            const int c = column + 8 * (i / 2) + i % 2;
            if (c < begin || c >= end) s[4 * (i / 2) + 2 * r + i % 2] = 0.0f;
          }
        }
      }
      product_wait<0>();  // dP
      product_touch(dp);

      const float* const delta = reinterpret_cast<const float*>(shared + C::kDelta) + stage * C::kRows + column;
      std::uint32_t ds[C::kRows / 16][4];
      // 16 queries at a time, so that few registers hold both a value and its rounding.
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) p[i][j] = pack<Half>(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
        const float2 low = *reinterpret_cast<const float2*>(delta + 16 * i);
        const float2 high = *reinterpret_cast<const float2*>(delta + 16 * i + 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float shift = j < 4 ? (j % 2 == 0 ? low.x : low.y) : (j % 2 == 0 ? high.x : high.y);
          dp[8 * i + j] = s[8 * i + j] * (dp[8 * i + j] - shift);
        }
        if (args.softcap > 0.0f) {  // times 1 - tanh^2, from p = 2^(cap tanh log2e - lse)
          const float inverse = 1.0f / (args.softcap * kLog2E);
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float t = (log2_approx(s[8 * i + j]) + lse[16 * i + 8 * (j / 4) + j % 2]) * inverse;
            dp[8 * i + j] = s[8 * i + j] > 0.0f ? dp[8 * i + j] * (1.0f - t * t) : 0.0f;
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) ds[i][j] = pack<Half>(dp[8 * i + 2 * j], dp[8 * i + 2 * j + 1]);
        const int chunk = 2 * i + lane / 16;
        store_matrices(ds_store + parity * C::kDsBytes + (chunk / 8) * C::kKeys * 128 + ((chunk % 8) ^ (lane % 8)) * 16,
                       ds[i][0], ds[i][1], ds[i][2], ds[i][3]);
      }
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
        multiply<Half, kD, true>(dv, p[i], operand_at(dout, stage * C::kStepBytes + i * 16 * 128),
                                 i > 0 ? 1 : accumulate);
      }
      product_commit();
      fence_async_shared();
      named_sync(kMeet, C::kConsumers);  // all of dS is there; and all of the last step's was read

      float dq[32];
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kKeys / 16; ++i) {
        multiply<Half, 64, true, true>(dq, operand_at(ds_half, parity * C::kDsBytes + i * 16 * 128),
                                       operand_at(k_half, i * 16 * 128), i > 0);
      }
      product_commit();
      product_fence();
#pragma unroll
      for (int i = 0; i < C::kRows / 16; ++i) {
        multiply<Half, kD, true>(dk, ds[i], operand_at(q, stage * C::kStepBytes + i * 16 * 128),
                                 i > 0 ? 1 : accumulate);
      }
      product_commit();
      product_wait<1>();  // dQ, and before it dV
      product_touch(dq);
      product_touch(dv);
      if (is_elected) barrier_arrive(&barriers.do_empty[stage]);
      named_sync(kDqEmpty + 2 * (parity ^ 1) + warpgroup, 160);
      float4* const slice = reinterpret_cast<float4*>(shared + C::kDq + warpgroup * C::kDqSliceBytes) + thread;
#pragma unroll
      for (int i = 0; i < 8; ++i) slice[i * 128] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
      fence_async_shared();
      named_arrive(kDqFull + 2 * parity + warpgroup, 160);
      accumulate = 1;
      place.advance();
      if constexpr (!C::kDkRunsOn) {
        product_wait<0>();
        product_touch(dk);
        if (is_elected) barrier_arrive(&barriers.q_empty[stage]);
      }
    }
    if constexpr (C::kDkRunsOn) {
      product_wait<0>();
      product_touch(dk);
      if (is_elected) barrier_arrive(&barriers.q_empty[place.before()]);
    }
    named_sync(kMeet, C::kConsumers);  // K is read by nobody any more
    const int rows = item.keys - warpgroup * 64;
    const std::int64_t first = item.key_row + warpgroup * 64;
    write_rows<kD>(dv, 1.0f, shared + C::kV + warpgroup * 64 * 128,
                   static_cast<Half*>(args.dv) + first * args.dv_row_stride + item.head * args.dv_head_stride,
                   args.dv_row_stride, rows, args.D);
    write_rows<kD>(dk, args.scale, shared + C::kK + warpgroup * 64 * 128,
                   static_cast<Half*>(args.dk) + first * args.dk_row_stride + item.head * args.dk_head_stride,
                   args.dk_row_stride, rows, args.D);
    fence_async_shared();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&barriers.kv_empty);
      barrier_arrive(&barriers.item_empty[item_place.index()]);
    }
  }
}

template <int kD, class Half>
__global__ __launch_bounds__(Config<kD>::kThreads,
                             1) void fused_attention_backward_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                          const __grid_constant__ CUtensorMap k_map,
                                                                          const __grid_constant__ CUtensorMap v_map,
                                                                          const __grid_constant__ CUtensorMap do_map,
                                                                          const BackwardArguments args) {
  using C = Config<kD>;
  extern __shared__ std::byte raw[];
  __shared__ Barriers<kD> barriers;
  __shared__ CopyState copy_state[2];
  std::byte* const shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  if (threadIdx.x < 2) copy_state[threadIdx.x] = {};
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    prefetch_map(&v_map);
    prefetch_map(&do_map);
    for (int i = 0; i < kItemNotes; ++i) {
      barrier_init(&barriers.item_full[i], 1);
      barrier_init(&barriers.item_empty[i], 11);  // eight warps that compute, two that add, one that copies
    }
    barrier_init(&barriers.kv_full, 1);
    barrier_init(&barriers.kv_empty, 8);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&barriers.q_full[i], 1);
      barrier_init(&barriers.do_full[i], 1);
      barrier_init(&barriers.note_full[i], 1);
      barrier_init(&barriers.q_empty[i], 2);
      barrier_init(&barriers.do_empty[i], 2);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    registers_give_back<C::kProducerRegisters>();
    if (threadIdx.x == 0) copy_queries<kD>(&q_map, args, shared_address(shared), barriers, copy_state[0]);
    if (threadIdx.x / 32 == 1) add_up<kD>(0, args, shared, barriers);
    if (threadIdx.x / 32 == 2) add_up<kD>(1, args, shared, barriers);
    if (threadIdx.x == 96) {
      copy_rest<kD>(&k_map, &v_map, &do_map, args, shared_address(shared), barriers, copy_state[1]);
    }
  } else {
    registers_take<C::kConsumerRegisters>();
    consume<kD, Half>(args, shared, barriers);
  }
}

// dq = scale * sums, rounded, from the order of registers to that of rows.   grid (steps, H), 256 threads
template <int kD, class Half>
__global__ __launch_bounds__(256) void fused_attention_finish_sm90_kernel(const BackwardStep* steps, int left,
                                                                          int right, const float* sums, float scale,
                                                                          Half* dq, std::int64_t row_stride,
                                                                          std::int64_t head_stride, int D) {
  constexpr int kRows = Config<kD>::kRows;
  __shared__ alignas(16) Half tile[kRows][kD + 8];
  const BackwardStep step = steps[blockIdx.x];
  const std::int64_t head = blockIdx.y;
  const int warpgroup = threadIdx.x / 128, thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  const float4* const from = reinterpret_cast<const float4*>(sums + (head * gridDim.x + blockIdx.x) * kRows * kD) +
                             warpgroup * (kRows * kD / 8) + thread;
  const int row = (kD == 64 ? warpgroup * 64 : 0) + warp * 16 + lane / 4;
  const int column = (kD == 64 ? 0 : warpgroup * 64) + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 x = __ldcs(from + i * 128);
    *reinterpret_cast<std::uint32_t*>(&tile[row][column + 8 * i]) = pack<Half>(x.x * scale, x.y * scale);
    *reinterpret_cast<std::uint32_t*>(&tile[row + 8][column + 8 * i]) = pack<Half>(x.z * scale, x.w * scale);
  }
  __syncthreads();
  constexpr int kChunks = kD / 8;
  const RowInterval interval{left, right, step.context};
  for (int i = threadIdx.x; i < kRows * kChunks; i += 256) {
    const int r = i / kChunks, chunk = i % kChunks, position = step.position + r;
    if (r >= step.rows || chunk * 8 >= D) continue;
    const bool sees_some = interval.begin(position) < interval.end(position);  // nobody added to the others
    *reinterpret_cast<uint4*>(dq + (step.query_row + r) * row_stride + head * head_stride + chunk * 8) =
        sees_some ? *reinterpret_cast<const uint4*>(&tile[r][chunk * 8]) : make_uint4(0, 0, 0, 0);
  }
}

// The parts of the scratch, in bytes.
struct Scratch {
  std::size_t turns, taken, lse, delta, dq, end;

  static Scratch of(const FusedAttentionPlan& plan) {
    const auto align = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
    const auto accumulators = static_cast<std::size_t>(plan.shape().H * plan.steps_count);
    const auto rows = static_cast<std::size_t>(plan.tiling().backward_rows);
    Scratch at{};
    at.turns = 0;
    at.taken = at.turns + accumulators * sizeof(int);
    at.lse = align(at.taken + sizeof(int));
    at.delta = align(at.lse + accumulators * rows * sizeof(float));
    at.dq = align(at.delta + accumulators * rows * sizeof(float));
    at.end = at.dq + accumulators * rows * (plan.shape().D <= 64 ? 64 : 128) * sizeof(float);
    return at;
  }
};

template <int kD, class Half>
Status launch(const FusedBackwardCall& call) {
  using C = Config<kD>;
  const FusedAttentionPlan& plan = call.plan;
  const AttentionTiling& tiling = plan.tiling();
  TD_CHECK(tiling.backward_rows == C::kRows && tiling.backward_keys == C::kKeys, tiling.backward_rows,
           tiling.backward_keys);
  const cudaStream_t stream = call.stream.cuda();
  const Scratch at = Scratch::of(plan);
  std::byte* const scratch = call.scratch.data();
  float* const lse = reinterpret_cast<float*>(scratch + at.lse);
  float* const delta = reinterpret_cast<float*>(scratch + at.delta);
  float* const dq_sums = reinterpret_cast<float*>(scratch + at.dq);
  const auto* const steps = reinterpret_cast<const BackwardStep*>(call.words + plan.backward_steps.offset);
  const int D = static_cast<int>(plan.shape().D), H = static_cast<int>(plan.shape().H);
  const dim3 step_grid(static_cast<unsigned>(plan.steps_count), static_cast<unsigned>(H));

  cudaMemsetAsync(scratch, 0, at.lse, stream);
  if (!call.params.deterministic) cudaMemsetAsync(dq_sums, 0, at.end - at.dq, stream);
  prepare_backward_rows(call, {lse, delta});
  if (plan.backward_items.count > 0) {
    const auto kernel = fused_attention_backward_sm90_kernel<kD, Half>;
    const int multiprocessors = TD_TRY(device::cuda_multiprocessors(call.stream.device().index));
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
    const CUtensorMap k_map = TD_TRY(make_row_map(call.k, C::kKeys)), v_map = TD_TRY(make_row_map(call.v, C::kKeys));
    // Without queries there are no steps, and these are not read.
    const bool has_queries = plan.shape().T > 0;
    const CUtensorMap q_map = has_queries ? TD_TRY(make_row_map(call.q, C::kRows)) : k_map;
    const CUtensorMap do_map = has_queries ? TD_TRY(make_row_map(call.dout, C::kRows)) : k_map;
    const BackwardArguments args{
        .tiles = reinterpret_cast<const KeyTile*>(call.words + plan.key_tiles.offset),
        .visits = reinterpret_cast<const KeyVisit*>(call.words + plan.key_visits.offset),
        .items = reinterpret_cast<const WorkItem*>(call.words + plan.backward_items.offset),
        .items_count = static_cast<int>(plan.backward_items.count),
        .taken = reinterpret_cast<int*>(scratch + at.taken),
        .turns = reinterpret_cast<int*>(scratch + at.turns),
        .steps_count = static_cast<int>(plan.steps_count),
        .left = plan.window().left,
        .right = plan.window().right,
        .heads_per_group = static_cast<int>(plan.shape().H / plan.shape().G),
        .scale = call.params.scale,
        .softcap = call.params.softcap,
        .deterministic = call.params.deterministic,
        .lse = lse,
        .delta = delta,
        .dq = dq_sums,
        .dk = call.dk.data(),
        .dv = call.dv.data(),
        .dk_row_stride = call.dk.stride(0),
        .dk_head_stride = call.dk.stride(1),
        .dv_row_stride = call.dv.stride(0),
        .dv_head_stride = call.dv.stride(1),
        .D = D,
    };
    const int grid = std::min(multiprocessors, args.items_count);
    kernel<<<grid, C::kThreads, C::kSharedBytes, stream>>>(q_map, k_map, v_map, do_map, args);
  }
  if (plan.steps_count > 0) {
    fused_attention_finish_sm90_kernel<kD, Half>
        <<<step_grid, 256, 0, stream>>>(steps, plan.window().left, plan.window().right, dq_sums, call.params.scale,
                                        static_cast<Half*>(call.dq.data()), call.dq.stride(0), call.dq.stride(1), D);
  }
  sum_sink_gradients(call, {lse, delta});
  return launch_status("fused attention backward");
}

template <class Half>
Status launch_for(const FusedBackwardCall& call) {
  const std::int64_t D = call.plan.shape().D;
  if (D <= 64) return launch<64, Half>(call);
  if (D <= 128) return launch<128, Half>(call);
  return backward_wide_sm90(call);
}

}  // namespace

std::size_t backward_sm90_scratch_bytes(const FusedAttentionPlan& plan) {
  return plan.shape().D > 128 ? backward_wide_sm90_scratch_bytes(plan) : Scratch::of(plan).end;
}

Status backward_sm90(const FusedBackwardCall& call) {
  const OnDevice on(call.stream.device());
  return call.q.dtype() == tensor::DType::kBf16 ? launch_for<__nv_bfloat16>(call) : launch_for<__half>(call);
}

}  // namespace tandem::kernels

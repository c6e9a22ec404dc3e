// The warpgroup that moves data for the backward on Hopper to head dim 128 (backward_sm90.cu): a warp takes items and
// copies Q, a warp copies K, V and dO, two warps add dQ up.
#pragma once

#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/backward_sm90.cuh"
#include "kernels/fused_attention/interval.h"
#include "kernels/fused_attention/tile_sm90.cuh"

namespace tandem::kernels::sm90 {

// The two threads that copy have 24 registers: what they count lies in shared memory, and is volatile to stay there.
struct alignas(16) CopyState {
  KeyVisit visit_now;           // warp 0: of which each step reads all, so not from device memory
  int item, visit, head, step;  // where it is; warp 3: items with steps so far, and steps left
  int head_begin, head_end;     // of the item
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
    const volatile KeyItem& item = args.items[state.item];
    const volatile KeyTile& tile = args.tiles[item.tile];
    note.key_row = tile.key_row, note.keys = tile.keys, note.kv_head = item.kv_head;
    note.steps = tile.steps * item.heads, note.sums = item.sums;
    state.head_begin = item.head, state.head_end = item.head + item.heads;
    note.state = tile.steps > 0 ? ItemNote::kSteps : ItemNote::kNoSteps;
    barrier_arrive(&barriers.item_full[slot]);
    state.items_done = state.items_done + 1;
    for (state.visit = tile.visit_begin; state.visit < tile.visit_end; state.visit = state.visit + 1) {
      copy_visit(args.visits + state.visit, &state.visit_now);
      const volatile KeyVisit& visit = state.visit_now;
      for (state.step = visit.step_end - 1; state.step >= visit.step_begin; state.step = state.step - 1) {
        // All heads of a step before the next step: so a tile follows those before it at one distance from end to end.
        for (state.head = state.head_begin; state.head < state.head_end; state.head = state.head + 1) {
          barrier_wait(&barriers.q_empty[state.stage], state.parity ^ 1);
          volatile StepNote& step = barriers.step[state.steps_done % kStepNotes];
          step.row = visit.query_begin + state.step * C::kRows, step.head = state.head;
          step.accumulator = state.head * args.steps_count + visit.step_base + state.step;
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
      barrier_expect_bytes(&barriers.kv_full, 2 * C::kKvBytes);
#pragma unroll
      for (int c = 0; c < kD / 64; ++c) {
        load_box(shared + C::kK + c * C::kKeys * 128, k_map, &barriers.kv_full, c * 64, item.key_row, item.kv_head);
        load_box(shared + C::kV + c * C::kKeys * 128, v_map, &barriers.kv_full, c * 64, item.key_row, item.kv_head);
      }
      state.item = state.item + 1;
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
      const bool is_alone = args.in_order && note.turn == 0;  // the first sets, so nobody has to clear
      if (is_elected) {
        if (args.in_order && note.turn > 0) {
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
      if (is_elected && args.in_order) {
        bulk_wait<0>();
        fence_async();
        store_release(turn, note.turn + 1);
      }
      __syncwarp();  // named barriers count whole warps
    }
  }
  if (is_elected) bulk_wait<0>();
}

// Behind the tiles in shared memory.
template <int kD>
struct Notes {
  Barriers<kD> barriers;
  CopyState copy_state[2];
};
template <int kD>
constexpr int kBackwardSharedBytes = Config<kD>::kNotes + static_cast<int>(sizeof(Notes<kD>));
static_assert(kBackwardSharedBytes<64> <= 227 * 1024 && kBackwardSharedBytes<128> <= 227 * 1024);

}  // namespace tandem::kernels::sm90

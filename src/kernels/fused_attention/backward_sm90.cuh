// How the backward on Hopper to head dim 128 (backward_sm90.cu) is cut, and what its warps tell each other.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/fused_attention/plan.h"

namespace tandem::kernels::sm90 {

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
  static constexpr int kNotes = kDelta + kStages * kRows * 4;
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
};

struct BackwardArguments {
  const KeyTile* tiles;
  const KeyVisit* visits;
  const KeyItem* items;
  int items_count;
  int* taken;  // items taken so far
  int* turns;  // [H,steps]: key tiles that have added to the accumulator
  int steps_count;
  int left, right;
  float scale, softcap;
  bool in_order;       // of key tiles, dq is added up
  const float* lse;    // [H,steps,kRows], times log2 e; infinity for rows that see nothing or do not exist
  const float* delta;  // [H,steps,kRows]
  float* dq;           // [H,steps, 2, kRows*kD/256 / 4, 128, 4]: a warpgroup's registers, four at a time
  float4* sums;        // [sums, 2, kD/8, 256]: dk and dv of items that are not for all heads, likewise
  void *dk, *dv;
  std::int64_t dk_row_stride, dk_head_stride, dv_row_stride, dv_head_stride;
  int D;
};

struct ItemNote {
  int key_row, keys, kv_head, steps;
  int sums;   // KeyItem::sums
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

}  // namespace tandem::kernels::sm90

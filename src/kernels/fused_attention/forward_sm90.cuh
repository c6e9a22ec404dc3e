// How the forward on Hopper (forward_sm90.cu) is cut, what its warps tell each other, and how rows are written.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/common/cluster_sm90.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/plan.h"

namespace tandem::kernels::sm90::forward {

template <int kHeadDim, int kComputing>
struct Config {
  static constexpr int kD = kHeadDim;
  static constexpr int kWarpgroups = kComputing;  // that compute
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kKeys = kD == 256 ? 80 : 128;
  static constexpr int kStages = kD == 64 ? 4 : 2;  // of K and V
  // Whether warpgroups issue their products in turns: measured, and at D = 128 they fall into step by themselves.
  static constexpr bool kTurns = kD != 128;
  // Whether the softmax comes before the wait for O += P V. Three warpgroups hide it under each other's products, and
  // are faster if the compiler mixes it with what follows the wait.
  static constexpr bool kSoftmaxBeforeWait = kWarpgroups == 2;
  // Whether a warpgroup leaves out the tile's last block where it sees nothing of it; where a block has as many keys as
  // the tile rows, all see some of each, as a rule.
  static constexpr bool kLeavesOut = kRows != kKeys;
  // Where a warpgroup sees no more of its last block than so many keys, it leaves out the others' exponentials and
  // their part of O += P V. (Measured: no gain up to D = 128.)
  static constexpr int kPart = kD == 256 ? 48 : kKeys;
  // Which of the two ways of masking: measured.
  static constexpr bool kMasksByComparing = kD != 256;
  static constexpr int kQBuffers = kD == 256 ? 1 : 2;
  // A single one is given back, each warpgroup its part, once the last scores are there. Rows then leave through the
  // places of the item's last K (the first warpgroup's) and last V (the second's), else through Q's.
  static constexpr int kQParts = kQBuffers > 1 ? 1 : kWarpgroups;
  static constexpr bool kWritesThroughQ = kQBuffers > 1;
  static constexpr int kPlaceRows = kWritesThroughQ ? kRows : kKeys;  // of that place
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kQBytes = kRows * kD * 2, kKvBytes = kKeys * kD * 2;
  static constexpr int kSharedBytes = kQBuffers * kQBytes + 2 * kStages * kKvBytes + 1024;  // and to align
  static constexpr int kProducerRegisters = kWarpgroups == 3 ? 32 : 40;
  static constexpr int kConsumerRegisters = kWarpgroups == 3 ? 160 : 232;
  static_assert(kSharedBytes <= 227 * 1024);
  static_assert(!kLeavesOut || kRows - 64 <= kKeys);  // then it is one block at most
  static_assert(kWritesThroughQ || (kWarpgroups == 2 && kKeys >= 64));
};

struct ForwardArguments {
  const ForwardTile* tiles;
  const WorkItem* items;
  int items_count;
  int* taken;  // items taken so far, beyond the first one of each block
  int left, right;
  int heads_per_group;
  float scale, softcap;
  const float* sinks;  // or null
  void* out;
  std::int64_t out_row_stride, out_head_stride;
  float* lse;  // or null
  std::int64_t lse_head_stride;
  int D;
};

// What is told of an item, and of each key block, so that all who work on them keep few registers.
struct alignas(16) ItemNote {
  ForwardTile tile;
  int head;
  int state;  // kBlocks, kNoBlocks (no row sees a key), kEnd
  static constexpr int kBlocks = 0, kNoBlocks = 1, kEnd = 2;

  __device__ __forceinline__ int context() const { return tile.prefix_count + tile.key_count; }
};
struct alignas(16) BlockNote {
  int position, keys;  // of the block's first key; keys that are the range's
  int is_whole, is_last;
};

constexpr int kItemNotes = 2;

template <class C>
struct alignas(16) Barriers {
  BlockNote block[C::kStages];  // with a place of K; read before that is given back
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t q_full[C::kQBuffers][C::kQParts], q_empty[C::kQBuffers][C::kQParts];
  std::uint64_t k_full[C::kStages], k_empty[C::kStages], v_full[C::kStages], v_empty[C::kStages];
};

// Values of keys that are not the range's could be anything; p = 0 does not silence NaN. Of the first kColumns keys.
template <class C, int kColumns>
__device__ __forceinline__ void zero_values(std::byte* tile, int keys, int barrier) {
  const int thread = threadIdx.x % 128;
#pragma unroll
  for (int c = 0; c < C::kD / 64; ++c) {
    for (int at = keys * 128 + thread * 16; at < kColumns * 128; at += 128 * 16) {
      *reinterpret_cast<uint4*>(tile + c * C::kKeys * 128 + at) = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_shared();
  named_sync(barrier, 128);
}

// o = 0 for the warp's 16 rows; lse is the sink's, or -infinity.
template <class Half>
__device__ __forceinline__ void write_nothing_seen(const ForwardArguments& args, const ItemNote& item, int first) {
  const int lane = threadIdx.x % 32;
  for (int row = first; row < min(first + 16, item.tile.rows); ++row) {
    const std::int64_t r = item.tile.query_row + row;
    Half* const to = static_cast<Half*>(args.out) + r * args.out_row_stride + item.head * args.out_head_stride;
    if (lane * 8 < args.D) *reinterpret_cast<uint4*>(to + lane * 8) = make_uint4(0, 0, 0, 0);
    if (args.lse != nullptr && lane == 0) {
      args.lse[item.head * args.lse_head_stride + r] = args.sinks != nullptr ? args.sinks[item.head] : -INFINITY;
    }
  }
}

// The warpgroup's 64 rows from `first` of the tile on, through 64 rows from `place` on that nobody reads any more. True
// if the copy engine reads there for this warp: lane 0 then waits (bulk_wait_read) before it gives the place back.
// `out_map` has boxes of 64 rows.
template <class C, class Half>
__device__ __forceinline__ bool write_through(const CUtensorMap* out_map, std::byte* place, int barrier,
                                              const ForwardArguments& args, const ItemNote& item, int first,
                                              const float (&sums)[C::kD / 2], const float (&inverse)[2]) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  const std::uint32_t stage = shared_address(place) + (warp * 16 + lane % 16) * 128;
#pragma unroll
  for (int c = 0; c < C::kD / 16; ++c) {
    const float* const s = sums + 8 * c;
    const int chunk = (c * 2 + lane / 16) % 8;
    store_matrices(stage + (c / 4) * C::kPlaceRows * 128 + ((chunk ^ (lane % 8)) * 16),
                   pack<Half>(s[0] * inverse[0], s[1] * inverse[0]), pack<Half>(s[2] * inverse[1], s[3] * inverse[1]),
                   pack<Half>(s[4] * inverse[0], s[5] * inverse[0]), pack<Half>(s[6] * inverse[1], s[7] * inverse[1]));
  }
  fence_async_shared();
  named_sync(barrier, 128);
  if (first + 64 <= item.tile.rows) {
    if (warp >= C::kD / 64) return false;
    if (lane == 0) {
      store_box(out_map, shared_address(place) + warp * C::kPlaceRows * 128, warp * 64, item.tile.query_row + first,
                item.head);
      bulk_commit();
    }
    return true;
  }
  // The rows that follow the segment's last are others'.
  Half* const to = static_cast<Half*>(args.out) + (item.tile.query_row + first) * args.out_row_stride +
                   item.head * args.out_head_stride + lane * 8;
#pragma unroll 1
  for (int r = warp * 16; r < min(warp * 16 + 16, item.tile.rows - first); ++r) {
    const std::byte* const piece = place + (lane / 8) * C::kPlaceRows * 128 + r * 128 + ((lane % 8) ^ (r % 8)) * 16;
    if (lane * 8 < args.D) {
      *reinterpret_cast<uint4*>(to + r * args.out_row_stride) = *reinterpret_cast<const uint4*>(piece);
    }
  }
  fence_async_shared();
  return false;
}

}  // namespace tandem::kernels::sm90::forward

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
  // A single one is given back once the item's last scores are there; else rows are written through it.
  static constexpr bool kWritesThroughQ = kQBuffers > 1;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kQBytes = kRows * kD * 2, kKvBytes = kKeys * kD * 2;
  static constexpr int kSharedBytes = kQBuffers * kQBytes + 2 * kStages * kKvBytes + 1024;  // and to align
  static constexpr int kProducerRegisters = kWarpgroups == 3 ? 32 : 40;
  static constexpr int kConsumerRegisters = kWarpgroups == 3 ? 160 : 232;
  static_assert(kSharedBytes <= 227 * 1024);
  static_assert(!kLeavesOut || kRows - 64 <= kKeys);  // then it is one block at most
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

constexpr int kItemNotes = 2, kBlockNotes = 8;

template <class C>
struct alignas(16) Barriers {
  BlockNote block[kBlockNotes];  // more than stages: read after the stage's K may have been given back
  ItemNote item[kItemNotes];
  std::uint64_t item_full[kItemNotes], item_empty[kItemNotes];
  std::uint64_t q_full[C::kQBuffers], q_empty[C::kQBuffers];
  std::uint64_t k_full[C::kStages], k_empty[C::kStages], v_full[C::kStages], v_empty[C::kStages];
};

// Four values of each of four neighbouring lanes: lane i then has the i-th of lanes 0 .. 3.
__device__ __forceinline__ void transpose_in_quad(std::uint32_t (&values)[4]) {
  const bool is_odd = threadIdx.x % 2 != 0, is_upper = threadIdx.x % 4 >= 2;
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    const std::uint32_t other = __shfl_xor_sync(0xffffffffu, is_odd ? values[j] : values[j + 1], 1);
    (is_odd ? values[j] : values[j + 1]) = other;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const std::uint32_t other = __shfl_xor_sync(0xffffffffu, is_upper ? values[j] : values[j + 2], 2);
    (is_upper ? values[j] : values[j + 2]) = other;
  }
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

// The thread's rows, by itself: in 16 bytes at a time.
template <class C, class Half>
__device__ __forceinline__ void write_from_registers(const ForwardArguments& args, const ItemNote& item, int row,
                                                     const float (&sums)[C::kD / 2], const float (&inverse)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool is_row = row + 8 * r < item.tile.rows;
    Half* const to = static_cast<Half*>(args.out) + (item.tile.query_row + row + 8 * r) * args.out_row_stride +
                     item.head * args.out_head_stride;
#pragma unroll
    for (int c = 0; c < C::kD / 32; ++c) {
      // Of 32 columns, lane i of four has the i-th pair of every 8; it writes the i-th 8.
      std::uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* const two = sums + 4 * (4 * c + j) + 2 * r;
        pairs[j] = pack<Half>(two[0] * inverse[r], two[1] * inverse[r]);
      }
      transpose_in_quad(pairs);
      const int column = 32 * c + 8 * (lane % 4);
      if (is_row && column < args.D) {
        *reinterpret_cast<uint4*>(to + column) = {pairs[0], pairs[1], pairs[2], pairs[3]};
      }
    }
  }
}

// The warp's 16 rows from `first` of the tile on, through their places in Q's, which nobody reads any more. True if the
// copy engine reads them now: lane 0 then waits (bulk_wait_read) before anybody writes there. `out_map` has boxes of 16
// rows.
template <class C, class Half>
__device__ __forceinline__ bool write_through(const CUtensorMap* out_map, std::byte* q_tile, int barrier,
                                              const ForwardArguments& args, const ItemNote& item, int first,
                                              const float (&sums)[C::kD / 2], const float (&inverse)[2]) {
  const int lane = threadIdx.x % 32;
  std::byte* const tile = q_tile + first * 128;
  const std::uint32_t stage = shared_address(tile) + (lane % 16) * 128;
  named_sync(barrier, 128);
#pragma unroll
  for (int c = 0; c < C::kD / 16; ++c) {
    const float* const s = sums + 8 * c;
    const int chunk = (c * 2 + lane / 16) % 8;
    store_matrices(stage + (c / 4) * C::kRows * 128 + ((chunk ^ (lane % 8)) * 16),
                   pack<Half>(s[0] * inverse[0], s[1] * inverse[0]), pack<Half>(s[2] * inverse[1], s[3] * inverse[1]),
                   pack<Half>(s[4] * inverse[0], s[5] * inverse[0]), pack<Half>(s[6] * inverse[1], s[7] * inverse[1]));
  }
  fence_async_shared();
  __syncwarp();
  if (first + 16 <= item.tile.rows) {
    if (lane == 0) {
#pragma unroll
      for (int c = 0; c < C::kD / 64; ++c) {
        store_box(out_map, shared_address(tile) + c * C::kRows * 128, c * 64, item.tile.query_row + first, item.head);
      }
      bulk_commit();
    }
    return true;
  }
  // The rows that follow the segment's last are others'.
  Half* const to = static_cast<Half*>(args.out) + (item.tile.query_row + first) * args.out_row_stride +
                   item.head * args.out_head_stride + lane * 8;
#pragma unroll 1
  for (int r = 0; r < item.tile.rows - first; ++r) {
    const std::byte* const piece = tile + (lane / 8) * C::kRows * 128 + r * 128 + ((lane % 8) ^ (r % 8)) * 16;
    if (lane * 8 < args.D) {
      *reinterpret_cast<uint4*>(to + r * args.out_row_stride) = *reinterpret_cast<const uint4*>(piece);
    }
  }
  fence_async_shared();
  return false;
}

}  // namespace tandem::kernels::sm90::forward

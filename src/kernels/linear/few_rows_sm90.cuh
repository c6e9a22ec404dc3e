// A linear layer of up to 16 rows, or grouped ones of some more: Hopper's kernel (few_rows_sm90.cu launches it;
// few_rows_sm90_plan.h deals the work; some_rows_sm90.cuh takes more rows of one matrix).
//
//   y^T[n,t] = sum over k of W[n,k] x[t,k]: the weights are the products' left side, 64 rows at a time (fewer are
//   used, the others read what lies behind and are dropped), the tokens the right side, 8 to 32 of them.
//
//   1 warp          copies weights (and x, unless it is kept: FewRowsPlan) through a ring of stages
//   2 warpgroups    multiply what has arrived, k ascending, one f32 accumulator an output; before that, read the other
//                   x, normalised and rounded if it is f32
//
// The weights do not depend on the kernel before this one (which must not write them), so their first stages are asked
// for at once; everything else waits for it to end (wait_for_previous). Of grouped layers (linear.h), which weights are
// to be read does: a block reads the offsets first and lists the units (few_rows_units_sm90.cuh), and all of that
// waits, unless the offsets are older than the kernel before.
//
// Bound    bytes 2 N K: memory bound. Measured: docs/kernels/linear_cuda.md
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/few_rows_keep_sm90.cuh"
#include "kernels/linear/few_rows_products_sm90.cuh"
#include "kernels/linear/few_rows_sm90_plan.h"
#include "kernels/linear/few_rows_units_sm90.cuh"

namespace tandem::kernels {
namespace sm90 {

// x as it is kept: chunks of 8 columns, the rows of a chunk 16 bytes apart.
inline constexpr std::uint32_t kKeptHigh = 128 >> 4;
__device__ __forceinline__ std::uint32_t kept_low(std::uint32_t address, std::uint32_t chunk_bytes) {
  return address >> 4 | chunk_bytes >> 4 << 16;
}

// The copying warp's one thread.
template <bool kPair, bool kKeepsX, bool kGrouped>
__device__ __forceinline__ void copy_weights(const FewRowsArguments& arguments, const FewRowsTiles<kGrouped>& tiles,
                                             FewRowsShared& shared, std::uint32_t ring) {
  const FewRowsPlan& plan = arguments.plan;
  const int slabs_all = (arguments.K + kStreamedSlab - 1) / kStreamedSlab;
  const int steps = (slabs_all + plan.slabs - 1) / plan.slabs;
  const std::uint32_t piece_bytes = static_cast<std::uint32_t>(plan.slabs * plan.piece_rows * 128);
  const bool is_ragged = arguments.K % kStreamedSlab != 0;
  // A box's first column and slab: a map of ragged rows has only columns, one of others 64 of them to a slab.
  const auto load_weights = [&](const FewRowsPlace& place, int step, int stage) {
    std::uint64_t* const full = &shared.full[stage];
    barrier_expect_bytes(full, static_cast<std::uint32_t>(plan.stage_bytes));
    std::uint32_t to = ring + static_cast<std::uint32_t>(stage * plan.stage_bytes);
    const int column = is_ragged ? step * kStreamedSlab : 0, slab = is_ragged ? 0 : step * plan.slabs;
    int row = static_cast<int>(place.weight_row);
    for (int g = 0; g < plan.warpgroups; ++g, row += plan.piece_rows) {
      load_box_once(to, &arguments.weight, full, column, row, slab);
      to += piece_bytes;
      if constexpr (kPair) {
        load_box_once(to, &arguments.up, full, column, row, slab);
        to += piece_bytes;
      }
    }
  };
  const auto load_x = [&](const FewRowsPlace& place, int step, int stage) {
    if constexpr (kKeepsX) return;
    const std::uint32_t to = ring + static_cast<std::uint32_t>(stage * plan.stage_bytes) +
                             static_cast<std::uint32_t>(plan.warpgroups * plan.pieces) * piece_bytes;
    load_box(to, &arguments.x, &shared.full[stage], is_ragged ? step * kStreamedSlab : 0, place.row,
             is_ragged ? 0 : step * plan.slabs);
  };

  // Walks the tiles of this block, a stage at a time.
  struct Walk {
    const FewRowsTiles<kGrouped>& tiles;
    int steps;
    std::int64_t tile = blockIdx.x;
    int step = 0;
    FewRowsPlace place;
    __device__ __forceinline__ explicit Walk(const FewRowsTiles<kGrouped>& tiles, int steps)
        : tiles(tiles), steps(steps) {
      if (!done()) place = tiles.at(tile);
    }
    __device__ __forceinline__ bool done() const { return tile >= tiles.count; }
    __device__ __forceinline__ void advance() {
      if (++step < steps) return;
      step = 0;
      tile += gridDim.x;
      if (!done()) place = tiles.at(tile);
    }
  };

  // The first round of the ring: weights before the previous kernel has ended, x after.
  Walk walk(tiles, steps);
  int stage = 0;
  for (; stage < plan.stages && !walk.done(); ++stage) {
    if (kKeepsX && stage >= plan.under_way) barrier_wait(&shared.full[stage - plan.under_way], 0);
    load_weights(walk.place, walk.step, stage);
    walk.advance();
  }
  wait_for_previous();
  if constexpr (!kKeepsX) {
    fence_async();
    Walk of(tiles, steps);
    for (int i = 0; i < stage; ++i, of.advance()) load_x(of.place, of.step, i);
  }
  StageCursor cursor, under_way{.stage = plan.stages - plan.under_way};
  for (; !walk.done(); walk.advance()) {
    barrier_wait(&shared.empty[cursor.stage], cursor.parity);
    if (plan.under_way < plan.stages) {
      barrier_wait(&shared.full[under_way.stage], under_way.parity);
      under_way.advance(plan.stages);
    }
    load_weights(walk.place, walk.step, cursor.stage);
    load_x(walk.place, walk.step, cursor.stage);
    cursor.advance(plan.stages);
  }
}

__device__ __forceinline__ void store_output(const FewRowsArguments& arguments, int t, std::int64_t n, float value) {
  const std::int64_t at = t * arguments.out.y_stride + n;
  if (arguments.out.y_is_bf16) {
    static_cast<__nv_bfloat16*>(arguments.out.y)[at] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(arguments.out.y)[at] = value;
  }
}

// What a thread has of a piece's sums [4 j + 2 half + i]: weight rows row_of(half) of the piece, tokens token_of(j, i).
__device__ __forceinline__ int row_of(int half) {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + 8 * half + static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ __forceinline__ int token_of(int j, int i) { return 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + i; }

// What is added to a thread's sums; asked for before they are made, since y may be where it lies.
template <int kTokens>
struct FewRowsAdded {
  float bias[2], residual[kTokens / 2];

  __device__ __forceinline__ void load(const FewRowsArguments& arguments, std::int64_t begin) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t n = begin + row_of(half);
      const bool is_row = row_of(half) < arguments.plan.piece_rows && n < arguments.N;
      bias[half] = is_row && arguments.out.bias != nullptr ? arguments.out.bias[n] : 0.0f;
      const float* const from = arguments.out.residual + n;
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int t = token_of(j, i);
          const bool is_added = is_row && t < arguments.T && arguments.out.residual != nullptr;
          residual[4 * j + 2 * half + i] = is_added ? from[t * arguments.out.residual_stride] : 0.0f;
        }
      }
    }
  }
};

template <int kTokens, bool kPair>
__device__ __forceinline__ void finish_tile(const FewRowsArguments& arguments, const FewRowsPlace& place,
                                            std::int64_t begin, const float (&sums)[kPair ? 2 : 1][kTokens / 2],
                                            const FewRowsAdded<kTokens>& added) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t n = begin + row_of(half);
    const bool is_row = row_of(half) < arguments.plan.piece_rows && n < arguments.N;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = token_of(j, i), at = 4 * j + 2 * half + i;
        if (!is_row || t >= place.rows) continue;
        if constexpr (kPair) {
          store_output(arguments, place.row + t, n,
                       finish_pair_any(arguments.out.activation, sums[0][at], sums[1][at]));
        } else {
          store_output(arguments, place.row + t, n,
                       finish_sum(sums[0][at], added.bias[half], arguments.out.bias != nullptr, arguments.out.alpha,
                                  added.residual[at], arguments.out.residual != nullptr));
        }
      }
    }
  }
}

template <int kTokens, bool kPair, bool kKeepsX, bool kGrouped>
__device__ __forceinline__ void multiply_tiles(const FewRowsArguments& arguments, const FewRowsTiles<kGrouped>& tiles,
                                               FewRowsShared& shared, std::uint32_t kept, std::uint32_t ring,
                                               int warpgroup) {
  constexpr int kPieces = kPair ? 2 : 1;
  const FewRowsPlan& plan = arguments.plan;
  const int slabs_all = (arguments.K + kStreamedSlab - 1) / kStreamedSlab;
  // In a stage: a piece's slabs, the next piece's, then x's. All in units of 16 bytes.
  const std::uint32_t piece_slab = static_cast<std::uint32_t>(plan.piece_rows) * 8;
  const std::uint32_t piece = piece_slab * static_cast<std::uint32_t>(plan.slabs);
  const std::uint32_t stage = static_cast<std::uint32_t>(plan.stage_bytes) / 16;
  const std::uint32_t chunk = static_cast<std::uint32_t>(plan.chunk_bytes) / 16;
  const std::uint32_t x_slab = kKeepsX ? 8 * chunk : static_cast<std::uint32_t>(plan.x_rows) * 8;
  const std::uint32_t x_step = kKeepsX ? 2 * chunk : 2;  // from 16 columns of x to the next
  const std::uint32_t weights_low = swizzled_low(ring) + static_cast<std::uint32_t>(warpgroup * kPieces) * piece;
  const std::uint32_t x_low = kKeepsX
                                  ? kept_low(kept, 16 * chunk)
                                  : swizzled_low(ring) + static_cast<std::uint32_t>(plan.warpgroups * kPieces) * piece;
  constexpr std::uint32_t kXHigh = kKeepsX ? kKeptHigh : kSwizzledHigh;
  const bool is_first = threadIdx.x % 128 == 0;
  // Addresses are counted on, not computed: between two stages they would be what a chain of products waits for.
  std::uint64_t* full = shared.full;
  std::uint64_t* const full_end = full + plan.stages;
  std::uint32_t stage_at = 0, parity = 0;
  const auto release = [&](std::uint64_t* of) { barrier_arrive(of + (shared.empty - shared.full)); };
  for (std::int64_t tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
    const FewRowsPlace place = tiles.at(tile);
    const std::int64_t begin = place.n + warpgroup * plan.piece_rows;
    FewRowsAdded<kTokens> added{};
    if constexpr (!kPair && !kGrouped) added.load(arguments, begin);
    float sums[kPieces][kTokens / 2];
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) sums[p][i] = 0.0f;
    }
    std::uint64_t* previous = nullptr;
    std::uint32_t weights, x = x_low;
    const auto multiply_slab = [&] {
      product_fence();
#pragma unroll
      for (int k = 0; k < kStreamedSlab / 16; ++k) {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          multiply_rows<kTokens>(sums[p],
                                 operand_of(weights + static_cast<std::uint32_t>(p) * piece + 2 * k, kSwizzledHigh),
                                 operand_of(x + k * x_step, kXHigh));
        }
      }
      product_commit();
      weights += piece_slab;
      x += x_slab;
    };
    for (int left = slabs_all; left > 0; left -= plan.slabs) {
      weights = weights_low + stage_at;
      if constexpr (!kKeepsX) x = x_low + stage_at;
      barrier_wait(full, parity);
      multiply_slab();
      // The stage before this one is free once only this slab is still being multiplied.
      product_wait<1>();
      if (is_first && previous != nullptr) release(previous);
      previous = full;
      stage_at += stage;
      if (++full == full_end) {
        full = shared.full;
        stage_at = 0;
        parity ^= 1;
      }
#pragma unroll 1
      for (int slabs = min(plan.slabs, left); slabs > 1; --slabs) multiply_slab();
    }
    product_wait<0>();
#pragma unroll
    for (int p = 0; p < kPieces; ++p) product_touch(sums[p]);
    if (is_first) release(previous);
    finish_tile<kTokens, kPair>(arguments, place, begin, sums, added);
  }
}

inline constexpr int kFewRowsThreads = 128 * kStreamedWarpgroups + 32;
static_assert(128 * kStreamedWarpgroups == kNormThreads);

template <int kTokens, bool kPair, bool kKeepsX, bool kGrouped>
__global__ void __launch_bounds__(kFewRowsThreads, 1)
    linear_few_rows_sm90_kernel(const __grid_constant__ FewRowsArguments arguments) {
  static_assert(!kGrouped || !kKeepsX);
  extern __shared__ std::byte raw[];
  std::byte* const base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  FewRowsShared& shared = *reinterpret_cast<FewRowsShared*>(base);
  std::byte* const kept = base + kStreamedFixedBytes - 1024;
  const FewRowsPlan& plan = arguments.plan;
  FewRowsUnit* const units = reinterpret_cast<FewRowsUnit*>(kept + plan.kept_bytes);
  const std::uint32_t ring = shared_address(kept) + static_cast<std::uint32_t>(plan.kept_bytes + plan.units_bytes);
  // The same in all lanes, and known to be: products may not lie where a warp could split.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);

  NormGains gains;
  if constexpr (kKeepsX) {
    if (warpgroup < kStreamedWarpgroups) gains.load(arguments);
  }
  // Nobody fits beside a block, so the next kernel's may as well wait at the door.
  if constexpr (!kGrouped) start_next();
  if (threadIdx.x == 128 * kStreamedWarpgroups) {
    prefetch_map(&arguments.weight);
    if constexpr (kPair) prefetch_map(&arguments.up);
    if constexpr (!kKeepsX) prefetch_map(&arguments.x);
    for (int stage = 0; stage < plan.stages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], static_cast<std::uint32_t>(plan.warpgroups));
    }
    barrier_init_fence();
  }
  if constexpr (kGrouped) {
    // The next kernel is let in only when the one before has ended: it then finds offsets that are settled.
    if (!arguments.offsets_are_settled) wait_for_previous();
    start_next();
    if (warpgroup == kStreamedWarpgroups) {
      __syncwarp();
      const int count = list_units<kTokens>(arguments.offsets, arguments.groups, arguments.T, plan.units_max, units);
      if (threadIdx.x % 32 == 0) shared.units_count = count;
    }
  }
  __syncthreads();
  const FewRowsTiles<kGrouped> tiles{.units = units,
                                     .count = kGrouped ? shared.units_count * plan.tiles : plan.tiles,
                                     .rows = arguments.T,
                                     .tile_rows = plan.warpgroups * plan.piece_rows,
                                     .tiles = static_cast<int>(plan.tiles),
                                     .N = arguments.N};
  if (warpgroup == kStreamedWarpgroups) {
    if (elect_one()) {
      copy_weights<kPair, kKeepsX>(arguments, tiles, shared, ring);
    } else {
      wait_for_previous();
    }
    return;
  }
  wait_for_previous();
  if constexpr (kKeepsX) {
    if (arguments.x_is_bf16) {
      keep_halves(arguments, kept);
    } else if (arguments.T == 1) {
      keep_rows<1>(arguments, gains, shared, kept);
    } else {
      keep_rows<kFewRowsKeptRowsMax>(arguments, gains, shared, kept);
    }
  }
  if (warpgroup < plan.warpgroups) {
    multiply_tiles<kTokens, kPair, kKeepsX>(arguments, tiles, shared, shared_address(kept), ring, warpgroup);
  }
}

}  // namespace sm90
}  // namespace tandem::kernels

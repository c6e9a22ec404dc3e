// A linear layer of some dozens of rows, 17 to 64: Hopper's kernel (some_rows_sm90.cu launches it;
// some_rows_sm90_plan.h deals the work).
//
//   y[t,n] = sum over k of x[t,k] W[n,k]: the tokens are the products' left side (64 rows; those past T are multiplied
//   and dropped), a piece of the weights the right side, 16 to 64 of them.
//
//   1 warp          copies weights through a ring of stages
//   1 warp          copies x through another
//   2 warpgroups    multiply what has arrived, k ascending, one f32 accumulator an output
//
// As in few_rows_sm90.cuh, weights are asked for before the kernel ahead (which must not write them) has ended, and all
// else after. Unlike there: x is up to four times a block's weights, and comes from the L2 cache soon, weights from
// memory late. So each has a ring and a thread of its own, and what is asked for of the weights has a limit, since the
// copy engine does first what was asked first. A product that has tokens on the left reads 64 rows of them and as many
// weights as there are; the other way round it would read 64 rows of weights, of which a block may have 16.
//
// Bound    2 N K bytes from memory; and into each multiprocessor 2 K (T + rows of weights) bytes for a tile, 64 a
//          clock. Measured: docs/kernels/linear_cuda.md
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/common/launch.cuh"
#include "kernels/linear/epilogue.cuh"
#include "kernels/linear/few_rows_products_sm90.cuh"
#include "kernels/linear/some_rows_sm90_plan.h"

namespace tandem::kernels {
namespace sm90 {

struct SomeRowsArguments {
  SomeRowsPlan plan;  // first, with what else the copying threads read: a launch's arguments come cold
  int T = 0, K = 0;
  std::int64_t N = 0;
  LinearOutput out;
  bool has_pairs = false;  // N is even, and rows of y and the residual allow access to two elements at once
  CUtensorMap weight, up, x;

  __device__ __forceinline__ int slabs() const { return (K + kStreamedSlab - 1) / kStreamedSlab; }
  __device__ __forceinline__ int tile_rows() const { return plan.warpgroups * plan.piece_rows; }
};

// Shared memory of a block, before the rings.
struct SomeRowsShared {
  std::uint64_t weights_full[kStreamedStagesMax], weights_empty[kStreamedStagesMax];
  std::uint64_t x_full[kStreamedStagesMax], x_empty[kStreamedStagesMax];
};
static_assert(sizeof(SomeRowsShared) <= kStreamedFixedBytes - 1024);

// The thread that copies weights.
template <bool kPair>
__device__ __forceinline__ void copy_some_weights(const SomeRowsArguments& arguments, SomeRowsShared& shared,
                                                  std::uint32_t ring) {
  const SomeRowsPlan& plan = arguments.plan;
  const StreamedBoxes boxes(arguments.K, 1);  // asked by slabs
  const int slabs_all = arguments.slabs(), tile_rows = arguments.tile_rows();
  StageCursor cursor{.parity = 1}, due;
  int asked = 0;
  for (std::int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const int row = static_cast<int>(tile) * tile_rows;
    for (int slab = 0; slab < slabs_all; slab += plan.slabs, cursor.advance(plan.weight_stages)) {
      std::uint64_t* const full = &shared.weights_full[cursor.stage];
      if (asked++ >= plan.under_way) {
        barrier_wait(&shared.weights_full[due.stage], due.parity);
        due.advance(plan.weight_stages);
      }
      barrier_wait(&shared.weights_empty[cursor.stage], cursor.parity);
      barrier_expect_bytes(full, static_cast<std::uint32_t>(plan.weight_stage_bytes));
      const std::uint32_t to = ring + static_cast<std::uint32_t>(cursor.stage * plan.weight_stage_bytes);
      const int column = boxes.column(slab), at = boxes.slab(slab);
      load_box(to, &arguments.weight, full, column, row, at, kEvictFirst);
      if constexpr (kPair) {
        load_box(to + static_cast<std::uint32_t>(plan.weight_stage_bytes / 2), &arguments.up, full, column, row, at,
                 kEvictFirst);
      }
    }
  }
}

// The thread that copies x. Its barriers expect what the first round brings before the kernel ahead has ended. After
// that, no fence: what that kernel wrote is there for the copy engine as for threads (and a fence took 0.5 us).
__device__ __forceinline__ void copy_some_x(const SomeRowsArguments& arguments, SomeRowsShared& shared,
                                            std::uint32_t ring) {
  const SomeRowsPlan& plan = arguments.plan;
  const StreamedBoxes boxes(arguments.K, 1);  // asked by slabs
  const int slabs_all = arguments.slabs();
  const auto stage_bytes = static_cast<std::uint32_t>(plan.x_stage_bytes);
  for (int stage = 0; stage < plan.x_stages; ++stage) barrier_expect_bytes(&shared.x_full[stage], stage_bytes);
  wait_for_previous();
  StageCursor cursor{.parity = 1};
  bool is_first_round = true;  // of the ring
  for (std::int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    for (int slab = 0; slab < slabs_all; slab += plan.slabs) {
      std::uint64_t* const full = &shared.x_full[cursor.stage];
      if (!is_first_round) {
        barrier_wait(&shared.x_empty[cursor.stage], cursor.parity);
        barrier_expect_bytes(full, stage_bytes);
      }
      load_box(ring + static_cast<std::uint32_t>(cursor.stage) * stage_bytes, &arguments.x, full, boxes.column(slab), 0,
               boxes.slab(slab));
      cursor.advance(plan.x_stages);
      if (cursor.stage == 0) is_first_round = false;
    }
  }
}

// What a thread has of a piece's sums [4 j + 2 half + i]: tokens token_of(half), columns column_of(j) + i of the piece.
struct SomeRowsPlace {
  int token;            // of the first half; the other's is 8 more
  std::int64_t column;  // of y: the first of j = 0; that of j is 8 j more
  int columns;          // of y from there on that are this piece's
  __device__ __forceinline__ SomeRowsPlace(const SomeRowsArguments& arguments, std::int64_t begin) {
    const int lane = static_cast<int>(threadIdx.x) % 32, within = 2 * (lane % 4);
    token = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
    column = begin + within;
    const std::int64_t left = arguments.N - begin;
    columns = static_cast<int>(left < arguments.plan.piece_rows ? left : arguments.plan.piece_rows) - within;
  }
};

// What is added to a thread's sums; asked for before they are made, since y may be where it lies.
template <int kColumns>
struct SomeRowsAdded {
  float bias[kColumns / 4], residual[kColumns / 2];

  __device__ __forceinline__ void load(const SomeRowsArguments& arguments, const SomeRowsPlace& place) {
#pragma unroll
    for (int i = 0; i < kColumns / 4; ++i) bias[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) residual[i] = 0.0f;
    if (arguments.out.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (8 * j + i < place.columns) bias[2 * j + i] = arguments.out.bias[place.column + 8 * j + i];
        }
      }
    }
    if (arguments.out.residual == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = place.token + 8 * half;
      if (t >= arguments.T) continue;
      const float* const from = arguments.out.residual + t * arguments.out.residual_stride + place.column;
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        float* const to = residual + 4 * j + 2 * half;
        if (arguments.has_pairs) {
          if (8 * j >= place.columns) continue;
          const float2 both = *reinterpret_cast<const float2*>(from + 8 * j);
          to[0] = both.x;
          to[1] = both.y;
        } else {
          if (8 * j < place.columns) to[0] = from[8 * j];
          if (8 * j + 1 < place.columns) to[1] = from[8 * j + 1];
        }
      }
    }
  }
};

template <class Element, int kColumns>
__device__ __forceinline__ void store_some(const SomeRowsArguments& arguments, const SomeRowsPlace& place,
                                           const float (&values)[kColumns]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = place.token + 8 * half;
    if (t >= arguments.T) continue;
    Element* const to = static_cast<Element*>(arguments.out.y) + t * arguments.out.y_stride + place.column;
#pragma unroll
    for (int j = 0; j < kColumns / 4; ++j) {
      const float first = values[4 * j + 2 * half], second = values[4 * j + 2 * half + 1];
      if constexpr (std::is_same_v<Element, float>) {
        if (arguments.has_pairs) {
          if (8 * j < place.columns) *reinterpret_cast<float2*>(to + 8 * j) = {first, second};
        } else {
          if (8 * j < place.columns) to[8 * j] = first;
          if (8 * j + 1 < place.columns) to[8 * j + 1] = second;
        }
      } else {
        if (arguments.has_pairs) {
          const std::uint32_t both = pack<Element>(first, second);
          if (8 * j < place.columns) *reinterpret_cast<std::uint32_t*>(to + 8 * j) = both;
        } else {
          if (8 * j < place.columns) to[8 * j] = __float2bfloat16_rn(first);
          if (8 * j + 1 < place.columns) to[8 * j + 1] = __float2bfloat16_rn(second);
        }
      }
    }
  }
}

template <int kColumns, bool kPair>
__device__ __forceinline__ void finish_some_tile(const SomeRowsArguments& arguments, const SomeRowsPlace& place,
                                                 float (&sums)[kPair ? 2 : 1][kColumns / 2],
                                                 const SomeRowsAdded<kColumns>& added) {
  if (place.token >= arguments.T) return;
  if constexpr (kPair) {
    if (place.token + 8 >= arguments.T) {  // nothing that makes the others wait
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) {
        if (i % 4 >= 2) sums[0][i] = 1.0f;
      }
    }
    if (arguments.out.activation == Activation::kSilu) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; i += 8) finish_pairs<Activation::kSilu, 8>(sums[0] + i, sums[1] + i);
    } else {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) {
        sums[0][i] = finish_pair_any(arguments.out.activation, sums[0][i], sums[1][i]);
      }
    }
  } else {
    const bool has_bias = arguments.out.bias != nullptr, has_residual = arguments.out.residual != nullptr;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      sums[0][i] = finish_sum(sums[0][i], added.bias[i / 4 * 2 + i % 2], has_bias, arguments.out.alpha,
                              added.residual[i], has_residual);
    }
  }
  if (arguments.out.y_is_bf16) {
    store_some<__nv_bfloat16>(arguments, place, sums[0]);
  } else {
    store_some<float>(arguments, place, sums[0]);
  }
}

template <int kColumns, bool kPair>
__device__ __forceinline__ void multiply_some_tiles(const SomeRowsArguments& arguments, SomeRowsShared& shared,
                                                    std::uint32_t x_ring, std::uint32_t weight_ring, int warpgroup) {
  constexpr int kPieces = kPair ? 2 : 1;
  const SomeRowsPlan& plan = arguments.plan;
  const int slabs_all = arguments.slabs();
  // In units of 16 bytes. In a stage of weights: a matrix's slabs, then those of the other of a pair.
  const std::uint32_t weight_slab = static_cast<std::uint32_t>(arguments.tile_rows()) * 8;
  const std::uint32_t matrix = weight_slab * static_cast<std::uint32_t>(plan.slabs);
  const std::uint32_t weight_stage = matrix * kPieces;
  const std::uint32_t x_slab = static_cast<std::uint32_t>(plan.x_rows) * 8;
  const std::uint32_t x_stage = x_slab * static_cast<std::uint32_t>(plan.slabs);
  const std::uint32_t weights_low =
      swizzled_low(weight_ring) + static_cast<std::uint32_t>(warpgroup * plan.piece_rows) * 8;
  const std::uint32_t x_low = swizzled_low(x_ring);
  const bool is_first = threadIdx.x % 128 == 0;
  StageCursor weight_at, x_at;
  for (std::int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const std::int64_t begin = tile * arguments.tile_rows() + warpgroup * plan.piece_rows;
    const SomeRowsPlace place(arguments, begin);
    SomeRowsAdded<kColumns> added;
    if constexpr (!kPair) added.load(arguments, place);
    float sums[kPieces][kColumns / 2];
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) sums[p][i] = 0.0f;
    }
    int weights_done = -1, x_done = -1;  // the stages before these
    const auto release = [&] {
      if (!is_first || weights_done < 0) return;
      barrier_arrive(&shared.weights_empty[weights_done]);
      barrier_arrive(&shared.x_empty[x_done]);
    };
    for (int slab = 0; slab < slabs_all;) {
      std::uint32_t weights = weights_low + static_cast<std::uint32_t>(weight_at.stage) * weight_stage;
      std::uint32_t x = x_low + static_cast<std::uint32_t>(x_at.stage) * x_stage;
      const int slabs = min(plan.slabs, slabs_all - slab);
      slab += slabs;
      barrier_wait(&shared.weights_full[weight_at.stage], weight_at.parity);
      barrier_wait(&shared.x_full[x_at.stage], x_at.parity);
      const auto multiply_slab = [&] {
        product_fence();
#pragma unroll
        for (int k = 0; k < kStreamedSlab / 16; ++k) {
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            const std::uint32_t piece = weights + static_cast<std::uint32_t>(p) * matrix;
            multiply_rows<kColumns>(sums[p], operand_of(x + 2 * k, kSwizzledHigh),
                                    operand_of(piece + 2 * k, kSwizzledHigh));
          }
        }
        product_commit();
        weights += weight_slab;
        x += x_slab;
      };
      // The stages before these are free once only slabs of these are still being multiplied.
      multiply_slab();
      if (slabs == 1) {
        product_wait<1>();
        release();
      } else {
        multiply_slab();
        product_wait<2>();
        release();
        for (int i = 2; i < slabs; ++i) multiply_slab();
      }
      weights_done = weight_at.stage;
      x_done = x_at.stage;
      weight_at.advance(plan.weight_stages);
      x_at.advance(plan.x_stages);
    }
    product_wait<0>();
#pragma unroll
    for (int p = 0; p < kPieces; ++p) product_touch(sums[p]);
    release();
    finish_some_tile<kColumns, kPair>(arguments, place, sums, added);
  }
}

inline constexpr int kSomeRowsThreads = 128 * kStreamedWarpgroups + 64;

template <int kColumns, bool kPair>
__global__ void __launch_bounds__(kSomeRowsThreads, 1)
    linear_some_rows_sm90_kernel(const __grid_constant__ SomeRowsArguments arguments) {
  extern __shared__ std::byte raw[];
  std::byte* const base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  SomeRowsShared& shared = *reinterpret_cast<SomeRowsShared*>(base);
  const SomeRowsPlan& plan = arguments.plan;
  const std::uint32_t x_ring = shared_address(base) + kStreamedFixedBytes - 1024;
  const std::uint32_t weight_ring = x_ring + static_cast<std::uint32_t>(plan.x_stages * plan.x_stage_bytes);
  // The same in all lanes, and known to be: products may not lie where a warp could split.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const int warpgroup = warp / 4;
  constexpr int kWeightWarp = 4 * kStreamedWarpgroups, kXWarp = kWeightWarp + 1;

  // Nobody fits beside a block, so the next kernel's may as well wait at the door.
  start_next();
  if (warp == kWeightWarp) {
    if (elect_one()) {
      prefetch_map(&arguments.weight);
      if constexpr (kPair) prefetch_map(&arguments.up);
      for (int stage = 0; stage < plan.weight_stages; ++stage) {
        barrier_init(&shared.weights_full[stage], 1);
        barrier_init(&shared.weights_empty[stage], static_cast<std::uint32_t>(plan.warpgroups));
      }
      barrier_init_fence();
    }
    __syncwarp();
    named_arrive(1, kSomeRowsThreads);  // and waits for nobody: the first weights are asked for at once
    if (elect_one()) copy_some_weights<kPair>(arguments, shared, weight_ring);
    wait_for_previous();
    return;
  }
  if (warp == kXWarp && elect_one()) {
    prefetch_map(&arguments.x);
    for (int stage = 0; stage < plan.x_stages; ++stage) {
      barrier_init(&shared.x_full[stage], 1);
      barrier_init(&shared.x_empty[stage], static_cast<std::uint32_t>(plan.warpgroups));
    }
    barrier_init_fence();
  }
  __syncwarp();
  named_sync(1, kSomeRowsThreads);
  if (warp == kXWarp && elect_one()) copy_some_x(arguments, shared, x_ring);
  wait_for_previous();
  if (warpgroup < plan.warpgroups) {
    multiply_some_tiles<kColumns, kPair>(arguments, shared, x_ring, weight_ring, warpgroup);
  }
}

}  // namespace sm90
}  // namespace tandem::kernels

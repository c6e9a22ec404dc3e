// A linear layer of up to 16 rows, or grouped ones of some more: Hopper's kernel (few_rows_sm90.cu launches it;
// few_rows_sm90_plan.h deals the work; some_rows_sm90.cuh takes more rows of one matrix).
//
//   y^T[n,t] = sum over k of W[n,k] x[t,k]: the weights are the products' left side, 64 rows at a time (fewer are
//   used, the others read what lies behind and are dropped), the tokens the right side, 8 to 32 of them.
//
//   1 warp          copies weights through a ring of stages
//   1 warp          copies x into the same stages, unless it is kept (FewRowsPlan); of groups the first warp does
//   2 warpgroups    multiply what has arrived, k ascending, one f32 accumulator an output; before that, read the x that
//                   is kept, normalised and rounded if it is f32
//
// What happens between the end of one kernel and the first product of the next is what a layer of few megabytes loses.
// So the first box is asked for behind its own barriers and no others, and while x comes all is made that the products
// need: addresses, what is added to the sums. A kernel has one way of x only, since what it does not need lies between
// what it does.
//
// The weights do not depend on the kernel before this one (which must not write them), so their first stages are asked
// for at once; everything else waits for it to end (wait_for_previous). Of grouped layers (linear.h), which weights are
// to be read does: a block reads the offsets first and lists the units (few_rows_units_sm90.cuh), and all of that
// waits, unless the offsets are older than the kernel before.
//
// Bound    bytes 2 N K: memory bound. Measured: docs/kernels/linear_cuda.md
#pragma once

#include <cuda_bf16.h>

#include <cstddef>
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

// Walks the tiles of this block, a stage at a time.
template <bool kGrouped>
struct FewRowsWalk {
  const FewRowsTiles<kGrouped>& tiles;
  int steps;
  int tile = static_cast<int>(blockIdx.x), step = 0;
  FewRowsPlace place;
  __device__ __forceinline__ FewRowsWalk(const FewRowsTiles<kGrouped>& tiles, int steps) : tiles(tiles), steps(steps) {
    if (!done()) place = tiles.at(tile);
  }
  __device__ __forceinline__ bool done() const { return tile >= tiles.count; }
  __device__ __forceinline__ void advance() {
    if (++step < steps) return;
    step = 0;
    tile += static_cast<int>(gridDim.x);
    if (!done()) place = tiles.at(tile);
  }
};

// What the warp that copies weights does; of grouped layers x too.
template <bool kPair, bool kKeepsX, bool kGrouped>
struct FewRowsCopies {
  const FewRowsArguments& arguments;
  FewRowsShared& shared;
  std::uint32_t ring, piece_bytes, weights_bytes;
  StreamedBoxes boxes;
  FewRowsWalk<kGrouped> walk;
  int stage = 0;  // the next of the first round

  __device__ __forceinline__ FewRowsCopies(const FewRowsArguments& arguments, const FewRowsTiles<kGrouped>& tiles,
                                           FewRowsShared& shared, std::uint32_t ring)
      : arguments(arguments),
        shared(shared),
        ring(ring),
        boxes(arguments.K, arguments.plan.slabs),
        walk(tiles, arguments.plan.steps) {
    const FewRowsPlan& plan = arguments.plan;
    piece_bytes = static_cast<std::uint32_t>(plan.slabs * plan.piece_rows * 128);
    weights_bytes = static_cast<std::uint32_t>(plan.warpgroups * (kPair ? 2 : 1)) * piece_bytes;
  }
  // One thread: a stage's barriers.
  __device__ __forceinline__ void init(int of_stage) const {
    barrier_init(&shared.full[of_stage], 1);
    barrier_init(&shared.empty[of_stage], static_cast<std::uint32_t>(arguments.plan.warpgroups));
    if constexpr (!kKeepsX && !kGrouped) barrier_init(&shared.full_x[of_stage], 1);
  }
  __device__ __forceinline__ void load_weights(int to_stage) const {
    const FewRowsPlan& plan = arguments.plan;
    std::uint64_t* const full = &shared.full[to_stage];
    barrier_expect_bytes(full, kGrouped ? static_cast<std::uint32_t>(plan.stage_bytes) : weights_bytes);
    std::uint32_t to = ring + static_cast<std::uint32_t>(to_stage * plan.stage_bytes);
    int row = walk.place.weight_row;
#pragma unroll
    for (int g = 0; g < kStreamedWarpgroups; ++g, row += plan.piece_rows) {
      if (g == plan.warpgroups) break;
      load_box(to, &arguments.weight, full, boxes.column(walk.step), row, boxes.slab(walk.step), kEvictFirst);
      to += piece_bytes;
      if constexpr (kPair) {
        load_box(to, &arguments.up, full, boxes.column(walk.step), row, boxes.slab(walk.step), kEvictFirst);
        to += piece_bytes;
      }
    }
  }
  __device__ __forceinline__ void load_x(const FewRowsPlace& place, int step, int to_stage) const {
    const std::uint32_t to = ring + static_cast<std::uint32_t>(to_stage * arguments.plan.stage_bytes) + weights_bytes;
    load_box(to, &arguments.x, &shared.full[to_stage], boxes.column(step), place.row, boxes.slab(step));
  }

  // All of the warp: barriers, and behind the first of them the first weights, as many as may be under way. (A lane
  // for each barrier would not be faster: only one of them at a time can make one.)
  __device__ __forceinline__ void start() {
    const FewRowsPlan& plan = arguments.plan;
    for (; stage < plan.under_way && !walk.done(); ++stage, walk.advance()) {
      if (elect_one()) {
        init(stage);
        barrier_init_fence();
        load_weights(stage);
      }
    }
    if (elect_one()) {
#pragma unroll 1
      for (int rest = stage; rest < plan.stages; ++rest) init(rest);
      barrier_init_fence();
    }
    __syncwarp();
  }

  // One thread: the rest. The first round of the ring: weights before the previous kernel has ended, groups' x after.
  __device__ __forceinline__ void go_on(const FewRowsTiles<kGrouped>& tiles) {
    const FewRowsPlan& plan = arguments.plan;
    for (; stage < plan.stages && !walk.done(); ++stage, walk.advance()) {
      barrier_wait(&shared.full[stage - plan.under_way], 0);
      load_weights(stage);
    }
    wait_for_previous();
    if constexpr (kGrouped) {
      FewRowsWalk<kGrouped> of(tiles, plan.steps);
      for (int i = 0; i < stage; ++i, of.advance()) load_x(of.place, of.step, i);
    }
    StageCursor cursor, under_way{.stage = plan.stages - plan.under_way};
    for (; !walk.done(); walk.advance()) {
      barrier_wait(&shared.empty[cursor.stage], cursor.parity);
      if (!kGrouped && plan.under_way < plan.stages) {
        barrier_wait(&shared.full[under_way.stage], under_way.parity);
        under_way.advance(plan.stages);
      }
      load_weights(cursor.stage);
      if constexpr (kGrouped) load_x(walk.place, walk.step, cursor.stage);
      cursor.advance(plan.stages);
    }
  }
};

// The thread that copies x, into the stages' ends. Asked for by the one that copies weights, x would wait until the
// whole ring is filled.
__device__ __forceinline__ void copy_x(const FewRowsArguments& arguments, FewRowsShared& shared, std::uint32_t ring) {
  const FewRowsPlan& plan = arguments.plan;
  const std::uint32_t bytes = static_cast<std::uint32_t>(plan.slabs * plan.x_rows * 128);
  const StreamedBoxes boxes(arguments.K, plan.slabs);
  wait_for_previous();  // no fence after it: as copy_some_x()
  StageCursor cursor{.parity = 1};
  for (int tile = static_cast<int>(blockIdx.x); tile < plan.tiles; tile += static_cast<int>(gridDim.x)) {
    for (int step = 0; step < plan.steps; ++step) {
      barrier_wait(&shared.empty[cursor.stage], cursor.parity);
      barrier_expect_bytes(&shared.full_x[cursor.stage], bytes);
      load_box(ring + static_cast<std::uint32_t>((cursor.stage + 1) * plan.stage_bytes) - bytes, &arguments.x,
               &shared.full_x[cursor.stage], boxes.column(step), 0, boxes.slab(step));
      cursor.advance(plan.stages);
    }
  }
}

// What a thread has of a piece's sums [4 j + 2 half + i]: weight rows thread_row() + 8 half of the piece, tokens
// token_of(j, i).
__device__ __forceinline__ int thread_row() {
  return static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ __forceinline__ int token_of(int j, int i) { return 8 * j + 2 * (static_cast<int>(threadIdx.x) % 4) + i; }
template <int kTokens, class Act>
__device__ __forceinline__ void for_sums(Act act) {  // act(index, half, token)
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) act(4 * j + 2 * half + i, half, token_of(j, i));
    }
  }
}
// Whether the thread's rows exist, of a piece from row `begin` of the weights on.
struct FewRowsExisting {
  bool row[2];
  __device__ __forceinline__ FewRowsExisting(const FewRowsArguments& arguments, int begin) {
    const int rows = min(arguments.plan.piece_rows, arguments.N - begin);
    row[0] = thread_row() < rows;
    row[1] = thread_row() + 8 < rows;
  }
};

// What is added to a thread's sums; asked for before they are made, since y may be where it lies.
template <int kTokens>
struct FewRowsAdded {
  float bias[2], residual[kTokens / 2];

  __device__ __forceinline__ void load(const FewRowsArguments& arguments, int begin) {
    const LinearOutput& out = arguments.out;
    const bool has_residual = out.residual != nullptr, has_bias = out.bias != nullptr;
    const FewRowsExisting exists(arguments, begin);
    const float* const bias_at = out.bias + begin + thread_row();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bias[half] = 0.0f;
      if (has_bias && exists.row[half]) bias[half] = bias_at[8 * half];
    }
    const float* const residual_at = out.residual + begin + thread_row();
    for_sums<kTokens>([&](int at, int half, int t) {
      residual[at] = 0.0f;
      if (has_residual && exists.row[half] && t < arguments.T)
        residual[at] = (residual_at + t * out.residual_stride)[8 * half];
    });
  }
};

// finish_pairs() of a thread's sums. Those that are of no row of x or of weights become one: quotients of zeros would
// take division's slow path.
template <int kTokens>
__device__ __forceinline__ void finish_gates(Activation activation, float (&gate)[kTokens / 2],
                                             const float (&up)[kTokens / 2], const bool (&is_there)[kTokens / 2]) {
  constexpr int kCount = kTokens == 8 ? 4 : 8;
#pragma unroll
  for (int at = 0; at < kTokens / 2; ++at) gate[at] = is_there[at] ? gate[at] : 1.0f;
  const auto finish = [&]<Activation kActivation>() {
#pragma unroll
    for (int at = 0; at < kTokens / 2; at += kCount) finish_pairs<kActivation, kCount>(gate + at, up + at);
  };
  switch (activation) {
    case Activation::kSilu: return finish.template operator()<Activation::kSilu>();
    case Activation::kGeluTanh: return finish.template operator()<Activation::kGeluTanh>();
    default: return finish.template operator()<Activation::kGeluErf>();
  }
}

template <int kTokens, bool kPair>
__device__ __forceinline__ void finish_tile(const FewRowsArguments& arguments, const FewRowsPlace& place, int begin,
                                            float (&sums)[kPair ? 2 : 1][kTokens / 2],
                                            const FewRowsAdded<kTokens>& added) {
  const LinearOutput& out = arguments.out;
  const FewRowsExisting exists(arguments, begin);
  bool is_there[kTokens / 2];
  for_sums<kTokens>([&](int at, int half, int t) { is_there[at] = exists.row[half] && t < place.rows; });
  if constexpr (kPair) {
    finish_gates<kTokens>(out.activation, sums[0], sums[1], is_there);
  } else {
    for_sums<kTokens>([&](int at, int half, int) {
      sums[0][at] = finish_sum(sums[0][at], added.bias[half], out.bias != nullptr, out.alpha, added.residual[at],
                               out.residual != nullptr);
    });
  }
  const auto store = [&](auto* y, auto rounded) {
    y += place.row * out.y_stride + begin + thread_row();
    for_sums<kTokens>([&](int at, int half, int t) {
      if (is_there[at]) (y + t * out.y_stride)[8 * half] = rounded(sums[0][at]);
    });
  };
  if (out.y_is_bf16) {
    store(static_cast<__nv_bfloat16*>(out.y), [](float value) { return __float2bfloat16_rn(value); });
  } else {
    store(static_cast<float*>(out.y), [](float value) { return value; });
  }
}

// A warpgroup's part of the block's tiles. What can be known before x has come is made then.
template <int kTokens, bool kPair, bool kKeepsX, bool kGrouped>
struct FewRowsProducts {
  static constexpr int kPieces = kPair ? 2 : 1;
  const FewRowsArguments& arguments;
  FewRowsShared& shared;
  int first_row;  // of weights, in a tile
  // In a stage: a piece's slabs, the next piece's, then x's. All in units of 16 bytes.
  std::uint32_t piece_slab, piece, stage, x_slab, x_step, weights_low, x_low;
  FewRowsAdded<kTokens> added{};

  __device__ __forceinline__ FewRowsProducts(const FewRowsArguments& arguments, FewRowsShared& shared,
                                             std::uint32_t kept, std::uint32_t ring, int warpgroup)
      : arguments(arguments), shared(shared) {
    const FewRowsPlan& plan = arguments.plan;
    first_row = warpgroup * plan.piece_rows;
    piece_slab = static_cast<std::uint32_t>(plan.piece_rows) * 8;
    piece = piece_slab * static_cast<std::uint32_t>(plan.slabs);
    stage = static_cast<std::uint32_t>(plan.stage_bytes) / 16;
    const std::uint32_t chunk = static_cast<std::uint32_t>(plan.chunk_bytes) / 16;
    x_slab = kKeepsX ? 8 * chunk : static_cast<std::uint32_t>(plan.x_rows) * 8;
    x_step = kKeepsX ? 2 * chunk : 2;  // from 16 columns of x to the next
    weights_low = swizzled_low(ring) + static_cast<std::uint32_t>(warpgroup * kPieces) * piece;
    x_low = kKeepsX ? kept_low(kept, 16 * chunk)
                    : swizzled_low(ring) + static_cast<std::uint32_t>(plan.warpgroups * kPieces) * piece;
  }

  // What is added to the sums of the first tile, or the next.
  __device__ __forceinline__ void ask(const FewRowsPlace& place) {
    if constexpr (!kPair && !kGrouped) added.load(arguments, place.n + first_row);
  }

  __device__ __forceinline__ void make(const FewRowsTiles<kGrouped>& tiles) {
    const FewRowsPlan& plan = arguments.plan;
    constexpr std::uint32_t kXHigh = kKeepsX ? kKeptHigh : kSwizzledHigh;
    const int slabs_all = (arguments.K + kStreamedSlab - 1) / kStreamedSlab;
    const bool is_first = threadIdx.x % 128 == 0;
    // Addresses are counted on, not computed: between two stages they would be what a chain of products waits for.
    // Barriers by theirs, in shared memory.
    constexpr std::uint32_t kEmpty = offsetof(FewRowsShared, empty), kFullX = offsetof(FewRowsShared, full_x);
    static_assert(offsetof(FewRowsShared, full) == 0);
    const std::uint32_t full_begin = shared_address(&shared);
    const std::uint32_t full_end = full_begin + 8 * static_cast<std::uint32_t>(plan.stages);
    std::uint32_t full = full_begin, stage_at = 0, parity = 0;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count;) {
      const FewRowsPlace place = tiles.at(tile);
      float sums[kPieces][kTokens / 2];
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sums[p][i] = 0.0f;
      }
      std::uint32_t previous = 0;
      std::uint32_t weights = 0, x = x_low;
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
        if constexpr (!kKeepsX && !kGrouped) barrier_wait(full + kFullX, parity);
        barrier_wait(full, parity);
        multiply_slab();
        // The stage before this one is free once only this slab is still being multiplied.
        product_wait<1>();
        if (is_first && previous != 0) barrier_arrive(previous + kEmpty);
        previous = full;
        stage_at += stage;
        if ((full += 8) == full_end) {
          full = full_begin;
          stage_at = 0;
          parity ^= 1;
        }
#pragma unroll 1
        for (int slabs = min(plan.slabs, left); slabs > 1; --slabs) multiply_slab();
      }
      product_wait<0>();
#pragma unroll
      for (int p = 0; p < kPieces; ++p) product_touch(sums[p]);
      if (is_first) barrier_arrive(previous + kEmpty);
      finish_tile<kTokens, kPair>(arguments, place, place.n + first_row, sums, added);
      tile += static_cast<int>(gridDim.x);
      if (tile < tiles.count) ask(tiles.at(tile));
    }
  }
};

// Those who multiply, the warp that copies weights, and one for x if that has a thread of its own.
template <FewRowsX kX, bool kGrouped>
inline constexpr int kFewRowsThreads = 128 * kStreamedWarpgroups + (kX == FewRowsX::kCopied && !kGrouped ? 64 : 32);
static_assert(128 * kStreamedWarpgroups == kNormThreads);

template <int kTokens, bool kPair, FewRowsX kX, bool kGrouped>
__global__ void __launch_bounds__(kFewRowsThreads<kX, kGrouped>, 1)
    linear_few_rows_sm90_kernel(const __grid_constant__ FewRowsArguments arguments) {
  constexpr bool kKeepsX = kX != FewRowsX::kCopied, kAligned = kX != FewRowsX::kAny;
  constexpr int kThreads = kFewRowsThreads<kX, kGrouped>;
  static_assert(!kGrouped || !kKeepsX);
  extern __shared__ std::byte raw[];
  std::byte* const base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  FewRowsShared& shared = *reinterpret_cast<FewRowsShared*>(base);
  std::byte* const kept = base + kStreamedFixedBytes - 1024;
  const FewRowsPlan& plan = arguments.plan;
  FewRowsUnit* const units = reinterpret_cast<FewRowsUnit*>(kept + plan.kept_bytes);
  const std::uint32_t ring = shared_address(kept) + static_cast<std::uint32_t>(plan.kept_bytes + plan.units_bytes);
  // The same in all lanes, and known to be: products may not lie where a warp could split.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  const auto tiles_of = [&](int count) {
    return FewRowsTiles<kGrouped>{.units = units,
                                  .count = count,
                                  .rows = arguments.T,
                                  .tile_rows = plan.warpgroups * plan.piece_rows,
                                  .tiles = static_cast<int>(plan.tiles),
                                  .N = arguments.N};
  };

  // Nobody fits beside a block, so the next kernel's may as well wait at the door.
  if constexpr (!kGrouped) start_next();
  if (warp == 4 * kStreamedWarpgroups) {
    int count = 1;
    if constexpr (kGrouped) {
      // The next kernel is let in only when the one before has ended: it then finds offsets that are settled.
      if (!arguments.offsets_are_settled) wait_for_previous();
      start_next();
      count = list_units<kTokens>(arguments.offsets, arguments.groups, arguments.T, plan.units_max, units);
      if (threadIdx.x % 32 == 0) shared.units_count = count;
      __syncwarp();
    }
    const auto tiles = tiles_of(count * static_cast<int>(plan.tiles));
    FewRowsCopies<kPair, kKeepsX, kGrouped> copies(arguments, tiles, shared, ring);
    copies.start();
    named_arrive(2, kThreads);
    if (elect_one()) {
      copies.go_on(tiles);
    } else {
      wait_for_previous();
    }
    return;
  }
  if constexpr (!kKeepsX && !kGrouped) {
    if (warp > 4 * kStreamedWarpgroups) {
      if (elect_one()) prefetch_map(&arguments.x);
      named_sync(2, kThreads);
      if (elect_one()) {
        copy_x(arguments, shared, ring);
      } else {
        wait_for_previous();
      }
      return;
    }
  }
  NormGains gains;
  if constexpr (kKeepsX && kX != FewRowsX::kHalf) gains.load<kAligned>(arguments);
  if constexpr (kGrouped) {
    if (!arguments.offsets_are_settled) wait_for_previous();
    start_next();
  }
  const int warpgroup = warp / 4;
  FewRowsProducts<kTokens, kPair, kKeepsX, kGrouped> products(arguments, shared, shared_address(kept), ring, warpgroup);
  const auto ask = [&] {
    if constexpr (!kGrouped) {
      if (warpgroup < plan.warpgroups)
        products.ask(tiles_of(static_cast<int>(plan.tiles)).at(static_cast<int>(blockIdx.x)));
    }
  };
  if constexpr (kKeepsX) {
    const void* const own = own_x(arguments);
    wait_for_previous();
    if constexpr (kX == FewRowsX::kHalf) {
      keep_half(arguments, own, kept, ask);
    } else {
      keep_rows<kKeptRows<kX>, kAligned>(arguments, gains, own, shared, kept, ask);
    }
    named_sync(2, kThreads);
  } else {
    named_sync(2, kThreads);  // at once: the warp that asks for x is in it too
    wait_for_previous();
    ask();
  }
  if (warpgroup < plan.warpgroups)
    products.make(tiles_of(static_cast<int>(kGrouped ? shared.units_count * plan.tiles : plan.tiles)));
}

}  // namespace sm90
}  // namespace tandem::kernels

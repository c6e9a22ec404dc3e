// The first of the two kernels that spread few rows over the card (split_sm90.cu): scores and maxima of all blocks.
#pragma once

#include "kernels/attention/paged_tiles_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"
#include "kernels/fused_attention/rows_sm90.cuh"

namespace tandem::kernels::sm90 {

constexpr int kSplitRows = 16;  // a tile's at most: of one warp of a warpgroup's product

struct SplitArguments {
  PagedArguments paged;
  float *scores, *maxima;  // [items, blocks_max, halves, keys/16, 32, 4]; [items, blocks_max, 16]
  int blocks_max;
};

template <int kHeadDim>
struct ScoresConfig {
  static constexpr int kD = kHeadDim;
  static constexpr int kRows = 64;
  static constexpr int kKeys = kD == 256 ? 80 : 128;
  static constexpr int kSlots = kD == 256 ? 2 : 3;
  static constexpr int kQBytes = kRows * kD * 2, kTileBytes = kKeys * kD * 2;
  static constexpr int kThreads = 256;
};

template <class C>
struct alignas(16) ScoresBarriers {
  std::uint64_t q_full, full[C::kSlots], empty[C::kSlots];
  Item item;
};
template <class C>
constexpr int kScoresBytes = C::kQBytes + C::kSlots* C::kTileBytes + static_cast<int>(sizeof(ScoresBarriers<C>));

template <class C>
__device__ __forceinline__ void copy_scores_operands(const CUtensorMap* q_map, const CUtensorMap* k_map,
                                                     const PagedArguments& args, const Item& item, const KeyWalk& walk,
                                                     std::uint32_t shared, ScoresBarriers<C>& barriers) {
  const KeyCopies<C::kKeys, C::kD / 64> copies(args, item, walk);
  const int step = static_cast<int>(gridDim.y);
  int block = walk.first + static_cast<int>(blockIdx.y);
  if (block > walk.last) return;
  int found = copies.find(block);
  if (threadIdx.x == 0) {
    barrier_expect_bytes(&barriers.q_full,
                         static_cast<std::uint32_t>(args.tile_tokens * args.heads_per_group * C::kD * 2));
#pragma unroll
    for (int c = 0; c < C::kD / 64; ++c) {
      load_box(shared + c * C::kRows * 128, q_map, &barriers.q_full, c * 64, item.g * args.heads_per_group, item.token);
    }
  }
  for (RingPlace<C::kSlots> place; block <= walk.last; block += step, place.advance()) {
    const int found_next = copies.find(block + step);
    barrier_wait(&barriers.empty[place.index()], place.parity() ^ 1);
    copies.copy(shared + C::kQBytes + place.index() * C::kTileBytes, k_map, &barriers.full[place.index()], block,
                found);
    found = found_next;
  }
}

template <class C, int kHalves>
__device__ __forceinline__ void compute_scores(const SplitArguments& args, const Item& item, const KeyWalk& walk,
                                               std::byte* shared, ScoresBarriers<C>& barriers) {
  const PagedAttentionCall& call = args.paged.call;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  int position[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) position[r] = item.position + (lane / 4 + 8 * r) / args.paged.heads_per_group;
  const std::uint64_t q = operand(shared, 16), k = operand(shared + C::kQBytes, 16);
  Rows<C, __nv_bfloat16> rows;
  int block = walk.first + static_cast<int>(blockIdx.y);
  if (block > walk.last) return;
  barrier_wait(&barriers.q_full, 0);
  for (RingPlace<C::kSlots> place; block <= walk.last; block += static_cast<int>(gridDim.y), place.advance()) {
    barrier_wait(&barriers.full[place.index()], place.parity());
    rows.issue_scores(q, operand_at(k, place.index() * C::kTileBytes));
    product_wait<0>();
    product_touch(rows.scores);
    if (thread == 0) barrier_arrive(&barriers.empty[place.index()]);
    if (thread >= 32) continue;  // the tile's rows are the first warp's
    if (call.softcap > 0.0f) rows.cap(call.scale / call.softcap, call.softcap);
    const int start = block * C::kKeys;
    if (start < walk.whole_begin || start + C::kKeys > walk.whole_end) {
      int begin[2], end[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        begin[r] = (call.window > 0 ? max(0, position[r] - call.window + 1) : 0) - start;
        end[r] = position[r] + 1 - start;
      }
      rows.mask(begin, end);
    }
    const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * args.blocks_max + block - walk.first;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float largest = -INFINITY;
      float4* const to = reinterpret_cast<float4*>(args.scores) + (at * kHalves + half) * (C::kKeys / 16) * 32 + lane;
#pragma unroll
      for (int i = 0; i < C::kKeys / 16; ++i) {
        const float* const s = rows.scores + 8 * i + 2 * half;
        largest = fmaxf(fmaxf(fmaxf(largest, s[0]), s[1]), fmaxf(s[4], s[5]));
        to[i * 32] = {s[0], s[1], s[4], s[5]};
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      if (lane % 4 == 0) args.maxima[at * kSplitRows + 8 * half + lane / 4] = largest;
    }
  }
}

template <class C, int kHalves>
__global__ __launch_bounds__(C::kThreads,
                             2) void attention_scores_sm90_kernel(const __grid_constant__ CUtensorMap q_map,
                                                                  const __grid_constant__ CUtensorMap k_map,
                                                                  const __grid_constant__ SplitArguments args) {
  extern __shared__ __align__(1024) std::byte shared[];
  ScoresBarriers<C>& barriers = *reinterpret_cast<ScoresBarriers<C>*>(shared + C::kQBytes + C::kSlots * C::kTileBytes);
  Sequences& sequences = *reinterpret_cast<Sequences*>(shared + C::kQBytes);
  if (shared_address(shared) % 1024 != 0) __trap();
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&k_map);
    barrier_init(&barriers.q_full, 1);
    for (int i = 0; i < C::kSlots; ++i) {
      barrier_init(&barriers.full[i], 1);
      barrier_init(&barriers.empty[i], 1);
    }
    barrier_init_fence();
  }
  wait_for_previous();
  start_next();
  order_sequences<C::kThreads>(args.paged, sequences, *reinterpret_cast<SequencesRoom*>(&sequences + 1));
  if (threadIdx.x < 32) {
    const Item found = find_item(args.paged, sequences, static_cast<int>(blockIdx.x));
    if (threadIdx.x == 0) barriers.item = found;
  }
  fence_async_shared();
  __syncthreads();
  const Item item = barriers.item;
  if (item.tokens == 0) return;
  const KeyWalk walk(item, args.paged.call.window, C::kKeys);
  if (threadIdx.x < 32) {
    copy_scores_operands<C>(&q_map, &k_map, args.paged, item, walk, shared_address(shared), barriers);
  } else if (threadIdx.x >= 128) {
    compute_scores<C, kHalves>(args, item, walk, shared, barriers);
  }
}

}  // namespace tandem::kernels::sm90

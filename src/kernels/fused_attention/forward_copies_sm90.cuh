// The warpgroup that moves data for the forward on Hopper (forward_sm90.cu): a thread of one warp takes items and
// copies Q and K, a thread of another copies V, and the second part of Q where it has two. The latter hears of an item
// when its first K has been asked for: what is needed first comes first.
#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/ring.cuh"
#include "kernels/common/sm90.cuh"
#include "kernels/fused_attention/blocks.cuh"
#include "kernels/fused_attention/forward_sm90.cuh"

namespace tandem::kernels::sm90::forward {

__device__ __forceinline__ ForwardTile load_tile(const ForwardTile* tile) {
  const int4 a = __ldg(reinterpret_cast<const int4*>(tile)), b = __ldg(reinterpret_cast<const int4*>(tile) + 1);
  return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

// kRows rows, in slabs of 64 columns and kSlabRows rows.
template <int kD, int kRows, int kSlabRows = kRows>
__device__ __forceinline__ void copy_rows(std::uint32_t to, const CUtensorMap* map, std::uint64_t* full, int row,
                                          int head) {
  barrier_expect_bytes(full, kRows * kD * 2);
#pragma unroll
  for (int c = 0; c < kD / 64; ++c) load_box(to + c * kSlabRows * 128, map, full, c * 64, row, head);
}

// A part of an item's Q.
template <class C>
__device__ __forceinline__ void copy_queries(const CUtensorMap* q_map, std::uint32_t shared, Barriers<C>& barriers,
                                             RingPlace<C::kQBuffers> place, int part, int row, int head) {
  constexpr int kRows = C::kRows / C::kQParts;
  barrier_wait(&barriers.q_empty[place.index()][part], place.parity() ^ 1);
  copy_rows<C::kD, kRows, C::kRows>(shared + place.index() * C::kQBytes + part * kRows * 128, q_map,
                                    &barriers.q_full[place.index()][part], row + part * kRows, head);
}

template <class C>
__device__ __forceinline__ void copy_queries_and_keys(const CUtensorMap* q_map, const CUtensorMap* k_map,
                                                      const ForwardArguments& args, std::uint32_t shared,
                                                      Barriers<C>& barriers) {
  const std::uint32_t ks = shared + C::kQBuffers * C::kQBytes;
  RingPlace<C::kQBuffers> q_place;
  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  // The next item is taken when this one's last block is about to be copied. Earlier, a block with much to do would
  // hold what others could begin.
  const auto take = [&args] {
    wait_for_previous();  // clear_taken_kernel
    return static_cast<int>(gridDim.x) + atomicAdd(args.taken, 1);
  };
  for (int index = static_cast<int>(blockIdx.x);; item_place.advance()) {
    barrier_wait(&barriers.item_empty[item_place.index()], item_place.parity() ^ 1);
    ItemNote& note = barriers.item[item_place.index()];
    if (index >= args.items_count) {
      note.state = ItemNote::kEnd;
      barrier_arrive(&barriers.item_full[item_place.index()]);
      break;
    }
    const WorkItem item = args.items[index];
    const ForwardTile tile = load_tile(args.tiles + item.tile);
    TileBlocks<C::kKeys> blocks(tile, args.left, args.right);
    const bool sees_some = !blocks.done();
    note.tile = tile;
    note.head = item.head;
    note.state = sees_some ? ItemNote::kBlocks : ItemNote::kNoBlocks;
    if (!sees_some) {
      barrier_arrive(&barriers.item_full[item_place.index()]);
      index = take();
      continue;
    }
    copy_queries<C>(q_map, shared, barriers, q_place, 0, tile.query_row, item.head);
    q_place.advance();
    const int g = item.head / args.heads_per_group;
    for (bool is_first = true; !blocks.done(); is_first = false) {
      const int row = blocks.row();
      BlockNote block{blocks.position(), blocks.keys(), blocks.is_whole(), 0};
      blocks.advance();
      block.is_last = blocks.done();
      if (block.is_last) index = take();
      barrier_wait(&barriers.k_empty[place.index()], place.parity() ^ 1);
      barriers.block[place.index()] = block;
      copy_rows<C::kD, C::kKeys>(ks + place.index() * C::kKvBytes, k_map, &barriers.k_full[place.index()], row, g);
      if (is_first) barrier_arrive(&barriers.item_full[item_place.index()]);
      place.advance();
    }
  }
}

template <class C>
__device__ __forceinline__ void copy_values(const CUtensorMap* q_map, const CUtensorMap* v_map,
                                            const ForwardArguments& args, std::uint32_t shared, Barriers<C>& barriers) {
  const std::uint32_t vs = shared + C::kQBuffers * C::kQBytes + C::kStages * C::kKvBytes;
  RingPlace<C::kQBuffers> q_place;
  RingPlace<C::kStages> place;
  RingPlace<kItemNotes> item_place;
  for (;; item_place.advance()) {
    barrier_wait(&barriers.item_full[item_place.index()], item_place.parity());
    const ItemNote item = barriers.item[item_place.index()];
    barrier_arrive(&barriers.item_empty[item_place.index()]);
    if (item.state == ItemNote::kEnd) break;
    if (item.state == ItemNote::kNoBlocks) continue;
    if constexpr (C::kQParts > 1) {
      copy_queries<C>(q_map, shared, barriers, q_place, 1, item.tile.query_row, item.head);
      q_place.advance();
    }
    const int g = item.head / args.heads_per_group;
    TileBlocks<C::kKeys> blocks(item.tile, args.left, args.right);
    for (; !blocks.done(); blocks.advance(), place.advance()) {
      barrier_wait(&barriers.v_empty[place.index()], place.parity() ^ 1);
      copy_rows<C::kD, C::kKeys>(vs + place.index() * C::kKvBytes, v_map, &barriers.v_full[place.index()], blocks.row(),
                                 g);
    }
  }
}

}  // namespace tandem::kernels::sm90::forward

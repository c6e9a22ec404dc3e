// Blocks that work together on Hopper: clusters, copies to several of them at once, barriers of each other's; and tiles
// written by the copy engine.
#pragma once

#include "kernels/common/sm90.cuh"

namespace tandem::kernels::sm90 {

__device__ __forceinline__ int cluster_rank() {
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of all blocks of the cluster.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Its two halves, for what needs no order but this: every block of the cluster has begun.
__device__ __forceinline__ void cluster_begin() { asm volatile("barrier.cluster.arrive.relaxed.aligned;"); }
__device__ __forceinline__ void cluster_has_begun() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// Arrives at the barrier in the same place of another block of the cluster, or of this one. It orders what this thread
// has read before what that block copies next, not what it has written: a release to the whole cluster takes a
// microsecond.
__device__ __forceinline__ void barrier_arrive_at(std::uint64_t* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
// One box into the same place of each block in `blocks` (a bit for each rank), each of whose barriers counts its bytes;
// `policy` as of load_box().
__device__ __forceinline__ void load_box_to(std::uint32_t to, const CUtensorMap* map, std::uint64_t* barrier,
                                            int column, int row, int head, std::uint16_t blocks, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_"
      "hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(to),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head), "h"(blocks), "l"(policy)
      : "memory");
}
// One box out of shared memory; what lies outside the tensor is not written. Belongs to the thread's bulk group.
__device__ __forceinline__ void store_box(const CUtensorMap* map, std::uint32_t from, int column, int row, int head) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(from), "r"(column), "r"(row), "r"(head)
               : "memory");
}

// Adds a box of f32 to what is there.
__device__ __forceinline__ void add_box(const CUtensorMap* map, std::uint32_t from, int column, int row, int head) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(from), "r"(column), "r"(row), "r"(head)
      : "memory");
}

}  // namespace tandem::kernels::sm90

// The blocks that choose a row's token together, and what each has of the row.
#pragma once

#include "kernels/common/cluster_sm90.cuh"
#include "kernels/sampling/choose.h"
#include "kernels/sampling/place.cuh"

namespace tandem::kernels::choosing {

constexpr int kBlocks = 8;
constexpr int kThreads = 512, kWarps = kThreads / 32;

struct Pair {
  std::uint64_t first, second;
};
struct Add {
  __device__ std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a + b; }
};
struct Max {
  __device__ std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a > b ? a : b; }
};

// A token, by its place, and a weight: its own, or of all that it was drawn from.
using Weighed = Pair;

// What a block has in shared memory beside its part of the row.
struct Shared {
  std::uint64_t of_warps[kWarps];
  Pair pair_of_warps[kWarps];
  Pair of_blocks[2][kBlocks];
  std::uint64_t bins[kThreads];
  std::uint64_t before_bin;  // what is in the bins before it
  int bin;
  Weighed drawn;
};

__device__ inline std::uint64_t from_lane(std::uint64_t value, int lane) {
  return __shfl_sync(0xffffffffu, static_cast<unsigned long long>(value), lane);
}
__device__ inline std::uint64_t from_other(std::uint64_t value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(value), lanes);
}
template <class Op>
__device__ std::uint64_t warp_reduce(std::uint64_t value, Op op) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, from_other(value, lanes));
  return value;
}

// The sum up to this lane's value, its own included.
__device__ inline std::uint64_t warp_prefix_sum(std::uint64_t mine) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const std::uint64_t below =
        __shfl_up_sync(0xffffffffu, static_cast<unsigned long long>(mine), static_cast<unsigned>(lanes));
    if (lane >= lanes) mine += below;
  }
  return mine;
}

// The threads of the row's blocks, each of which calls these together.
class Cluster {
 public:
  __device__ explicit Cluster(Shared* shared) : rank(sm90::cluster_rank()), shared_(shared) {}

  // Of all threads of the cluster, for all of them.
  template <class First, class Second>
  __device__ Pair reduce(Pair mine, First first, Second second) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    mine = {warp_reduce(mine.first, first), warp_reduce(mine.second, second)};
    if (lane == 0) shared_->pair_of_warps[warp] = mine;
    __syncthreads();
    if (warp == 0) {
      mine = shared_->pair_of_warps[lane % kWarps];
#pragma unroll
      for (int lanes = kWarps / 2; lanes > 0; lanes /= 2) {
        mine = {first(mine.first, from_other(mine.first, lanes)), second(mine.second, from_other(mine.second, lanes))};
      }
    }
    const Pair* const all = share(mine);
    mine = all[0];
#pragma unroll
    for (int r = 1; r < kBlocks; ++r) mine = {first(mine.first, all[r].first), second(mine.second, all[r].second)};
    return mine;
  }

  // Gives each block what all blocks have, by rank: what their first threads were given. Valid until the next call but
  // one.
  __device__ const Pair* share(Pair of_block) {
    Pair* const all = shared_->of_blocks[turn_];
    turn_ ^= 1;  // a slow block may still be reading what the last call gave
    if (threadIdx.x < kBlocks) *of(static_cast<int>(threadIdx.x), all + rank) = of_block;
    sync();
    return all;
  }

  // The sum up to this thread's value, its own included, over the block.
  __device__ std::uint64_t prefix_sum(std::uint64_t mine) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    mine = warp_prefix_sum(mine);
    if (lane == 31) shared_->of_warps[warp] = mine;
    __syncthreads();
    for (int w = 0; w < warp; ++w) mine += shared_->of_warps[w];
    return mine;
  }
  // After prefix_sum().
  __device__ std::uint64_t block_sum() const {
    std::uint64_t sum = 0;
#pragma unroll 4
    for (int w = 0; w < kWarps; ++w) sum += shared_->of_warps[w];
    return sum;
  }

  // All threads of all blocks; what they wrote before is seen after.
  __device__ static void sync() {
    __syncwarp();
    sm90::cluster_sync();
  }
  // Where another block has what this one has at `mine`.
  template <class T>
  __device__ static T* of(int rank, T* mine) {
    return static_cast<T*>(__cluster_map_shared_rank(mine, static_cast<unsigned>(rank)));
  }

  const int rank;

 private:
  Shared* const shared_;
  int turn_ = 0;
};

// A block's part of the row.
struct Part {
  const float* logits;  // shared
  int first, count;     // tokens
};

// Amounts by bin, of all blocks.
class Bins {
 public:
  __device__ Bins(Cluster& cluster, Shared* shared) : cluster_(cluster), shared_(shared) {}

  // Empties them. No other block may be reading them.
  __device__ void clear() {
    shared_->bins[threadIdx.x] = 0;
    __syncthreads();
  }
  __device__ void add(int bin, std::uint64_t amount) {
    auto* const words = reinterpret_cast<std::uint32_t*>(&shared_->bins[bin]);
    const auto low = static_cast<std::uint32_t>(amount);
    auto high = static_cast<std::uint32_t>(amount >> 32);
    if (low != 0 && atomicAdd(words, low) > ~low) high += 1;
    if (high != 0) atomicAdd(words + 1, high);
  }
  // When all have added: the first bin up to which they have wanted_of(all there is), and what is wanted of that bin;
  // none if there is less. Other blocks may go on reading these bins until the next Cluster::sync().
  struct Found {
    int bin;
    std::uint64_t wanted;
  };
  template <class Wanted>
  __device__ Found find(Wanted wanted_of) {
    Cluster::sync();
    std::uint64_t mine = 0;
#pragma unroll 4
    for (int r = 0; r < kBlocks; ++r) mine += *Cluster::of(r, &shared_->bins[threadIdx.x]);
    const std::uint64_t up_to = cluster_.prefix_sum(mine), all = cluster_.block_sum(), wanted = wanted_of(all);
    if (all < wanted) return {-1, 0};
    if (up_to - mine < wanted && wanted <= up_to) {
      shared_->bin = static_cast<int>(threadIdx.x);
      shared_->before_bin = up_to - mine;
    }
    __syncthreads();
    return {shared_->bin, wanted - shared_->before_bin};
  }

 private:
  Cluster& cluster_;
  Shared* const shared_;
};

// How much weight is asked for by top_p.
__device__ inline std::uint64_t mass_of(float top_p, std::uint64_t total) {
  const double mass = ceil(__dmul_rn(static_cast<double>(top_p), __ull2double_rn(total)));
  const auto wanted = static_cast<std::uint64_t>(mass);
  return wanted < 1 ? 1 : wanted > total ? total : wanted;
}
// The place that min_p keeps all from.
__device__ inline std::uint64_t min_p_place(double min_p_logit, float max) {
  const double lowest = fmax(static_cast<double>(max) + min_p_logit, -double{kLargestFloat});
  return std::uint64_t{ordered(static_cast<float>(lowest))} << 32;
}

}  // namespace tandem::kernels::choosing

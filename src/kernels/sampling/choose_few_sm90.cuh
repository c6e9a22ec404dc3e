// The draw where all that top_k and top_p keep is among a row's first few hundred tokens, as it most often is.
//
// The k-th largest of the largest logits that threads have seen is one that at least k tokens reach, and not many more.
// The tokens that reach it (rather, its bin) go to the cluster's first block, a thread for each, which compares it with
// all others.
#pragma once

#include "kernels/sampling/choose_cluster_sm90.cuh"

namespace tandem::kernels::choosing {

inline constexpr int kFewAskedMax = 256;  // tokens that top_k may ask for
inline constexpr int kFewForTopP = 64;    // that top_p alone looks at

struct FewShared {
  std::uint64_t places[kThreads];  // of this block's tokens that are few enough
  int count;                       // which may be more
  Weighed tokens[kThreads];        // of all blocks, in the first block
};

// Leaves in shared->drawn, of every block, the place of the token drawn and the weight of what it was drawn from.
// Returns false, for all threads, where it takes another look at the row: then nothing was drawn.
//   top_k         0: all      largest     logit that this thread saw      row_weight  if top_k is 0
__device__ inline bool draw_from_few(Cluster& cluster, Shared* shared, FewShared* few, const Part& part, Scale scale,
                                     const TokenChoice& choice, int top_k, float largest, std::uint64_t row_weight) {
  const int thread = static_cast<int>(threadIdx.x);
  if (top_k > kFewAskedMax) return false;
  constexpr float kBinsPerLogit = 16;
  const auto bins_of = [max = scale.max](float logit) { return (max - logit) * kBinsPerLogit; };
  if (thread == 0) few->count = 0;
  Bins bins(cluster, shared);
  bins.clear();
  const float own_bin = bins_of(largest);
  if (own_bin < static_cast<float>(kThreads)) bins.add(static_cast<int>(own_bin), 1);
  const auto asked = static_cast<std::uint64_t>(top_k > 0 ? top_k : kFewForTopP);
  const int last_bin = bins.find([=](std::uint64_t) { return asked; }).bin;
  if (last_bin < 0) {
    Cluster::sync();  // others may be reading this block's bins
    return false;
  }
#pragma unroll 2
  for (int i = thread; i < part.count; i += kThreads) {
    const float logit = part.logits[i];
    if (bins_of(logit) >= static_cast<float>(last_bin + 1)) continue;
    const int at = atomicAdd(&few->count, 1);
    if (at < kThreads) few->places[at] = place_of(logit, part.first + i);
  }
  __syncthreads();
  const Pair* const counts = cluster.share({static_cast<std::uint64_t>(few->count), 0});
  std::uint64_t all = 0;
  for (int r = 0; r < kBlocks; ++r) all += counts[r].first;
  if (all > kThreads) return false;

  if (cluster.rank == 0) {
    const int n = static_cast<int>(all);
    Weighed mine{0, 0};
    if (thread < n) {
      int rank = 0, at = thread;
      for (; at >= static_cast<int>(counts[rank].first); ++rank) at -= static_cast<int>(counts[rank].first);
      mine.first = *Cluster::of(rank, &few->places[at]);
      mine.second = weight_of(scale, logit_at(mine.first));
    }
    few->tokens[thread] = mine;
    std::uint64_t mass = ~std::uint64_t{0};
    bool has_enough = true;
    if (top_k == 0) {
      mass = mass_of(choice.top_p, row_weight);
      cluster.prefix_sum(mine.second);
      has_enough = cluster.block_sum() >= mass;
    }
    __syncthreads();
    const int others = has_enough && thread < n ? n : 0;
    int ahead = 0;
    std::uint64_t weight_ahead = 0;
#pragma unroll 2
    for (int j = 0; j < others; ++j) {
      const Weighed other = few->tokens[j];
      if (other.first <= mine.first) continue;
      ahead += 1;
      weight_ahead += other.second;
    }
    bool keeps = thread < n && (top_k == 0 || ahead < top_k);
    if (top_k > 0 && choice.top_p < 1.0f) {
      cluster.prefix_sum(keeps ? mine.second : 0);
      mass = mass_of(choice.top_p, cluster.block_sum());
    }
    keeps &= weight_ahead < mass;
    keeps &= mine.first >= min_p_place(choice.min_p_logit, scale.max);
    if (!keeps) mine.second = 0;
    __syncthreads();  // all have read the tokens, and the sums of warps
    few->tokens[thread] = mine;
    cluster.prefix_sum(mine.second);
    const std::uint64_t total = cluster.block_sum(), target = __umul64hi(choice.uniform, total);
    std::uint64_t below = 0;  // the weight of kept tokens with lower ids
#pragma unroll 2
    for (int j = 0; j < others; ++j) {
      const Weighed other = few->tokens[j];
      if (static_cast<std::uint32_t>(other.first) > static_cast<std::uint32_t>(mine.first)) below += other.second;
    }
    const bool is_drawn = has_enough && below <= target && target - below < mine.second;
    if (is_drawn || (!has_enough && thread == 0)) {
      const Weighed drawn = is_drawn ? Weighed{mine.first, total} : Weighed{0, 0};
      for (int r = 0; r < kBlocks; ++r) *Cluster::of(r, &shared->drawn) = drawn;
    }
  }
  Cluster::sync();
  return shared->drawn.first != 0;
}

}  // namespace tandem::kernels::choosing

// Chooses a token of each row (choose.h says how) in one launch: a cluster of 8 blocks holds a row in shared memory.
//
//   block r of a row's cluster   |part r of the row| in shared memory, read from the device once
//   largest logit                all parts -> one key; temperature 0 ends here
//   top_k, top_p                 count or weight by 512 bins of the distance from the largest logit; then of the places
//                                in the order between the first and the last place in the bin where the head ends; and
//                                again, until that bin has one place
//   draw                         weight of each thread's run of tokens -> its block's -> the row's; the run that the
//                                uniform falls into is walked through
//   log-probability              tokens above the chosen one, weight of the row
//
// Blocks tell each other their results through shared memory of the cluster, by Cluster::share(). All sums are of
// integers, so nothing depends on who adds first.
//
// Place: a logit and its token as one integer, larger for what comes earlier in the order "falling logit, ties by
// rising id". A cut is the place of the last token kept.
//
// Bound   bytes 4*N*V: 0.11 us a row of 128,256 at 4.57 TB/s. docs/kernels/sampling.md has what was measured.
// Budget  shared: V/8 floats + 5 KiB = 68 KiB at 128,256: two blocks a multiprocessor, 33 rows at a time.
#include "kernels/common/cluster_sm90.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/sampling/paths.h"
#include "kernels/sampling/place.cuh"

namespace tandem::kernels {
namespace {

constexpr int kBlocks = 8;
constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kBinsPerNat = 16;

struct Pair {
  std::uint64_t first, second;
};
struct Add {
  __device__ std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a + b; }
};
struct Max {
  __device__ std::uint64_t operator()(std::uint64_t a, std::uint64_t b) const { return a > b ? a : b; }
};

// What a block has in shared memory beside its part of the row.
struct Shared {
  std::uint64_t of_warps[kWarps];
  Pair pair_of_warps[kWarps];
  Pair of_blocks[2][kBlocks];
  std::uint64_t bins[kThreads];
  std::uint64_t before_bin;  // of what the bins before it hold
  int bin;
  std::uint64_t chosen;  // its place
};

__device__ std::uint64_t from_below(std::uint64_t value, int lanes) {
  return __shfl_up_sync(0xffffffffu, static_cast<unsigned long long>(value), static_cast<unsigned>(lanes));
}
__device__ std::uint64_t from_other(std::uint64_t value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(value), lanes);
}
template <class Op>
__device__ std::uint64_t warp_reduce(std::uint64_t value, Op op) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, from_other(value, lanes));
  return value;
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
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      const std::uint64_t below = from_below(mine, lanes);
      if (lane >= lanes) mine += below;
    }
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

// The chosen head of a row: places from `bottom` on.
class Head {
 public:
  __device__ Head(Cluster& cluster, Shared* shared, const Part& part, Scale scale)
      : cluster_(cluster), shared_(shared), part_(part), scale_(scale) {}

  // Shortens it to `tokens`.
  __device__ void keep_tokens(std::uint64_t tokens) {
    shorten([](float) { return std::uint64_t{1}; }, [=](std::uint64_t) { return tokens; });
  }
  // Shortens it to the fewest that have `share` of its weight.
  __device__ void keep_weight(float share) {
    shorten([scale = scale_](float logit) { return weight_of(scale, logit); },
            [=](std::uint64_t total) {
              const double mass = ceil(__dmul_rn(static_cast<double>(share), __ull2double_rn(total)));
              const auto wanted = static_cast<std::uint64_t>(mass);
              return wanted < 1 ? 1 : wanted > total ? total : wanted;
            });
  }
  __device__ void keep_from(std::uint64_t place) { bottom = Max()(bottom, place); }

  std::uint64_t bottom = kLastFinitePlace;

 private:
  __device__ int bin_of_distance(float logit) const {
    const float bins = (scale_.max - logit) * scale_.inverse_temperature * kBinsPerNat;
    return bins < static_cast<float>(kThreads - 1) ? static_cast<int>(bins) : kThreads - 1;
  }

  // Adds to a bin of this block.
  __device__ void add(int bin, std::uint64_t amount) {
    auto* const words = reinterpret_cast<std::uint32_t*>(&shared_->bins[bin]);
    const auto low = static_cast<std::uint32_t>(amount);
    auto high = static_cast<std::uint32_t>(amount >> 32);
    if (low != 0 && atomicAdd(words, low) > ~low) high += 1;
    if (high != 0) atomicAdd(words + 1, high);
  }

  // Shortens it to the fewest places whose amounts add up to wanted_of(the sum of all); less than that: not at all.
  template <class Amount, class Wanted>
  __device__ void shorten(Amount amount, Wanted wanted_of) {
    const int thread = static_cast<int>(threadIdx.x);
    std::uint64_t low = bottom, high = ~std::uint64_t{0}, wanted = 0;
    int shift = -1;  // by distance
    while (low != high) {
      const auto bin_of = [&](float logit, std::uint64_t place) {
        return shift < 0 ? bin_of_distance(logit) : static_cast<int>((high - place) >> shift);
      };
      shared_->bins[thread] = 0;
      __syncthreads();
      for (int i = thread; i < part_.count; i += kThreads) {
        const float logit = part_.logits[i];
        const std::uint64_t place = place_of(logit, part_.first + i);
        if (place < low || place > high) continue;
        add(bin_of(logit, place), amount(logit));
      }
      Cluster::sync();
      std::uint64_t mine = 0;
      for (int r = 0; r < kBlocks; ++r) mine += *Cluster::of(r, &shared_->bins[thread]);
      const std::uint64_t up_to = cluster_.prefix_sum(mine);
      if (shift < 0) {
        const std::uint64_t total = cluster_.block_sum();
        wanted = wanted_of(total);
        if (total < wanted) return Cluster::sync();  // others may be reading this block's bins
      }
      if (up_to - mine < wanted && wanted <= up_to) {
        shared_->bin = thread;
        shared_->before_bin = up_to - mine;
      }
      __syncthreads();
      const int bin = shared_->bin;
      wanted -= shared_->before_bin;
      // The first and the last place in that bin.
      Pair ends{0, 0};
      for (int i = thread; i < part_.count; i += kThreads) {
        const float logit = part_.logits[i];
        const std::uint64_t place = place_of(logit, part_.first + i);
        if (place < low || place > high || bin_of(logit, place) != bin) continue;
        ends = {Max()(ends.first, place), Max()(ends.second, ~place)};
      }
      ends = cluster_.reduce(ends, Max(), Max());
      high = ends.first;
      low = ~ends.second;
      constexpr int kBinsLog2 = 9;
      static_assert(kThreads == 1 << kBinsLog2);
      shift = max(0, 64 - kBinsLog2 - __clzll(static_cast<long long>(high - low)));
    }
    bottom = low;
  }
  Cluster& cluster_;
  Shared* const shared_;
  const Part& part_;
  const Scale scale_;
};

// The largest place of the part, which is being copied to `to`; kBadPlace if a logit is NaN or +infinity.
__device__ std::uint64_t copy_part(const float* from, const Part& part, float* to, bool by_fours) {
  float best = -INFINITY;
  int at = 0;
  bool good = true;
  const auto take = [&](float logit, int i) {
    good &= logit <= kLargestFloat;
    if (logit > best) {
      best = logit;
      at = i;
    }
  };
  if (by_fours) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * 4; i < part.count; i += kThreads * 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      *reinterpret_cast<float4*>(to + i) = four;
      take(four.x, i);
      take(four.y, i + 1);
      take(four.z, i + 2);
      take(four.w, i + 3);
    }
  } else {
#pragma unroll 8
    for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads) take(to[i] = from[i], i);
  }
  if (!good) return kBadPlace;
  return best > -INFINITY ? place_of(best, part.first + at) : 0;
}

// The place of the token at which the weights from `bottom` on exceed uniform / 2^64 of their total, in one thread of
// the cluster; 0 in the others. Every thread has the total.
__device__ std::uint64_t draw(Cluster& cluster, const Part& part, const Scale& scale, std::uint64_t bottom,
                              std::uint64_t uniform, int part_tokens, std::uint64_t& total) {
  const int run = (part_tokens + kThreads - 1) / kThreads | 1;  // odd: runs begin in different banks
  const int begin = static_cast<int>(threadIdx.x) * run, end = min(begin + run, part.count);
  const auto weight_at = [&](int i) {
    const float logit = part.logits[i];
    return place_of(logit, part.first + i) >= bottom ? weight_of(scale, logit) : 0;
  };
  std::uint64_t mine = 0;
#pragma unroll 4
  for (int i = begin; i < end; ++i) mine += weight_at(i);
  const std::uint64_t up_to = cluster.prefix_sum(mine);
  const Pair* const all = cluster.share({cluster.block_sum(), 0});
  std::uint64_t before = up_to - mine;
  total = 0;
  for (int r = 0; r < kBlocks; ++r) {
    if (r < cluster.rank) before += all[r].first;
    total += all[r].first;
  }
  const std::uint64_t target = __umul64hi(uniform, total);
  if (target < before || target - before >= mine) return 0;
  std::uint64_t left = target - before;
  for (int i = begin; i < end; ++i) {
    const std::uint64_t weight = weight_at(i);
    if (left < weight) return place_of(part.logits[i], part.first + i);
    left -= weight;
  }
  return 0;  // not reached
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 2)
    choose_tokens_sm90_kernel(const float* logits, int V, const TokenChoice* choices, std::int32_t* ids,
                              ChosenToken* chosen) {
  extern __shared__ float4 raw[];
  __shared__ Shared shared;
  sm90::cluster_begin();
  start_next();
  wait_for_previous();
  const auto n = static_cast<std::int64_t>(blockIdx.y);
  Cluster cluster(&shared);
  const int part_tokens = choose_part_tokens(V);
  const int first = min(cluster.rank * part_tokens, V);
  float* const own = reinterpret_cast<float*>(raw);
  const Part part{own, first, min(part_tokens, V - first)};
  const TokenChoice& choice = choices[n];
  const float* const row = logits + n * V;
  const bool by_fours = V % 4 == 0 && reinterpret_cast<std::uintptr_t>(logits) % 16 == 0;

  const auto write = [&](const ChosenToken& token) {
    ids[n] = token.token;
    chosen[n] = token;
  };
  const bool is_first = cluster.rank == 0 && threadIdx.x == 0;
  const std::uint64_t largest_of_part = copy_part(row + first, part, own, by_fours);
  __syncwarp();
  sm90::cluster_has_begun();  // and can be written to
  const std::uint64_t largest = cluster.reduce({largest_of_part, 0}, Max(), Max()).first;
  if (largest == 0 || largest == kBadPlace) {
    if (is_first) write(ChosenToken());
    return;
  }
  ChosenToken token;
  token.token = token_at(largest);
  const bool is_greedy = choice.temperature == 0.0f;
  Scale scale{logit_at(largest), 1.0f};
  if (!is_greedy) {
    scale.inverse_temperature = fminf(__fdiv_rn(1.0f, choice.temperature), kLargestFloat);
    Head head(cluster, &shared, part, scale);
    if (choice.top_k > 0 && choice.top_k < V) head.keep_tokens(static_cast<std::uint64_t>(choice.top_k));
    if (choice.top_p < 1.0f) head.keep_weight(choice.top_p);
    if (choice.min_p_logit > -INFINITY) {
      const double lowest = fmax(static_cast<double>(scale.max) + choice.min_p_logit, -double{kLargestFloat});
      head.keep_from(lowest_place_of(static_cast<float>(lowest)));
    }
    const std::uint64_t place = draw(cluster, part, scale, head.bottom, choice.uniform, part_tokens, token.total);
    if (place != 0) {
      token.token = token_at(place);
      if (choice.logprob == ChoiceLogprob::kNone) {
        write(token);
      } else {
        for (int r = 0; r < kBlocks; ++r) *Cluster::of(r, &shared.chosen) = place;
      }
    }
    if (choice.logprob == ChoiceLogprob::kNone) return;
    Cluster::sync();
    token.token = token_at(shared.chosen);
  } else if (choice.logprob == ChoiceLogprob::kNone) {
    if (is_first) write(token);
    return;
  }
  const float logit = is_greedy ? scale.max : logit_at(shared.chosen);
  const bool of_row = is_greedy || choice.logprob == ChoiceLogprob::kRaw;
  if (of_row) scale.inverse_temperature = 1.0f;
  Pair above{0, 0};  // how many are, and the weight of all
  for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads) {
    const float other = part.logits[i];
    above.first += other > logit;
    if (of_row) above.second += weight_of(scale, other);
  }
  above = cluster.reduce(above, Add(), Add());
  if (of_row) token.total = above.second;
  token.rank = 1 + static_cast<std::int32_t>(above.first);
  token.exponent = __dmul_rn(static_cast<double>(logit) - static_cast<double>(scale.max),
                             static_cast<double>(scale.inverse_temperature));
  if (is_first) write(token);
}

}  // namespace

Status choose_tokens_sm90(const float* logits, std::int64_t N, std::int64_t V, const TokenChoice* choices,
                          std::int32_t* ids, ChosenToken* chosen, device::Stream& stream) {
  const dim3 grid(kBlocks, static_cast<unsigned>(N));
  const int bytes = choose_part_tokens(static_cast<int>(V)) * static_cast<int>(sizeof(float));
  return launch("choose_tokens", choose_tokens_sm90_kernel, {grid, kThreads, bytes, /*overlaps_previous=*/true}, stream,
                logits, static_cast<int>(V), choices, ids, chosen);
}

}  // namespace tandem::kernels

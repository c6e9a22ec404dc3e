// Chooses a token of each row (choose.h says how) in one launch: a cluster of 8 blocks holds a row in shared memory.
//
//   block r of a row's cluster   |part r of the row| in shared memory, read from the device once
//   largest logit                all parts -> one place; temperature 0 ends here
//   top_k, top_p                 most often a few hundred tokens are all that can be kept, and one block draws from
//   those
//                                (choose_few_sm90.cuh); else by bins (choose_head_sm90.cuh)
//   draw                         weight of each thread's run of tokens -> its block's -> the row's; the run that the
//                                uniform falls into is walked through
//   log-probability              tokens above the chosen one, weight of the row
//
// Blocks tell each other their results through shared memory of the cluster, by Cluster::share(). All sums are of
// integers, so nothing depends on who adds first.
//
// Place: a logit and its token as one integer, larger for what comes earlier in the order "falling logit, ties by
// rising id".
//
// Bound   bytes 4*N*V: 0.11 us a row of 128,256 at 4.57 TB/s. docs/kernels/sampling.md has what was measured.
// Budget  shared: V/8 floats + 18 KiB = 81 KiB at 128,256: two blocks a multiprocessor, 33 rows at a time.
#include "kernels/common/launch.cuh"
#include "kernels/sampling/choose_few_sm90.cuh"
#include "kernels/sampling/choose_head_sm90.cuh"
#include "kernels/sampling/paths.h"

namespace tandem::kernels {
namespace {

using namespace choosing;

struct Largest {
  std::uint64_t place;  // kBadPlace if a logit is NaN or +infinity; 0 if there is none
  float logit;
};

// What a thread sees of the part, which is being copied to `to`.
__device__ Largest copy_part(const float* from, const Part& part, float* to, bool by_fours) {
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
  if (!good) return {kBadPlace, best};
  return {best > -INFINITY ? place_of(best, part.first + at) : 0, best};
}

// The weight of this thread's tokens of the part.
__device__ std::uint64_t weight_of_part(const Part& part, Scale scale) {
  WeightSum sum;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads)
    sum.add(fraction_of(scale, part.logits[i]));
  return sum.value();
}

// In one thread of the cluster, the place of the token at which the weights from `bottom` on exceed uniform / 2^64 of
// their total; 0 in the others. Every thread has the total.
__device__ Weighed draw(Cluster& cluster, const Part& part, Scale scale, std::uint64_t bottom, std::uint64_t uniform,
                        int part_tokens) {
  const int run = (part_tokens + kThreads - 1) / kThreads | 1;  // odd: runs begin in different banks
  const int begin = static_cast<int>(threadIdx.x) * run, end = min(begin + run, part.count);
  WeightSum sum;
  if (bottom == kLastFinitePlace) {
#pragma unroll 4
    for (int i = begin; i < end; ++i) sum.add(fraction_of(scale, part.logits[i]));
  } else {
    for (int i = begin; i < end; ++i) {
      if (place_of(part.logits[i], part.first + i) >= bottom) sum.add(fraction_of(scale, part.logits[i]));
    }
  }
  const std::uint64_t mine = sum.value(), up_to = cluster.prefix_sum(mine);
  const Pair* const all = cluster.share({cluster.block_sum(), 0});
  std::uint64_t before = up_to - mine, total = 0;
  for (int r = 0; r < kBlocks; ++r) {
    if (r < cluster.rank) before += all[r].first;
    total += all[r].first;
  }
  const std::uint64_t target = __umul64hi(uniform, total);
  // The warp walks through the run, a token for each lane.
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool is_here = before <= target && target - before < mine;
  const unsigned owners = __ballot_sync(0xffffffffu, is_here);
  if (owners == 0) return {0, total};
  const int owner = __ffs(static_cast<int>(owners)) - 1;
  const int stop = __shfl_sync(0xffffffffu, end, owner);
  std::uint64_t left = from_lane(target - before, owner);
  for (int i = __shfl_sync(0xffffffffu, begin, owner) + lane;; i += 32) {
    const std::uint64_t place = i < stop ? place_of(part.logits[i], part.first + i) : 0;
    const std::uint64_t up_to_lane = warp_prefix_sum(place >= bottom ? weight_of(scale, logit_at(place)) : 0);
    const unsigned past = __ballot_sync(0xffffffffu, left < up_to_lane);
    if (past != 0) {
      const std::uint64_t drawn = from_lane(place, __ffs(static_cast<int>(past)) - 1);
      return {is_here ? drawn : 0, total};
    }
    left -= from_lane(up_to_lane, 31);
  }
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 2)
    choose_tokens_sm90_kernel(const float* logits, int V, const TokenChoice* choices, std::int32_t* ids,
                              ChosenToken* chosen) {
  extern __shared__ float4 raw[];
  __shared__ Shared shared;
  __shared__ FewShared few;
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
  const bool by_fours = V % 4 == 0 && reinterpret_cast<std::uintptr_t>(logits) % 16 == 0;

  const auto write = [&](const ChosenToken& token) {
    ids[n] = token.token;
    chosen[n] = token;
  };
  const bool is_first = cluster.rank == 0 && threadIdx.x == 0;
  const bool wants_logprob = choice.logprob != ChoiceLogprob::kNone;
  const Largest seen = copy_part(logits + n * V + first, part, own, by_fours);
  __syncwarp();
  sm90::cluster_has_begun();  // and can be written to
  const std::uint64_t largest = cluster.reduce({seen.place, 0}, Max(), Max()).first;
  if (largest == 0 || largest == kBadPlace) {
    if (is_first) write(ChosenToken());
    return;
  }

  ChosenToken token;
  token.token = token_at(largest);
  Scale scale{logit_at(largest), 1.0f};
  float logit = scale.max;
  bool has_row_weight = false;  // in token.total
  if (choice.temperature != 0.0f) {
    scale.inverse_temperature = fminf(__fdiv_rn(1.0f, choice.temperature), kLargestFloat);
    const int top_k = choice.top_k < V ? choice.top_k : 0;
    const bool truncates = top_k > 0 || choice.top_p < 1.0f;
    const std::uint64_t row_weight =
        truncates && top_k == 0 ? cluster.reduce({weight_of_part(part, scale), 0}, Add(), Add()).first : 0;
    Weighed drawn{0, 0};
    bool is_known =
        truncates && draw_from_few(cluster, &shared, &few, part, scale, choice, top_k, seen.logit, row_weight);
    if (!is_known) {
      Head head(cluster, &shared, part, scale);
      if (top_k > 0) head.keep_tokens(static_cast<std::uint64_t>(top_k));
      if (choice.top_p < 1.0f) head.keep_weight(choice.top_p);
      if (choice.min_p_logit > -INFINITY) head.keep_from(min_p_place(choice.min_p_logit, scale.max));
      has_row_weight = head.bottom == kLastFinitePlace && scale.inverse_temperature == 1.0f;
      drawn = draw(cluster, part, scale, head.bottom, choice.uniform, part_tokens);
      if (!wants_logprob) {
        token.token = token_at(drawn.first);
        if (drawn.first != 0) write(token);
        return;
      }
      if (drawn.first != 0) {
        for (int r = 0; r < kBlocks; ++r) *Cluster::of(r, &shared.drawn) = drawn;
      }
      Cluster::sync();
    }
    token.token = token_at(shared.drawn.first);
    token.total = shared.drawn.second;
    logit = logit_at(shared.drawn.first);
  }
  if (!wants_logprob) {
    if (is_first) write(token);
    return;
  }
  const bool of_row = choice.temperature == 0.0f || choice.logprob == ChoiceLogprob::kRaw;
  if (of_row) scale.inverse_temperature = 1.0f;
  Pair above{0, 0};  // how many are; the weight of all
  for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads) above.first += part.logits[i] > logit;
  if (of_row && !has_row_weight) above.second = weight_of_part(part, scale);
  above = cluster.reduce(above, Add(), Add());
  if (of_row && !has_row_weight) token.total = above.second;
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

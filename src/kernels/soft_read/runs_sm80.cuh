// All runs of entries seen from one query, as one.
#pragma once

#include "kernels/soft_read/asked_sm80.cuh"

namespace tandem::kernels::soft {

// Anchored at the last entry with weight on the left, of all runs, and at the first on the right.
template <int kRuns>
struct Seen {
  Split<float> splits[kRuns];
  float left_scale[kRuns], right_scale[kRuns];  // of each run's sums
  float left_at = -kInf, right_at = kInf;
  float z_left = 0.0f, z_right = 0.0f;
  bool has_equal = false;  // after_equals: an entry's key is the query
};

template <int kRuns>
__device__ __forceinline__ void set_split(Seen<kRuns>& seen, int r, const Split<float>& split) {
  seen.splits[r] = split;
  seen.left_at = fmaxf(seen.left_at, split.left_at);
  seen.right_at = fminf(seen.right_at, split.right_at);
}
template <int kRuns>
__device__ __forceinline__ void join(Seen<kRuns>& seen, float scale) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    seen.left_scale[r] = decay_between(seen.splits[r].left_at, seen.left_at, scale);
    seen.right_scale[r] = decay_between(seen.splits[r].right_at, seen.right_at, scale);
    seen.z_left = fmaf(seen.left_scale[r], seen.splits[r].z_left, seen.z_left);
    seen.z_right = fmaf(seen.right_scale[r], seen.splits[r].z_right, seen.z_right);
  }
}

template <int kRuns>
__device__ __forceinline__ Seen<kRuns> see(const SoftEntryRuns& runs, float query, bool after_equals, float inv_tau,
                                           float scale) {
  Seen<kRuns> seen;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const EntryRun run{runs.of[r], runs.values};
    const Place place = find(run.order(), query, after_equals);
    if (after_equals) seen.has_equal = is_last(place, query) || seen.has_equal;
    set_split(seen, r, split(run, place, inv_tau, scale));
  }
  join(seen, scale);
  return seen;
}

template <int kRuns>
__device__ __forceinline__ Seen<kRuns> see(const SoftEntryRuns& runs, const QueryPoint& point, float inv_tau,
                                           float scale) {
  return see<kRuns>(runs, point.query, true, inv_tau, scale);
}
template <int kRuns>
__device__ __forceinline__ Seen<kRuns> see(const SoftEntryRuns& runs, const EntryPoint<kRuns>& point, float inv_tau,
                                           float scale) {
  Seen<kRuns> seen;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    set_split(seen, r, split_at(EntryRun{runs.of[r], runs.values}, r, point, inv_tau, scale));
  }
  join(seen, scale);
  return seen;
}

// This lane's part of the sums of four columns, each side times a factor.
template <int kLanes, int kRuns>
__device__ __forceinline__ Sides see_rows(const SoftEntryRuns& runs, const Seen<kRuns>& seen, float left, float right,
                                          int column) {
  Sides sides;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const EntryRun run{runs.of[r], runs.values};
    add_rows<kLanes>(run, seen.splits[r], left * seen.left_scale[r], right * seen.right_scale[r], column, sides);
  }
  return sides;
}

// How both sides weigh at the query: the nearer one 1. Two distances may be large and their difference matter, hence
// f64.
struct Weighed {
  float left, right;  // factors of the sides' sums
  float z;            // Z e^{nearest / tau}
  double nearest;     // distance
};
template <int kRuns>
__device__ __forceinline__ Weighed weigh(const Seen<kRuns>& seen, float query, float scale) {
  const double at = query, to_left = at - seen.left_at, to_right = seen.right_at - at;
  const double nearest = fmin(to_left, to_right);
  Weighed out{decay(to_left - nearest, scale), decay(to_right - nearest, scale), 0.0f, nearest};
  out.z = fmaf(out.left, seen.z_left, out.right * seen.z_right);
  return out;
}

// Calls `with` with the number of lanes that read a row, and that of runs.
template <class With>
Status with_lanes_and_runs(const SoftEntryRuns& runs, const With& with) {
  return with_lanes(runs.values.D, [&](auto lanes) {
    if (runs.count == 1) return with(lanes, std::integral_constant<int, 1>());
    return with(lanes, std::integral_constant<int, 2>());
  });
}

}  // namespace tandem::kernels::soft

// All runs of entries seen from one query, as one.
#pragma once

#include "kernels/soft_read/walk_sm80.cuh"

namespace tandem::kernels::soft {

// Anchored at the last entry with weight on the left, of all runs, and at the first on the right.
struct Seen {
  Split<float> splits[kSoftRuns];
  float left_scale[kSoftRuns], right_scale[kSoftRuns];  // of each run's sums
  float left_at = -kInf, right_at = kInf;
  float z_left = 0.0f, z_right = 0.0f;
  bool has_equal = false;  // kAfterEquals: an entry's key is the query
};

template <bool kAfterEquals>
__device__ __forceinline__ Seen see(const SoftEntryRuns& runs, float query, float inv_tau, float scale) {
  Seen seen;
#pragma unroll
  for (int r = 0; r < kSoftRuns; ++r) {
    if (r >= runs.count) continue;
    const EntryRun run{runs.of[r], runs.values};
    const Place place = find<kAfterEquals>(run.order(), query);
    if (kAfterEquals) {
      const float last = __shfl_sync(kAll, place.key, (place.before - 1) % kSoftTile);
      seen.has_equal = seen.has_equal || (place.before > 0 && last == query);
    }
    seen.splits[r] = split(run, place, inv_tau, scale);
    seen.left_at = fmaxf(seen.left_at, seen.splits[r].left_at);
    seen.right_at = fminf(seen.right_at, seen.splits[r].right_at);
  }
#pragma unroll
  for (int r = 0; r < kSoftRuns; ++r) {
    if (r >= runs.count) continue;
    seen.left_scale[r] = decay_between(seen.splits[r].left_at, seen.left_at, scale);
    seen.right_scale[r] = decay_between(seen.splits[r].right_at, seen.right_at, scale);
    seen.z_left = fmaf(seen.left_scale[r], seen.splits[r].z_left, seen.z_left);
    seen.z_right = fmaf(seen.right_scale[r], seen.splits[r].z_right, seen.z_right);
  }
  return seen;
}

// This lane's part of the sums of four columns, each side times a factor.
template <int kLanes>
__device__ __forceinline__ Sides see_rows(const SoftEntryRuns& runs, const Seen& seen, float left, float right,
                                          int column) {
  Sides sides;
#pragma unroll
  for (int r = 0; r < kSoftRuns; ++r) {
    if (r >= runs.count) continue;
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
__device__ __forceinline__ Weighed weigh(const Seen& seen, float query, float scale) {
  const double at = query, to_left = at - seen.left_at, to_right = seen.right_at - at;
  const double nearest = fmin(to_left, to_right);
  Weighed out{decay(to_left - nearest, scale), decay(to_right - nearest, scale), 0.0f, nearest};
  out.z = fmaf(out.left, seen.z_left, out.right * seen.z_right);
  return out;
}

}  // namespace tandem::kernels::soft

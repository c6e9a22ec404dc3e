// Where half a warp reads, and what it leaves out: at a query, nothing; or at an entry's key, that entry.
//
// An entry is left out where it lies: what is left and right of it in the order of its run, which may be in the midst
// of many tiles of equal keys, is what the run is split into there, and it is no source of its tile. So every sum is of
// the others, and nothing is subtracted. In the other run its key is looked for as a query is.
#pragma once

#include "kernels/soft_read/walk_sm80.cuh"

namespace tandem::kernels::soft {

struct QueryPoint {
  float query;
  bool is_good;
};
template <int kRuns>
struct EntryPoint {
  float query;   // its key
  bool is_good;  // there is such an entry
  int run, place;
  float key;  // of this lane's source of its tile
};

template <int kRuns>
__device__ __forceinline__ QueryPoint point_of(const SoftEntryRuns&, const SoftQueries& queries, std::int64_t j, bool) {
  const float given = __ldg(queries.of + j);
  return {isfinite(given) ? given : 0.0f, isfinite(given)};
}

// `exists`: j is not beyond the last of them, so it counts as missing if it is no entry.
template <int kRuns>
__device__ __forceinline__ EntryPoint<kRuns> point_of(const SoftEntryRuns& runs, const SoftOthers& others,
                                                      std::int64_t j, bool exists) {
  const int slot = __ldg(others.slots + j);
  const bool is_entry =
      is_used(slot, others.first, others.used, others.slots_count) && __ldg(others.weights + slot) >= 0.0f;
  if (exists && !is_entry && group_lane() == 0) atomicAdd(others.missing, 1);
  const int place = is_entry ? __ldg(others.places + slot) : 0;
  // Runs that hold nothing are left out: the second run may be the only one.
  const int run = kRuns == 2 && place < 0 ? 1 : 0;
  EntryPoint<kRuns> out{0.0f, is_entry, run, place < 0 ? ~place : place, 0.0f};
  const float* const keys = run == 0 ? runs.of[0].order.keys : runs.of[1].order.keys;
  const int n = run == 0 ? runs.of[0].order.n : runs.of[1].order.n;
  const int i = out.place / kSoftTile * kSoftTile + group_lane();
  out.key = i < n ? __ldg(keys + i) : kInf;
  out.query = group_shuffle(out.key, out.place % kSoftTile);
  return out;
}

// A run without one of its sources.
template <class Run>
struct WithoutOne : Run {
  int except;  // or -1
  __device__ Source<typename Run::At> source(int i, float key) const {
    Source<typename Run::At> out = Run::source(i, key);
    if (i == except) out.weight = 0.0f;
    return out;
  }
};

template <class Run>
__device__ __forceinline__ Split<typename Run::At> split_at(const Run& run, int, const QueryPoint& point, float inv_tau,
                                                            float scale) {
  return split(run, find(run.order(), point.query, true), inv_tau, scale);
}
template <class Run, int kRuns>
__device__ __forceinline__ Split<typename Run::At> split_at(const Run& run, int r, const EntryPoint<kRuns>& point,
                                                            float inv_tau, float scale) {
  Place place{point.place, point.place / kSoftTile, point.key};
  const bool is_mine = kRuns == 1 || point.run == r;
  if constexpr (kRuns > 1) {
    const Place found = find(run.order(), point.query, true);
    if (!is_mine) place = found;
  }
  return split(WithoutOne<Run>{run, is_mine ? point.place : -1}, place, inv_tau, scale);
}

}  // namespace tandem::kernels::soft

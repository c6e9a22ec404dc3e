// What the backwards of the kernels share: who takes which query, and which entry.
#pragma once

#include "kernels/soft_read/runs_sm80.cuh"

namespace tandem::kernels::soft {

// ---- To queries: half a warp each. ----

inline constexpr int kBackwardThreads = 128, kQueriesPerBlock = kBackwardThreads / kGroup;
static_assert(soft_query_blocks(kQueriesPerBlock) == 1 && soft_query_blocks(kQueriesPerBlock + 1) == 2);

// part(j, exists) for the query of each half warp, where beyond the last one it is the last once more; and the sum of
// what they return, in one fixed order, which is the block's part of d_tau.
template <class Part>
__device__ __forceinline__ void for_queries_of_block(const SoftBackward& a, const Part& part) {
  __shared__ double parts[kQueriesPerBlock];
  const int group = static_cast<int>(threadIdx.x) / kGroup, m = a.queries.order.n;
  const std::int64_t j = std::int64_t{blockIdx.x} * kQueriesPerBlock + group;
  const double of_mine = part(j < m ? j : m - 1, j < m);
  if (group_lane() == 0) parts[group] = of_mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0.0;
#pragma unroll
  for (const double of_query : parts) sum += of_query;
  a.partials[blockIdx.x] = sum;
}

// ---- To entries: 32 a warp. ----

inline constexpr int kSpanMax = 96;      // queries among a warp's entries that are taken one by one
inline constexpr int kEntryColumns = 8;  // that a lane holds at a time

struct Entry {
  float key, weight;  // weight < 0: no entry
  int slot;
};

// Beyond the last one: the last one's key, and no entry.
__device__ __forceinline__ Entry entry_of(const SoftEntryRun& run, std::int64_t i) {
  const int n = run.order.n, at = static_cast<int>(min(i, std::int64_t{n} - 1));
  return {__ldg(run.order.keys + at), i < n ? __ldg(run.weights + at) : -1.0f, __ldg(run.slots + at)};
}
__device__ __forceinline__ Entry entry_of_lane(const Entry& entry, int lane) {
  return {__shfl_sync(kAll, entry.key, lane), __shfl_sync(kAll, entry.weight, lane),
          __shfl_sync(kAll, entry.slot, lane)};
}

// part(entry) for the warp's entries, half a warp each, if the warp left them to be taken so in `many`.
template <int kThreads, class Part>
__device__ __forceinline__ void for_entries_left(const SoftEntryRun& run, const std::uint8_t* many, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + warp * 32;
  if (first >= run.order.n || many[first / 32] == 0) return;
  const Entry entry = entry_of(run, first + lane);
  for (int k = 0; k < 32; k += 32 / kGroup) part(entry_of_lane(entry, k + lane / kGroup));
}

// The kernel for warps of entries with few queries among them, which has `rows` rows of shared memory a warp, then that
// for what it left.
template <int kThreads, class Few, class Many>
Status launch_entries(const SoftBackward& a, int which, std::uint8_t* many, int rows, Few few_kernel, Many many_kernel,
                      device::Stream& stream) {
  const dim3 blocks(static_cast<unsigned>((a.runs.of[which].order.n + kThreads - 1) / kThreads));
  const int shared = kThreads / 32 * rows * static_cast<int>(soft_row(a.d_reads.D) * sizeof(float));
  TD_TRY(launch("soft_backward", few_kernel, {blocks, kThreads, shared}, stream, a, which, many));
  return launch("soft_backward", many_kernel, {blocks, kThreads}, stream, a, which, many);
}

}  // namespace tandem::kernels::soft

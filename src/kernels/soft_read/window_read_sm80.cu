// The read with a kernel that ends, half a warp a query: window_sm80.cuh. Without an entry: what is in reach of its key
// before it in the order of its run, and after it, are read one after the other.
// Bound: bytes, 32 (4 D + 12) of the tiles at both ends of the window, and 12 (D + 4) of each row of sums between them
// (about 10 where 20,000 of 1,000,000 entries are in reach), from L2 where the run fits it.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/runs_sm80.cuh"
#include "kernels/soft_read/window_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 128, kQueriesPerBlock = kThreads / soft::kGroup;

template <int kLanes, int kRuns>
__global__ void __launch_bounds__(kThreads, kRuns == 1 ? 6 : 4)
    read_window_kernel(const __grid_constant__ SoftEntryRuns runs, const float* queries, std::int64_t m,
                       const SoftRows reads, float* log_z) {
  const int lane = soft::group_lane();
  const auto [j, exists] = soft::group_share(kQueriesPerBlock, m);
  const float given = __ldg(queries + j), query = isfinite(given) ? given : 0.0f;
  soft::WindowTerms terms[kRuns];
  float z = 0.0f;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const soft::WindowEntryRun run{{runs.of[r], runs.values}};
    terms[r] = soft::window_terms(run, query, runs.tau);
    z += soft::window_z(run, terms[r]).value;
  }
  const bool has_read = isfinite(given) && z > 0.0f;
  const float nan = __int_as_float(0x7fffffff), inv_z = 1.0f / z;
  if (exists && log_z != nullptr && lane == 0) log_z[j] = has_read ? logf(z) : nan;
  for (int begin = 0; begin < reads.D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    float4 sum{};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const soft::WindowEntryRun run{{runs.of[r], runs.values}};
      soft::window_rows<kLanes>(run, terms[r], column,
                                [&](float4 x, const soft::WindowFactors& of) { soft::add_scaled(sum, of.value, x); });
    }
    sum = soft::scaled(inv_z, soft::sum_rows<kLanes>(sum));
    if (exists && lane < kLanes) soft::store4(reads, j, column, has_read ? sum : float4{nan, nan, nan, nan});
  }
}

// Registers for one part of what is in reach at a time: its rows are found again for each 4 * kLanes columns.
template <int kLanes, int kRuns>
__global__ void __launch_bounds__(kThreads, 6)
    read_window_without_kernel(const __grid_constant__ SoftEntryRuns runs, const SoftOthers others, std::int64_t m,
                               const SoftRows reads, float* log_z) {
  const int lane = soft::group_lane();
  const auto [j, exists] = soft::group_share(kQueriesPerBlock, m);
  const soft::EntryPoint<kRuns> point = soft::point_of<kRuns>(runs, others, j, exists);
  soft::Reach reaches[kRuns];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) reaches[r] = soft::reach_of(runs.of[r].order, point.query, runs.tau);
  float z = 0.0f;
  bool has_read = false;
  for (int begin = 0; begin < reads.D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    float4 sum{};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const soft::WindowEntryRun run{{runs.of[r], runs.values}};
      const bool is_mine = kRuns == 1 || point.run == r;
#pragma unroll 1
      for (int side = 0; side < 2; ++side) {
        soft::Reach part = reaches[r];
        if (is_mine && side == 0) part.last = point.place;
        if (side == 1) part.first = is_mine ? point.place + 1 : part.last;
        if (!__any_sync(soft::kAll, part.first < part.last)) continue;
        const soft::WindowTerms terms = soft::window_terms(run, part, point.query, runs.tau);
        if (begin == 0) z += soft::window_z(run, terms).value;
        soft::window_rows<kLanes>(run, terms, column,
                                  [&](float4 x, const soft::WindowFactors& of) { soft::add_scaled(sum, of.value, x); });
      }
    }
    const float nan = __int_as_float(0x7fffffff);
    if (begin == 0) {
      has_read = point.is_good && z > 0.0f;
      if (exists && log_z != nullptr && lane == 0) log_z[j] = has_read ? logf(z) : nan;
    }
    sum = soft::scaled(1.0f / z, soft::sum_rows<kLanes>(sum));
    if (exists && lane < kLanes) soft::store4(reads, j, column, has_read ? sum : float4{nan, nan, nan, nan});
  }
}

}  // namespace

Status soft_read_window_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                             float* log_z, device::Stream& stream) {
  const dim3 blocks(static_cast<unsigned>((m + kQueriesPerBlock - 1) / kQueriesPerBlock));
  return soft::with_lanes_and_runs(runs, [&](auto lanes, auto count) {
    if (asked.others.slots == nullptr) {
      return launch("soft_read", read_window_kernel<lanes(), count()>, {blocks, kThreads}, stream, runs,
                    asked.queries.of, m, reads, log_z);
    }
    return launch("soft_read_without", read_window_without_kernel<lanes(), count()>, {blocks, kThreads}, stream, runs,
                  asked.others, m, reads, log_z);
  });
}

}  // namespace tandem::kernels

// Half a warp a query: a few steps down to its tile, the tile's sources one a lane, then their rows and the two of
// carried sums, several rows at a time. Bound: bytes, 16 (4 D + 12) of a tile and 8 (D + 4) of carries for each query,
// from L2 where the run fits it.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/runs_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256, kQueriesPerBlock = kThreads / soft::kGroup;

template <int kLanes, int kRuns, class Asked>
__global__ void __launch_bounds__(kThreads, kRuns == 1 ? 6 : 4)
    read_kernel(const __grid_constant__ SoftEntryRuns runs, const Asked asked, std::int64_t m, const SoftRows reads,
                float* log_z) {
  const int lane = soft::group_lane();
  const auto [j, exists] = soft::group_share(kQueriesPerBlock, m);
  const float inv_tau = 1.0f / runs.tau, scale = 1.44269504f / runs.tau;
  const auto point = soft::point_of<kRuns>(runs, asked, j, exists);
  const soft::Seen<kRuns> seen = soft::see<kRuns>(runs, point, inv_tau, scale);
  const soft::Weighed weighed = soft::weigh(seen, point.query, scale);
  const bool has_read = point.is_good && weighed.z > 0.0f;
  const float nan = __int_as_float(0x7fffffff);
  if (exists && log_z != nullptr && lane == 0) {
    log_z[j] = has_read ? logf(weighed.z) - static_cast<float>(weighed.nearest) * inv_tau : nan;
  }
  const float left = weighed.left / weighed.z, right = weighed.right / weighed.z;
  for (int begin = 0; begin < reads.D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    const soft::Sides sides = soft::see_rows<kLanes>(runs, seen, left, right, column);
    float4 x = sides.left;
    soft::add_scaled(x, 1.0f, sides.right);
    x = soft::sum_rows<kLanes>(x);
    if (exists && lane < kLanes) soft::store4(reads, j, column, has_read ? x : float4{nan, nan, nan, nan});
  }
}

}  // namespace

Status soft_read_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                      float* log_z, device::Stream& stream) {
  const dim3 blocks(static_cast<unsigned>((m + kQueriesPerBlock - 1) / kQueriesPerBlock));
  return soft::with_lanes_and_runs(runs, [&](auto lanes, auto count) {
    if (asked.others.slots == nullptr) {
      return launch("soft_read", read_kernel<lanes(), count(), SoftQueries>, {blocks, kThreads}, stream, runs,
                    asked.queries, m, reads, log_z);
    }
    return launch("soft_read_without", read_kernel<lanes(), count(), SoftOthers>, {blocks, kThreads}, stream, runs,
                  asked.others, m, reads, log_z);
  });
}

}  // namespace tandem::kernels

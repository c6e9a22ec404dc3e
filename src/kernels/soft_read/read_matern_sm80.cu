// The read of read_sm80.cu with the kernel (1 + u) e^-u: the same steps, and two rows of carried sums more.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/matern_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256, kQueriesPerBlock = kThreads / soft::kGroup;

template <int kLanes, int kRuns, class Asked>
__global__ void __launch_bounds__(kThreads, kRuns == 1 ? 4 : 3)
    read_matern_kernel(const __grid_constant__ SoftEntryRuns runs, const Asked asked, std::int64_t m,
                       const SoftRows reads, float* log_z) {
  const int lane = soft::group_lane(), stride = static_cast<int>(soft_row(reads.D));
  const auto [j, exists] = soft::group_share(kQueriesPerBlock, m);
  const float inv_tau = 1.0f / runs.tau, scale = 1.44269504f / runs.tau;
  const auto point = soft::point_of<kRuns>(runs, asked, j, exists);
  const soft::MaternSeen<kRuns> seen = soft::see_matern<kRuns>(runs, point, inv_tau, scale);
  const bool has_read = point.is_good && seen.z > 0.0f;
  const float nan = __int_as_float(0x7fffffff);
  if (exists && log_z != nullptr && lane == 0) {
    log_z[j] = has_read ? logf(seen.z) + static_cast<float>(log1p(seen.nearest) - seen.nearest) : nan;
  }

  // What sources, and carried sums and their moments, count of themselves.
  const float inv_z = 1.0f / seen.z;
  float mine_of[kRuns], carried[kRuns][4];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const soft::Split<float>& split = seen.splits[r];
    const auto share = [&](const soft::MaternSide& side, float run_scale, float delta, float factor, float exponent) {
      return factor * run_scale * side.e * fmaf(side.c1, delta + exponent, side.c0) * inv_z;
    };
    const bool is_left = lane < split.left_count;
    mine_of[r] = is_left ? share(seen.left, seen.left_scale[r], seen.left_delta[r], split.factor, split.exponent)
                         : share(seen.right, seen.right_scale[r], seen.right_delta[r], split.factor, split.exponent);
    carried[r][0] =
        share(seen.left, seen.left_scale[r], seen.left_delta[r], split.carry_left, split.carry_left_exponent);
    carried[r][1] = split.carry_left * seen.left_scale[r] * seen.left.e * seen.left.c1 * inv_z;
    carried[r][2] =
        share(seen.right, seen.right_scale[r], seen.right_delta[r], split.carry_right, split.carry_right_exponent);
    carried[r][3] = split.carry_right * seen.right_scale[r] * seen.right.e * seen.right.c1 * inv_z;
  }
  for (int begin = 0; begin < reads.D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    float4 sum{};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll(kLanes < 8 ? kLanes : 8)
      for (int step = 0; step < kLanes; ++step) {
        const int source = step * (soft::kGroup / kLanes) + lane / kLanes;
        const float factor = soft::group_shuffle(mine_of[r], source);
        const int row = soft::group_shuffle(seen.splits[r].row, source);
        float4 x{};
        if (factor != 0.0f) x = soft::load4(runs.values, row, column);
        soft::add_scaled(sum, factor, x);
      }
      if (lane >= kLanes || column >= stride - 4) continue;
      const SoftSums& carries = runs.of[r].scan.carries[0];
      const float* const of[4] = {carries.left, carries.left_moments, carries.right, carries.right_moments};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (carried[r][k] != 0.0f) {
          soft::add_scaled(sum, carried[r][k], soft::sums4(of[k], seen.splits[r].tile, stride, column));
        }
      }
    }
    sum = soft::sum_rows<kLanes>(sum);
    if (exists && lane < kLanes) soft::store4(reads, j, column, has_read ? sum : float4{nan, nan, nan, nan});
  }
}

}  // namespace

Status soft_read_matern_sm80(const SoftEntryRuns& runs, const SoftAsked& asked, std::int64_t m, const SoftRows& reads,
                             float* log_z, device::Stream& stream) {
  const dim3 blocks(static_cast<unsigned>((m + kQueriesPerBlock - 1) / kQueriesPerBlock));
  return soft::with_lanes_and_runs(runs, [&](auto lanes, auto count) {
    if (asked.others.slots == nullptr) {
      return launch("soft_read", read_matern_kernel<lanes(), count(), SoftQueries>, {blocks, kThreads}, stream, runs,
                    asked.queries, m, reads, log_z);
    }
    return launch("soft_read_without", read_matern_kernel<lanes(), count(), SoftOthers>, {blocks, kThreads}, stream,
                  runs, asked.others, m, reads, log_z);
  });
}

}  // namespace tandem::kernels

// A warp a query: four or five steps down to its tile, the tile's sources one a lane, then their rows and the two of
// carried sums, several rows at a time.
// Bound: bytes, 32 (4 D + 8) of a tile and 8 (D + 4) of carries for each query, from L2 where the run fits it.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/runs_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kQueriesPerBlock = 8;

template <int kLanes>
__global__ void __launch_bounds__(32 * kQueriesPerBlock)
    read_kernel(const __grid_constant__ SoftEntryRuns runs, const float* queries, std::int64_t m, const SoftRows reads,
                float* log_z) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t j = std::int64_t{blockIdx.x} * kQueriesPerBlock + threadIdx.x / 32;
  if (j >= m) return;
  const float inv_tau = 1.0f / runs.tau, scale = 1.44269504f / runs.tau;
  const float query = __ldg(queries + j);
  float z = 0.0f, nearest = 0.0f, left = 0.0f, right = 0.0f;
  soft::Seen seen;
  const bool is_finite = isfinite(query);
  if (is_finite) {
    seen = soft::see<true>(runs, query, inv_tau, scale);
    const soft::Weighed weighed = soft::weigh(seen, query, scale);
    z = weighed.z;
    nearest = static_cast<float>(weighed.nearest);
    left = weighed.left / z;
    right = weighed.right / z;
  }
  const bool has_read = is_finite && z > 0.0f;
  const float nan = __int_as_float(0x7fffffff);
  if (log_z != nullptr && lane == 0) log_z[j] = has_read ? logf(z) - nearest * inv_tau : nan;
  for (int begin_column = 0; begin_column < reads.D; begin_column += 4 * kLanes) {
    const int column = begin_column + 4 * (lane % kLanes);
    float4 x{nan, nan, nan, nan};
    if (has_read) {
      const soft::Sides sides = soft::see_rows<kLanes>(runs, seen, left, right, column);
      x = sides.left;
      soft::add_scaled(x, 1.0f, sides.right);
      x = soft::sum_rows<kLanes>(x);
    }
    if (lane < kLanes) soft::store4(reads, j, column, x);
  }
}

}  // namespace

Status soft_read_sm80(const SoftEntryRuns& runs, const float* queries, std::int64_t m, const SoftRows& reads,
                      float* log_z, device::Stream& stream) {
  return soft::with_lanes(reads.D, [&](auto lanes) {
    const dim3 blocks(static_cast<unsigned>((m + kQueriesPerBlock - 1) / kQueriesPerBlock));
    return launch("soft_read", read_kernel<lanes()>, {blocks, 32 * kQueriesPerBlock}, stream, runs, queries, m, reads,
                  log_z);
  });
}

}  // namespace tandem::kernels

// Backward through a batch of queries with a kernel that ends: sums of K x, u x and u^2 x of the entries in reach,
// which give the query's own gradient and its part of tau's, and the row gamma = [d_read ; d_log_z - <d_read, r>] / Z
// that it sends to entries. With u = (q - k) / tau, dK/dq = -2 u / tau and dK/dtau = 2 u^2 / tau.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"
#include "kernels/soft_read/window_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = soft::kBackwardThreads, kPerBlock = soft::kQueriesPerBlock;

// Returns this query's part of d_tau.
template <int kLanes, int kRuns>
__device__ double backward_query(const SoftBackward& a, std::int64_t j, bool exists) {
  const int lane = soft::group_lane(), D = a.d_reads.D, stride = static_cast<int>(soft_row(D));
  const SoftEntryRuns& runs = a.runs;
  const float given = a.queries.order.keys[j], query = isfinite(given) ? given : 0.0f;
  const std::int64_t index = a.queries.indices[j];
  float* const row = a.queries.rows + j * stride;
  soft::WindowFactors z{}, dot{};
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const soft::WindowEntryRun run{{runs.of[r], runs.values}};
    const soft::WindowTerms terms = soft::window_terms(run, query, runs.tau);
    const soft::WindowFactors of_run = soft::window_z(run, terms);
    z.value += of_run.value;
    z.slope += of_run.slope;
    z.square += of_run.square;
    for (int begin = 0; begin < D; begin += 4 * kLanes) {
      const int column = begin + 4 * (lane % kLanes);
      const float4 d_read = soft::load4(a.d_reads, index, column);
      soft::window_rows<kLanes>(run, terms, column, [&](float4 x, const soft::WindowFactors& of) {
        const float of_row = soft::dot4(d_read, x);
        dot.value = fmaf(of.value, of_row, dot.value);
        dot.slope = fmaf(of.slope, of_row, dot.slope);
        dot.square = fmaf(of.square, of_row, dot.square);
      });
    }
  }
  dot = {soft::group_sum(dot.value), soft::group_sum(dot.slope), soft::group_sum(dot.square), 0.0f};
  const bool has_read = isfinite(given) && z.value > 0.0f;
  const float inv_z = has_read ? 1.0f / z.value : 0.0f;
  for (int column = 4 * lane; exists && column < D; column += 4 * soft::kGroup) {
    const float4 d_read = soft::load4(a.d_reads, index, column);
    *reinterpret_cast<float4*>(row + column) = has_read ? soft::scaled(inv_z, d_read) : float4{};
  }
  const float d_log_z = a.d_log_z != nullptr ? __ldg(a.d_log_z + index) : 0.0f;
  const float rest = has_read ? d_log_z - dot.value * inv_z : 0.0f;
  if (exists && lane == 0) {
    *reinterpret_cast<float4*>(row + stride - 4) = {rest * inv_z, 0.0f, 0.0f, 0.0f};
    if (a.d_queries != nullptr) {
      const float d = -2.0f * fmaf(rest, z.slope, dot.slope) * inv_z / runs.tau;
      a.d_queries[index] = has_read ? d : __int_as_float(0x7fffffff);
    }
  }
  if (!exists || !has_read) return 0.0;
  return double{2.0f * fmaf(rest, z.square, dot.square) * inv_z} / double{runs.tau};
}

template <int kLanes, int kRuns>
__global__ void __launch_bounds__(kThreads, 5) backward_queries_window_kernel(const __grid_constant__ SoftBackward a) {
  soft::for_queries_of_block(a,
                             [&](std::int64_t j, bool exists) { return backward_query<kLanes, kRuns>(a, j, exists); });
}

}  // namespace

Status soft_backward_queries_window_sm80(const SoftBackward& a, device::Stream& stream) {
  return soft::with_lanes_and_runs(a.runs, [&](auto lanes, auto count) {
    const dim3 blocks(static_cast<unsigned>(soft_query_blocks(a.queries.order.n)));
    return launch("soft_backward", backward_queries_window_kernel<lanes(), count()>, {blocks, kThreads}, stream, a);
  });
}

}  // namespace tandem::kernels

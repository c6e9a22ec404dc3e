// Backward with a kernel that ends. Both directions are the same sums, of K x, u x and u^2 x: a query's over entries
// give its own gradient and its part of tau's; an entry's over queries, whose rows are gamma = [d_read ; d_log_z -
// <d_read, r>] / Z, give the entry's. With u = (q - k) / tau, dK/dk = -dK/dq = 2 u / tau and dK/dtau = 2 u^2 / tau.
// An entry is a read of the queries, by half a warp.
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
  soft::WindowFactors z{0.0f, 0.0f, 0.0f}, dot{0.0f, 0.0f, 0.0f};
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
  dot = {soft::group_sum(dot.value), soft::group_sum(dot.slope), soft::group_sum(dot.square)};
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

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 6)
    backward_entries_window_kernel(const __grid_constant__ SoftBackward a, int which) {
  const int lane = soft::group_lane(), D = a.d_reads.D;
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t mine = std::int64_t{blockIdx.x} * kPerBlock + threadIdx.x / soft::kGroup;
  const int at = static_cast<int>(mine < run.order.n ? mine : run.order.n - 1);
  const float key = __ldg(run.order.keys + at), weight = __ldg(run.weights + at), tau = a.runs.tau;
  const std::int64_t slot = __ldg(run.slots + at);
  const bool exists = mine < run.order.n && weight >= 0.0f;
  const soft::WindowQueryRun queries{{a.queries, D}};
  const soft::WindowTerms terms = soft::window_terms(queries, key, tau);
  const soft::WindowFactors z = soft::window_z(queries, terms);
  float dot = 0.0f, slope = 0.0f;
  for (int begin = 0; begin < D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    const float4 v = exists ? soft::load4(a.runs.values, slot, column) : float4{};
    float4 sum{};
    soft::window_rows<kLanes>(queries, terms, column, [&](float4 x, const soft::WindowFactors& of) {
      soft::add_scaled(sum, of.value, x);
      slope = fmaf(of.slope, soft::dot4(v, x), slope);
    });
    dot += soft::dot4(v, sum);
    sum = soft::sum_rows<kLanes>(sum);
    if (a.d_values.data != nullptr && exists && lane < kLanes) {
      soft::store4(a.d_values, slot, column, soft::scaled(weight, sum));
    }
  }
  dot = soft::group_sum(dot) + z.value;
  slope = soft::group_sum(slope) + z.slope;  // its u is (key - q) / tau
  if (!exists || lane != 0) return;
  if (a.d_keys != nullptr) a.d_keys[slot] = -2.0f * weight * slope / tau;
  if (a.d_weights != nullptr) a.d_weights[slot] = dot;
}

}  // namespace

Status soft_backward_queries_window_sm80(const SoftBackward& a, device::Stream& stream) {
  return soft::with_lanes_and_runs(a.runs, [&](auto lanes, auto count) {
    const dim3 blocks(static_cast<unsigned>(soft_query_blocks(a.queries.order.n)));
    return launch("soft_backward", backward_queries_window_kernel<lanes(), count()>, {blocks, kThreads}, stream, a);
  });
}

Status soft_backward_entries_window_sm80(const SoftBackward& a, int which, device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    const int n = a.runs.of[which].order.n;
    const dim3 blocks(static_cast<unsigned>((n + kPerBlock - 1) / kPerBlock));
    return launch("soft_backward", backward_entries_window_kernel<lanes()>, {blocks, kThreads}, stream, a, which);
  });
}

}  // namespace tandem::kernels

// Backward through a batch of queries, in order: their own gradients, and what each sends to the entries.
//
// With A the share of Z and v the mean value of entries to the left of the query (L), to the right (R), at the query
// and to the left (LT), or to the right (RT), and h = <d_read, .>:
//   d_query = (1/tau) [A_R A_LT h(v_R - v_LT) - A_L A_RT h(v_L - v_RT) + d_log_z (A_R - A_L)]
// v_R - r = A_LT (v_R - v_LT): no two near numbers are subtracted but the means. An entry receives p_i of d_read, and
// p_i (h(v_i - r) + d_log_z), where p_i = w_i / Z' e^{-(|q - k_i| - nearest) / tau} and Z' = Z e^{nearest / tau}; so
// for those to its left the query lies at q - nearest, which is no further left than the first of them with weight.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::kBackwardThreads;

__device__ float ratio(float x, float y) { return y > 0.0f ? x / y : 0.0f; }

// Returns this query's part of d_tau.
template <int kLanes, int kRuns>
__device__ double backward_query(const SoftBackward& a, std::int64_t j, bool exists) {
  const int lane = soft::group_lane(), D = a.d_reads.D;
  const SoftEntryRuns& runs = a.runs;
  const float tau = runs.tau, inv_tau = 1.0f / tau, scale = 1.44269504f / tau;
  const float given = a.queries.order.keys[j], query = isfinite(given) ? given : 0.0f;
  const std::int64_t index = a.queries.indices[j], stride = soft_row(D);
  float* const row = a.queries.rows + j * stride;
  const soft::Seen<kRuns> seen = soft::see<kRuns>(runs, query, true, inv_tau, scale);
  const soft::Weighed weighed = soft::weigh(seen, query, scale);
  const bool has_read = isfinite(given) && weighed.z > 0.0f;

  const float inv_z = has_read ? 1.0f / weighed.z : 0.0f;
  const float share_left_equal = weighed.left * seen.z_left * inv_z;
  const float share_right = weighed.right * seen.z_right * inv_z;
  float share_left = share_left_equal, dot_read = 0.0f, dot_query = 0.0f;
  const bool any_equal = __any_sync(soft::kAll, seen.has_equal) != 0;
  for (int begin = 0; begin < D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    // Means at the query: left with its equals, right; and if there are equals, left without, right with them.
    soft::Sides means = soft::see_rows<kLanes>(runs, seen, ratio(1.0f, seen.z_left), ratio(1.0f, seen.z_right), column);
    const float4 left_equal = soft::sum_rows<kLanes>(means.left), right = soft::sum_rows<kLanes>(means.right);
    float4 left = left_equal, right_equal = right;
    float share_right_equal = share_right;
    if (any_equal) {
      const soft::Seen<kRuns> before = soft::see<kRuns>(runs, query, false, inv_tau, scale);
      const soft::Weighed weighed_before = soft::weigh(before, query, scale);
      share_left = weighed_before.left * before.z_left * inv_z;
      share_right_equal = weighed_before.right * before.z_right * inv_z;
      means = soft::see_rows<kLanes>(runs, before, ratio(1.0f, before.z_left), ratio(1.0f, before.z_right), column);
      left = soft::sum_rows<kLanes>(means.left);
      right_equal = soft::sum_rows<kLanes>(means.right);
    }
    const float4 d_read = soft::load4(a.d_reads, index, column);
    float4 read = soft::scaled(share_left_equal, left_equal), pull{}, difference = right;
    soft::add_scaled(read, share_right, right);
    soft::add_scaled(difference, -1.0f, left_equal);
    soft::add_scaled(pull, share_right * share_left_equal, difference);
    difference = left;
    soft::add_scaled(difference, -1.0f, right_equal);
    soft::add_scaled(pull, -share_left * share_right_equal, difference);
    dot_read += soft::sum_columns<kLanes>(soft::dot4(d_read, read));
    dot_query += soft::sum_columns<kLanes>(soft::dot4(d_read, pull));
    if (exists && lane < kLanes && column < D) {
      *reinterpret_cast<float4*>(row + column) = has_read ? soft::scaled(inv_z, d_read) : float4{};
    }
  }
  const float d_log_z = a.d_log_z != nullptr ? __ldg(a.d_log_z + index) : 0.0f;
  if (exists && lane == 0) {
    const float z = has_read ? (d_log_z - dot_read) * inv_z : 0.0f;
    *reinterpret_cast<float4*>(row + stride - 4) = {z, 0.0f, 0.0f, 0.0f};
    const double at = query, nearest = weighed.nearest;
    const bool left_is_nearest = at - seen.left_at == nearest, right_is_nearest = seen.right_at - at == nearest;
    a.queries.left_reach[j] = !has_read ? at : left_is_nearest ? double{seen.left_at} : at - nearest;
    a.queries.right_reach[j] = !has_read ? at : right_is_nearest ? double{seen.right_at} : at + nearest;
    if (a.d_queries != nullptr) {
      const float d = fmaf(d_log_z, share_right - share_left, dot_query) * inv_tau;
      a.d_queries[index] = has_read ? d : __int_as_float(0x7fffffff);
    }
  }
  if (!exists || !has_read) return 0.0;
  return double{d_log_z} * weighed.nearest / (double{tau} * tau);
}

template <int kLanes, int kRuns>
__global__ void __launch_bounds__(kBackwardThreads, kRuns == 1 ? 5 : 4)
    backward_queries_kernel(const __grid_constant__ SoftBackward a) {
  soft::for_queries_of_block(a,
                             [&](std::int64_t j, bool exists) { return backward_query<kLanes, kRuns>(a, j, exists); });
}

}  // namespace

Status soft_backward_queries_sm80(const SoftBackward& a, device::Stream& stream) {
  return soft::with_lanes_and_runs(a.runs, [&](auto lanes, auto count) {
    const dim3 blocks(static_cast<unsigned>(soft_query_blocks(a.queries.order.n)));
    return launch("soft_backward", backward_queries_kernel<lanes(), count()>, {blocks, kBackwardThreads}, stream, a);
  });
}

}  // namespace tandem::kernels

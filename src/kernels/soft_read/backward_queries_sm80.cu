// Backward through a batch of queries, in order: their own gradients, and what each sends to the entries.
//
// With A the share of Z and v the mean value of entries to the left of the query (L), to the right (R), at the query
// and to the left (LT), or to the right (RT), and h = <d_read, .>:
//   d_query = (1/tau) [A_R A_LT h(v_R - v_LT) - A_L A_RT h(v_L - v_RT) + d_log_z (A_R - A_L)]
// v_R - r = A_LT (v_R - v_LT): no two near numbers are subtracted but the means. An entry receives p_i of d_read, and
// p_i (h(v_i - r) + d_log_z), where p_i = w_i / Z' e^{-(|q - k_i| - nearest) / tau} and Z' = Z e^{nearest / tau}; so
// for those to its left the query lies at q - nearest, which is no further left than the first of them with weight.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/runs_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kQueriesPerBlock = 8;

__device__ float ratio(float x, float y) { return y > 0.0f ? x / y : 0.0f; }

// Returns this query's part of d_tau.
template <int kLanes>
__device__ double backward_query(const SoftBackward& a, std::int64_t j) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = a.d_reads.D;
  const SoftEntryRuns& runs = a.runs;
  const float tau = runs.tau, inv_tau = 1.0f / tau, scale = 1.44269504f / tau;
  const float query = a.queries.order.keys[j];
  const std::int64_t index = a.queries.indices[j];
  const std::int64_t stride = soft_row(D);
  float* const row = a.queries.rows + j * stride;
  const bool is_finite = isfinite(query);
  soft::Seen seen, seen_before;
  soft::Weighed weighed{};
  if (is_finite) {
    seen = soft::see<true>(runs, query, inv_tau, scale);
    weighed = soft::weigh(seen, query, scale);
  }
  const bool has_read = is_finite && weighed.z > 0.0f;
  const bool has_equal = has_read && seen.has_equal;
  if (has_equal) seen_before = soft::see<false>(runs, query, inv_tau, scale);

  // Sums at the query: left with its equals, right; and if there are equals, left without, right with them.
  float dot_read = 0.0f, dot_query = 0.0f;
  const float inv_z = has_read ? 1.0f / weighed.z : 0.0f;
  soft::Weighed before = weighed;
  float z_left = seen.z_left, z_right_equal = seen.z_right;
  if (has_equal) {
    before = soft::weigh(seen_before, query, scale);
    z_left = seen_before.z_left;
    z_right_equal = seen_before.z_right;
  }
  const float share_left = before.left * z_left * inv_z, share_right_equal = before.right * z_right_equal * inv_z;
  const float share_right = weighed.right * seen.z_right * inv_z;
  const float share_left_equal = weighed.left * seen.z_left * inv_z;
  for (int begin_column = 0; begin_column < D; begin_column += 4 * kLanes) {
    const int column = begin_column + 4 * (lane % kLanes);
    const float4 d_read = soft::load4(a.d_reads, index, column);
    if (has_read) {
      soft::Sides means =
          soft::see_rows<kLanes>(runs, seen, ratio(1.0f, seen.z_left), ratio(1.0f, seen.z_right), column);
      const float4 left_equal = soft::sum_rows<kLanes>(means.left), right = soft::sum_rows<kLanes>(means.right);
      float4 left = left_equal, right_equal = right;
      if (has_equal) {
        means = soft::see_rows<kLanes>(runs, seen_before, ratio(1.0f, z_left), ratio(1.0f, z_right_equal), column);
        left = soft::sum_rows<kLanes>(means.left);
        right_equal = soft::sum_rows<kLanes>(means.right);
      }
      float4 read = soft::scaled(share_left_equal, left_equal), pull{}, difference = right;
      soft::add_scaled(read, share_right, right);
      soft::add_scaled(difference, -1.0f, left_equal);
      soft::add_scaled(pull, share_right * share_left_equal, difference);
      difference = left;
      soft::add_scaled(difference, -1.0f, right_equal);
      soft::add_scaled(pull, -share_left * share_right_equal, difference);
      dot_read += soft::sum_columns<kLanes>(soft::dot4(d_read, read));
      dot_query += soft::sum_columns<kLanes>(soft::dot4(d_read, pull));
    }
    if (lane < kLanes && column < D) {
      *reinterpret_cast<float4*>(row + column) = has_read ? soft::scaled(inv_z, d_read) : float4{};
    }
  }
  const float d_log_z = a.d_log_z != nullptr ? __ldg(a.d_log_z + index) : 0.0f;
  if (lane == 0) {
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
  if (!has_read) return 0.0;
  return double{d_log_z} * weighed.nearest / (double{tau} * tau);
}

template <int kLanes>
__global__ void __launch_bounds__(32 * kQueriesPerBlock)
    backward_queries_kernel(const __grid_constant__ SoftBackward a) {
  __shared__ double parts[kQueriesPerBlock];
  const std::int64_t j = std::int64_t{blockIdx.x} * kQueriesPerBlock + threadIdx.x / 32;
  const double part = j < a.queries.order.n ? backward_query<kLanes>(a, j) : 0.0;
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0.0;
#pragma unroll
  for (const double of_warp : parts) sum += of_warp;
  a.partials[blockIdx.x] = sum;
}

}  // namespace

Status soft_backward_queries_sm80(const SoftBackward& a, device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    const dim3 blocks(static_cast<unsigned>(soft_query_blocks(a.queries.order.n)));
    return launch("soft_backward", backward_queries_kernel<lanes()>, {blocks, 32 * kQueriesPerBlock}, stream, a);
  });
}

}  // namespace tandem::kernels

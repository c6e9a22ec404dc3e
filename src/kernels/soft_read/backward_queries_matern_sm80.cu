// Backward through a batch of queries with the kernel (1 + u) e^-u: backward_queries_sm80.cu says what for.
//
// dK/du = -u e^-u. With A the shares of Z of both sides, B those of sum w u e^-u, hv and hs the means of <d_read, v>
// by these masses, and m0, m1 those by e^-u and its moment from the side's nearest entry,
//   d_query = (1/tau) [B_R A_L (hs_R - hv_L) - B_L A_R (hs_L - hv_R) + X_R - X_L + d_log_z (B_R - B_L)]
//   X = B A (hs - hv) = (e s)^2 z0 z1 (m1 - m0) / Z'^2
// There is no kink: an entry at the query pulls at neither side. And with b, s of matern_sm80.cuh, h_i = <d_read, v_i
// - r> + d_log_z,
//   d_tau = (1/tau) [sum_i w_i e^-b b (1 - s^2 + b s) h_i / Z' + d_log_z n^2 / (1 + n)],
// which takes no difference of two distances; it wants second moments.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"
#include "kernels/soft_read/matern_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::kBackwardThreads;

__device__ float ratio(float x, float y) { return y > 0.0f ? x / y : 0.0f; }

// Sums over a side's entries of e^-u x and of u e^-u x, from its nearest entry; of both sides, what d_tau wants.
struct Dots {
  float left = 0, left_moment = 0, right = 0, right_moment = 0, tau = 0;
};

// What one row of sums or values adds to them.
struct Coefficients {
  float sum, moment, tau;
};

template <int kLanes, int kRuns>
__device__ double backward_query(const SoftBackward& a, std::int64_t j, bool exists) {
  const int lane = soft::group_lane(), D = a.d_reads.D;
  const SoftEntryRuns& runs = a.runs;
  const float tau = runs.tau, inv_tau = 1.0f / tau, scale = 1.44269504f / tau;
  const float given = a.queries.order.keys[j], query = isfinite(given) ? given : 0.0f;
  const std::int64_t index = a.queries.indices[j];
  const int stride = static_cast<int>(soft_row(D)), padded = stride - 4;
  float* const row = a.queries.rows + j * stride;
  const soft::MaternSeen<kRuns> seen = soft::see_matern<kRuns>(runs, soft::QueryPoint{query, true}, inv_tau, scale);
  const bool has_read = isfinite(given) && seen.z > 0.0f;
  const float inv_z = has_read ? 1.0f / seen.z : 0.0f, s = seen.s;
  const float rest = seen.ns * (1.0f + s);  // 1 - s^2

  Dots dots;
  float z_tau = 0.0f;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const soft::Split<float>& split = seen.splits[r];
    const bool is_left = lane < split.left_count;
    // Of a source with this factor and exponent from its side's nearest in this run.
    const auto of_source = [&](bool left, float factor, float exponent) {
      const soft::MaternSide& side = left ? seen.left : seen.right;
      const float u = exponent + (left ? seen.left_delta[r] : seen.right_delta[r]), b = u + side.beyond;
      const float sum = factor * (left ? seen.left_scale[r] : seen.right_scale[r]);
      return Coefficients{sum, sum * u, sum * side.e * b * fmaf(b, s, rest)};
    };
    const Coefficients mine = of_source(is_left, split.factor, split.exponent);
    z_tau += soft::group_sum(mine.tau);
    // Of the carried sums, their moments, and their squares.
    Coefficients carried[2][3];
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const bool left = side == 0;
      const float factor = left ? split.carry_left : split.carry_right;
      const float exponent = left ? split.carry_left_exponent : split.carry_right_exponent;
      carried[side][0] = of_source(left, factor, exponent);
      const soft::MaternSide& of = left ? seen.left : seen.right;
      const float b = carried[side][0].sum != 0.0f
                          ? exponent + (left ? seen.left_delta[r] : seen.right_delta[r]) + of.beyond
                          : 0.0f;
      const float sum = carried[side][0].sum;
      carried[side][1] = {0.0f, sum, sum * of.e * fmaf(2 * b, s, rest)};
      carried[side][2] = {0.0f, 0.0f, sum * of.e * s};
    }
    const SoftSums& carries = runs.of[r].scan.carries[0];
    const float* const of_sums[2][3] = {{carries.left, carries.left_moments, carries.left_squares},
                                        {carries.right, carries.right_moments, carries.right_squares}};
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        if (carried[side][0].sum == 0.0f) continue;
        z_tau = fmaf(carried[side][k].tau, __ldg(of_sums[side][k] + std::int64_t{split.tile} * stride + padded), z_tau);
      }
    }
    for (int begin = 0; begin < D; begin += 4 * kLanes) {
      const int column = begin + 4 * (lane % kLanes);
      const float4 d_read = soft::load4(a.d_reads, index, column);
#pragma unroll(kLanes < 4 ? kLanes : 4)
      for (int step = 0; step < kLanes; ++step) {
        const int source = step * (soft::kGroup / kLanes) + lane / kLanes;
        const float sum = soft::group_shuffle(mine.sum, source), moment = soft::group_shuffle(mine.moment, source);
        const float of_tau = soft::group_shuffle(mine.tau, source);
        const int at = soft::group_shuffle(split.row, source);
        float4 x{};
        if (sum != 0.0f) x = soft::load4(runs.values, at, column);
        const float dot = soft::dot4(d_read, x);
        const bool left = source < split.left_count;
        dots.left = fmaf(left ? sum : 0.0f, dot, dots.left);
        dots.right = fmaf(left ? 0.0f : sum, dot, dots.right);
        dots.left_moment = fmaf(left ? moment : 0.0f, dot, dots.left_moment);
        dots.right_moment = fmaf(left ? 0.0f : moment, dot, dots.right_moment);
        dots.tau = fmaf(of_tau, dot, dots.tau);
      }
      if (lane >= kLanes || column >= padded) continue;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (carried[side][0].sum == 0.0f) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          const float dot = soft::dot4(d_read, soft::sums4(of_sums[side][k], split.tile, stride, column));
          float& sum = side == 0 ? dots.left : dots.right;
          float& moment = side == 0 ? dots.left_moment : dots.right_moment;
          if (k == 0) sum = fmaf(carried[side][k].sum, dot, sum);
          if (k < 2) moment = fmaf(carried[side][k].moment, dot, moment);
          dots.tau = fmaf(carried[side][k].tau, dot, dots.tau);
        }
      }
    }
  }
  for (float* dot : {&dots.left, &dots.left_moment, &dots.right, &dots.right_moment, &dots.tau}) {
    *dot = soft::group_sum(*dot);
  }

  // A side's masses by K and by u e^-u, their dots, and X.
  struct Side {
    float share, slope, dot, slope_dot, cross;
  };
  const auto side_of = [&](const soft::MaternSide& of, float dot, float dot_moment) {
    const float slope0 = of.e * fmaf(s, of.beyond, seen.ns), slope1 = of.e * s;
    const float value0 = of.e * of.c0, value1 = of.e * of.c1;
    Side out;
    const float share = fmaf(value0, of.z, value1 * of.z_moment), slope = fmaf(slope0, of.z, slope1 * of.z_moment);
    out.share = share * inv_z;
    out.slope = slope * inv_z;
    out.dot = ratio(fmaf(value0, dot, value1 * dot_moment), share);
    out.slope_dot = ratio(fmaf(slope0, dot, slope1 * dot_moment), slope);
    out.cross =
        (slope1 * of.z * inv_z) * (slope1 * of.z_moment * inv_z) * (ratio(dot_moment, of.z_moment) - ratio(dot, of.z));
    return out;
  };
  const Side left = side_of(seen.left, dots.left, dots.left_moment);
  const Side right = side_of(seen.right, dots.right, dots.right_moment);
  const float dot_read = fmaf(left.share, left.dot, right.share * right.dot);
  for (int column = 4 * lane; exists && column < D; column += 4 * soft::kGroup) {
    const float4 d_read = soft::load4(a.d_reads, index, column);
    *reinterpret_cast<float4*>(row + column) = has_read ? soft::scaled(inv_z, d_read) : float4{};
  }
  const float d_log_z = a.d_log_z != nullptr ? __ldg(a.d_log_z + index) : 0.0f;
  if (exists && lane == 0) {
    const float z = has_read ? (d_log_z - dot_read) * inv_z : 0.0f;
    *reinterpret_cast<float4*>(row + padded) = has_read ? float4{z, s, seen.ns, 0.0f} : float4{0.0f, 1.0f, 0.0f, 0.0f};
    const double at = query, nearest = seen.distance;
    const bool left_is_nearest = at - seen.left_at == nearest, right_is_nearest = seen.right_at - at == nearest;
    a.queries.left_reach[j] = !has_read ? at : left_is_nearest ? double{seen.left_at} : at - nearest;
    a.queries.right_reach[j] = !has_read ? at : right_is_nearest ? double{seen.right_at} : at + nearest;
    if (a.d_queries != nullptr) {
      float pull = right.slope * left.share * (right.slope_dot - left.dot);
      pull = fmaf(-left.slope * right.share, left.slope_dot - right.dot, pull) + (right.cross - left.cross);
      const float d = fmaf(d_log_z, right.slope - left.slope, pull) * inv_tau;
      a.d_queries[index] = has_read ? d : __int_as_float(0x7fffffff);
    }
  }
  if (!exists || !has_read) return 0.0;
  const float of_reads = fmaf(d_log_z - dot_read, z_tau, dots.tau) * inv_z;
  return (double{of_reads} + double{d_log_z} * seen.nearest * seen.nearest / (1.0 + seen.nearest)) / double{tau};
}

template <int kLanes, int kRuns>
__global__ void __launch_bounds__(kBackwardThreads, 4)
    backward_queries_matern_kernel(const __grid_constant__ SoftBackward a) {
  soft::for_queries_of_block(a,
                             [&](std::int64_t j, bool exists) { return backward_query<kLanes, kRuns>(a, j, exists); });
}

}  // namespace

Status soft_backward_queries_matern_sm80(const SoftBackward& a, device::Stream& stream) {
  return soft::with_lanes_and_runs(a.runs, [&](auto lanes, auto count) {
    const dim3 blocks(static_cast<unsigned>(soft_query_blocks(a.queries.order.n)));
    return launch("soft_backward", backward_queries_matern_kernel<lanes(), count()>, {blocks, kBackwardThreads}, stream,
                  a);
  });
}

}  // namespace tandem::kernels

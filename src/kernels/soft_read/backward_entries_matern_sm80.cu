// Backward to the entries of a run with the kernel (1 + u) e^-u: as backward_entries_sm80.cu does it, 32 of
// them a warp, or each a read of the queries by half of it where these are many.
// For entry i at the distance b from where a query's nearest seems to be, with gamma that query's row and n, s its own,
//   Y = sum e^-b s gamma and V = sum e^-b (n s + b s) gamma, of both sides:
//   d_v = w U    d_w = <[v;1], U>    d_k = (w/tau) <[v;1], V_R - V_L>    U = V_L + Y_L + V_R + Y_R
// Carried are the sums of n s gamma, of s gamma, and the moments of those.
// Bound: bytes, (8 D + 20) n: values and keys read, gradients written.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"
#include "kernels/soft_read/matern_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::Entry, soft::entry_of, soft::entry_of_lane, soft::kAll, soft::kEntryColumns, soft::kSpanMax;

constexpr int kThreads = 128;

__device__ void write_scalars(const SoftBackward& a, const Entry& entry, float dot, float dot_pull, float inv_tau) {
  if (a.d_keys != nullptr) a.d_keys[entry.slot] = entry.weight * inv_tau * dot_pull;
  if (a.d_weights != nullptr) a.d_weights[entry.slot] = dot;
}

// How an entry sees the nearest queries left and right of it: e^-u and u.
struct Ends {
  float factor[2], exponent[2];
};
__device__ Ends ends_of(float key, double left_at, double right_at, float inv_tau, float scale) {
  Ends out;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const double distance = side == 0 ? key - left_at : right_at - key;
    const bool any = !isinf(distance);
    out.factor[side] = any ? soft::decay(distance, scale) : 0.0f;
    out.exponent[side] = any ? soft::exponent_of(distance, inv_tau) : 0.0f;
  }
  return out;
}

// ---- Few queries among 32 entries: a warp for them, as in backward_entries_sm80.cu. ----

// What a lane's entry is sent, by columns: of both sides Y + V, V_R - V_L and their z.
template <int kLanes>
__device__ void backward_few(const SoftBackward& a, const Entry& entry, const soft::MaternQueryRun& queries,
                             const soft::Place& place, float* shared) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = queries.D, stride = static_cast<int>(soft_row(D));
  const bool is_left = lane < soft::kGroup;
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;
  const auto split = soft::split<soft::MaternQueryRun, false>(queries, place, inv_tau, scale);
  // Rows, as seen from this half's nearest query: of n s gamma, of s gamma, and the moments of those.
  const bool is_mine = is_left == (soft::group_lane() < split.left_count) && split.factor != 0.0f;
  float2 my_slopes{};
  if (is_mine) my_slopes = queries.slopes(split.row);
  const float my_factors[3] = {is_mine ? split.factor * my_slopes.y : 0.0f, is_mine ? split.factor * my_slopes.x : 0.0f,
                               is_mine ? split.factor * my_slopes.x * split.exponent : 0.0f};
  const float carried = is_left ? split.carry_left : split.carry_right;
  const float carried_exponent = is_left ? split.carry_left_exponent : split.carry_right_exponent;
  const SoftSums &rests = a.queries.scan.carries[0], &slopes = a.queries.slopes.carries[0];
  const float* const of[3] = {is_left ? rests.left : rests.right, is_left ? slopes.left : slopes.right,
                              is_left ? slopes.left_moments : slopes.right_moments};
  float* const row = shared + (is_left ? 0 : 3 * stride);
  for (int begin = 0; begin < stride; begin += 4 * kLanes) {  // z's column, too
    const int column = begin + 4 * (lane % kLanes);
    float4 sums[3]{};
#pragma unroll(kLanes < 4 ? kLanes : 4)
    for (int step = 0; step < kLanes; ++step) {
      const int source = step * (soft::kGroup / kLanes) + soft::group_lane() / kLanes;
      float factors[3];
#pragma unroll
      for (int k = 0; k < 3; ++k) factors[k] = soft::group_shuffle(my_factors[k], source);
      const int at = soft::group_shuffle(split.row, source);
      float4 x{};
      if ((factors[0] != 0.0f || factors[1] != 0.0f) && column < stride) {
        x = soft::sums4(a.queries.rows, at, stride, column);
      }
#pragma unroll
      for (int k = 0; k < 3; ++k) soft::add_scaled(sums[k], factors[k], x);
    }
    if (soft::group_lane() < kLanes && column < stride && carried != 0.0f) {
      float4 x[3];
#pragma unroll
      for (int k = 0; k < 3; ++k) x[k] = soft::sums4(of[k], split.tile, stride, column);
      soft::add_scaled(x[2], carried_exponent, x[1]);
#pragma unroll
      for (int k = 0; k < 3; ++k) soft::add_scaled(sums[k], carried, x[k]);
    }
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const float4 sum = soft::sum_rows<kLanes>(sums[k]);
      if (soft::group_lane() < kLanes && column < stride) *reinterpret_cast<float4*>(row + k * stride + column) = sum;
    }
  }
  __syncwarp();
  const int span_begin = __shfl_sync(kAll, place.before, 0), span_end = __shfl_sync(kAll, place.before, soft::kGroup);
  const Ends ends = ends_of(entry.key, __shfl_sync(kAll, split.left_at, 0),
                            __shfl_sync(kAll, split.right_at, soft::kGroup), inv_tau, scale);
  // Of a column of both sides: in the sum, and in what pulls.
  const auto seen = [&](int column, float4& sum, float4& pull) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const float* const from = shared + side * 3 * stride + column;
      const float4 y = *reinterpret_cast<const float4*>(from + stride);
      float4 v = *reinterpret_cast<const float4*>(from);
      soft::add_scaled(v, ends.exponent[side], y);
      soft::add_scaled(v, 1.0f, *reinterpret_cast<const float4*>(from + 2 * stride));
      soft::add_scaled(pull, side == 0 ? -ends.factor[side] : ends.factor[side], v);
      soft::add_scaled(v, 1.0f, y);
      soft::add_scaled(sum, ends.factor[side], v);
    }
  };
  float4 of_z{}, pull_of_z{};
  seen(stride - 4, of_z, pull_of_z);
  float dot = of_z.x, dot_pull = pull_of_z.x;

  for (int first = 0; first < D; first += kEntryColumns) {
    float4 value[kEntryColumns / 4], sum[kEntryColumns / 4];
#pragma unroll
    for (int c = 0; c < kEntryColumns / 4; ++c) {
      const int column = first + 4 * c;
      value[c] = sum[c] = float4{};
      if (column >= D) continue;
      if (entry.weight >= 0.0f) value[c] = soft::load4(a.runs.values, entry.slot, column);
      float4 pull{};
      seen(column, sum[c], pull);
      dot_pull += soft::dot4(value[c], pull);
    }
    for (int begin = span_begin; begin < span_end; begin += 32) {
      const int mine = min(begin + lane, span_end - 1), count = min(32, span_end - begin);
      const float my_query = __ldg(queries.run.order.keys + mine);
      const double my_left = __ldg(queries.run.left_reach + mine), my_right = __ldg(queries.run.right_reach + mine);
      const float4 my_z = soft::sums4(a.queries.rows, mine, stride, stride - 4);
      for (int k = 0; k < count; ++k) {
        // What this query sends to this lane's entry, and from which side.
        const float query = __shfl_sync(kAll, my_query, k), z = __shfl_sync(kAll, my_z.x, k);
        const float s = __shfl_sync(kAll, my_z.y, k), rest = __shfl_sync(kAll, my_z.z, k);
        const double left = __shfl_sync(kAll, my_left, k), right = __shfl_sync(kAll, my_right, k);
        const bool is_right = query > entry.key;
        const double distance = is_right ? left - entry.key : entry.key - right;
        const float factor = soft::decay(distance, scale);
        const float slope = fmaf(s, soft::exponent_of(distance, inv_tau), rest), all = factor * (slope + s);
        float of_row = 0.0f;
#pragma unroll
        for (int c = 0; c < kEntryColumns / 4; ++c) {
          const float4 sent = queries.row(begin + k, first + 4 * c);
          of_row += soft::dot4(value[c], sent);
          soft::add_scaled(sum[c], all, sent);
        }
        if (first == 0) {
          dot = fmaf(all, z, dot);
          of_row += z;
        }
        dot_pull = fmaf(is_right ? factor * slope : -factor * slope, of_row, dot_pull);
      }
    }
#pragma unroll
    for (int c = 0; c < kEntryColumns / 4; ++c) {
      dot += soft::dot4(value[c], sum[c]);
      if (a.d_values.data != nullptr && entry.weight >= 0.0f) {
        soft::store4(a.d_values, entry.slot, first + 4 * c, soft::scaled(entry.weight, sum[c]));
      }
    }
  }
  if (entry.weight >= 0.0f) write_scalars(a, entry, dot, dot_pull, inv_tau);
}

// ---- Many: one entry, by half a warp. ----

template <int kLanes>
__device__ void backward_one(const SoftBackward& a, const Entry& entry, const soft::MaternQueryRun& queries) {
  const int lane = soft::group_lane(), D = queries.D, stride = static_cast<int>(soft_row(D));
  const bool exists = entry.weight >= 0.0f;
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;

  const auto split =
      soft::split<soft::MaternQueryRun, false>(queries, soft::find(queries.order(), entry.key, true), inv_tau, scale);
  const bool is_left = lane < split.left_count;
  // Seen from the entry: what is left and right.
  const Ends ends = ends_of(entry.key, split.left_at, split.right_at, inv_tau, scale);
  float my_factor = split.factor * (is_left ? ends.factor[0] : ends.factor[1]);
  float z = 0.0f, s = 0.0f, rest = 0.0f;
  if (my_factor != 0.0f) {
    const float4 of_row = soft::sums4(a.queries.rows, split.row, stride, stride - 4);
    z = of_row.x;
    s = of_row.y;
    rest = of_row.z;
  }
  const float slope = fmaf(s, split.exponent + (is_left ? ends.exponent[0] : ends.exponent[1]), rest);
  const float value = my_factor * (slope + s), pull = (is_left ? -my_factor : my_factor) * slope;

  // Carried: of n s gamma, s gamma, and the moments of those.
  const SoftSums &carries = a.queries.scan.carries[0], &slopes = a.queries.slopes.carries[0];
  const float* const of[2][3] = {{carries.left, slopes.left, slopes.left_moments},
                                 {carries.right, slopes.right, slopes.right_moments}};
  float carried[2], carried_exponent[2];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    carried[side] = ends.factor[side] * (side == 0 ? split.carry_left : split.carry_right);
    carried_exponent[side] = ends.exponent[side] + (side == 0 ? split.carry_left_exponent : split.carry_right_exponent);
    if (carried[side] == 0.0f) carried_exponent[side] = 0.0f;
  }
  float dot = soft::group_sum(value * z), dot_pull = soft::group_sum(pull * z);
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (carried[side] == 0.0f) continue;
    const std::int64_t z_at = std::int64_t{split.tile} * stride + stride - 4;
    const float y = carried[side] * __ldg(of[side][1] + z_at);
    const float p =
        fmaf(carried[side], __ldg(of[side][0] + z_at) + __ldg(of[side][2] + z_at), carried_exponent[side] * y);
    dot += p + y;
    dot_pull += side == 0 ? -p : p;
  }

  float part = 0.0f, part_pull = 0.0f;
  for (int begin = 0; begin < D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    float4 sum{}, difference{};
#pragma unroll(kLanes < 4 ? kLanes : 4)
    for (int step = 0; step < kLanes; ++step) {
      const int source = step * (soft::kGroup / kLanes) + lane / kLanes;
      const float value_of = soft::group_shuffle(value, source), pull_of = soft::group_shuffle(pull, source);
      const float factor_of = soft::group_shuffle(my_factor, source);
      const int row = soft::group_shuffle(split.row, source);
      float4 x{};
      if (factor_of != 0.0f) x = queries.row(row, column);
      soft::add_scaled(sum, value_of, x);
      soft::add_scaled(difference, pull_of, x);
    }
    if (lane < kLanes && column < stride - 4) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (carried[side] == 0.0f) continue;
        const float4 y = soft::scaled(carried[side], soft::sums4(of[side][1], split.tile, stride, column));
        float4 p = soft::scaled(carried[side], soft::sums4(of[side][0], split.tile, stride, column));
        soft::add_scaled(p, carried[side], soft::sums4(of[side][2], split.tile, stride, column));
        soft::add_scaled(p, carried_exponent[side], y);
        soft::add_scaled(difference, side == 0 ? -1.0f : 1.0f, p);
        soft::add_scaled(p, 1.0f, y);
        soft::add_scaled(sum, 1.0f, p);
      }
    }
    const float4 v = exists ? soft::load4(a.runs.values, entry.slot, column) : float4{};
    part += soft::dot4(v, sum);
    part_pull += soft::dot4(v, difference);
    sum = soft::sum_rows<kLanes>(sum);
    if (a.d_values.data != nullptr && exists && lane < kLanes) {
      soft::store4(a.d_values, entry.slot, column, soft::scaled(entry.weight, sum));
    }
  }
  dot += soft::group_sum(part);
  dot_pull += soft::group_sum(part_pull);
  if (exists && lane == 0) write_scalars(a, entry, dot, dot_pull, inv_tau);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 5)
    few_matern_kernel(const __grid_constant__ SoftBackward a, int which, std::uint8_t* many) {
  extern __shared__ float4 shared4[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + warp * 32;
  if (first >= run.order.n) return;
  const Entry entry = entry_of(run, first + lane);
  const soft::MaternQueryRun queries{{a.queries, a.d_reads.D}};
  const bool is_left = lane < soft::kGroup;
  const soft::Place place = soft::find(queries.order(), __shfl_sync(kAll, entry.key, is_left ? 0 : 31), !is_left);
  const int span = __shfl_sync(kAll, place.before, soft::kGroup) - __shfl_sync(kAll, place.before, 0);
  if (lane == 0) many[first / 32] = span > kSpanMax;
  if (span > kSpanMax) return;
  float* const shared = reinterpret_cast<float*>(shared4) + warp * 6 * soft_row(queries.D);
  backward_few<kLanes>(a, entry, queries, place, shared);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 5)
    many_matern_kernel(const __grid_constant__ SoftBackward a, int which, const std::uint8_t* many) {
  const soft::MaternQueryRun queries{{a.queries, a.d_reads.D}};
  soft::for_entries_left<kThreads>(a.runs.of[which], many,
                                   [&](const Entry& entry) { backward_one<kLanes>(a, entry, queries); });
}

}  // namespace

Status soft_backward_entries_matern_sm80(const SoftBackward& a, int which, std::uint8_t* many, device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    return soft::launch_entries<kThreads>(a, which, many, 6, few_matern_kernel<lanes()>, many_matern_kernel<lanes()>,
                                          stream);
  });
}

}  // namespace tandem::kernels

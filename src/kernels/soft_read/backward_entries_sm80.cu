// Backward to the entries of a run: with the queries as sources, an entry's gradients are a soft read of them that is
// not divided by Z. With U the sum of what all queries send to entry i, U+ and U- of those to its right and left, and M
// that of the exponents' moments:
//   d_v = w U     d_w = <[v;1], U>     d_k = (w/tau) <[v;1], U+ - U->     d_tau = sum_i (w/tau) <[v;1], M>
//
// A warp takes 32 entries. What lies left of all of them, which half of its lanes find, and right, which the other half
// does, is two rows of sums; the queries among them are taken one by one, each entry a lane. Where they are many, each
// entry is a read of its own instead, by half the lanes, in a second kernel.
// Bound: bytes, (8 D + 20) n: values and keys read, gradients written.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::Entry, soft::entry_of, soft::entry_of_lane, soft::kAll, soft::kEntryColumns, soft::kSpanMax;

constexpr int kWarpsPerBlock = 4, kThreads = 32 * kWarpsPerBlock;
static_assert(soft_entry_blocks(kThreads) == 1 && soft_entry_blocks(kThreads + 1) == 2);

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAll, x, lanes);
  return x;
}

// Values are wanted only when the queries have been found.
__device__ __forceinline__ void prefetch_row(const SoftRows& rows, std::int64_t row) {
  constexpr int kSector = 32 / sizeof(float);
  const float* const from = rows.data + row * rows.stride;
  for (int column = 0; column < min(rows.D, 8 * kSector); column += kSector) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + column));
  }
}

// Factors of both sides' sums at an entry, and their exponents.
struct Factors {
  float left, right, left_exponent, right_exponent;
};
__device__ Factors factors_at(float key, double left_at, double right_at, float inv_tau, float scale) {
  Factors out{0.0f, 0.0f, 0.0f, 0.0f};
  if (!isinf(left_at)) {
    const double distance = key - left_at;
    out.left = soft::decay(distance, scale);
    out.left_exponent = soft::exponent_of(distance, inv_tau);
  }
  if (!isinf(right_at)) {
    const double distance = right_at - key;
    out.right = soft::decay(distance, scale);
    out.right_exponent = soft::exponent_of(distance, inv_tau);
  }
  return out;
}

// <[v;1], .> of U, U+ - U-, and M.
struct Dots {
  float all, difference, moment;
};
__device__ void write_scalars(const SoftBackward& a, const Entry& entry, const Dots& dots, float inv_tau) {
  if (a.d_keys != nullptr) a.d_keys[entry.slot] = entry.weight * inv_tau * dots.difference;
  if (a.d_weights != nullptr) a.d_weights[entry.slot] = dots.all;
}
__device__ Dots z_dots(const Factors& f, float z_left, float z_right, float z_left_moment, float z_right_moment) {
  const float left = f.left * z_left, right = f.right * z_right;
  return {left + right, right - left,
          fmaf(f.left, fmaf(f.left_exponent, z_left, z_left_moment),
               f.right * fmaf(f.right_exponent, z_right, z_right_moment))};
}

// ---- Few queries among the entries. ----

// place: of the first query that is not left of all entries, in the first half of the lanes; of the first that is right
// of all, in the second.
template <int kLanes>
__device__ float backward_few(const SoftBackward& a, const Entry& entry, const soft::QueryRun& queries,
                              const soft::Place& place, float* shared) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = queries.D, padded = static_cast<int>(soft_padded(D));
  const bool is_left = lane < soft::kGroup;
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;
  const soft::Split<double> split = soft::split(queries, place, inv_tau, scale);
  // Rows: the left sum, the right, and their moments.
  float* const row = shared + (is_left ? 0 : padded);
  for (int begin = 0; begin < padded; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    soft::Sides sides;
    soft::add_rows<kLanes>(queries, split, is_left ? 1.0f : 0.0f, is_left ? 0.0f : 1.0f, column, sides);
    const float4 sum = soft::sum_rows<kLanes>(is_left ? sides.left : sides.right);
    const float4 moment = soft::sum_rows<kLanes>(is_left ? sides.left_moment : sides.right_moment);
    if (soft::group_lane() < kLanes && column < padded) {
      *reinterpret_cast<float4*>(row + column) = sum;
      *reinterpret_cast<float4*>(row + 2 * padded + column) = moment;
    }
  }
  __syncwarp();
  const auto of_left = [](auto x) { return __shfl_sync(kAll, x, 0); };
  const auto of_right = [](auto x) { return __shfl_sync(kAll, x, soft::kGroup); };
  const int span_begin = of_left(place.before), span_end = of_right(place.before);
  const Factors f = factors_at(entry.key, of_left(split.left_at), of_right(split.right_at), inv_tau, scale);
  Dots dots = z_dots(f, of_left(split.z_left), of_right(split.z_right), of_left(split.z_left_moment),
                     of_right(split.z_right_moment));

  for (int first = 0; first < D; first += kEntryColumns) {
    float4 value[kEntryColumns / 4], sum[kEntryColumns / 4];
#pragma unroll
    for (int c = 0; c < kEntryColumns / 4; ++c) {
      const int column = first + 4 * c;
      value[c] = sum[c] = float4{};
      if (column >= D) continue;
      if (entry.weight >= 0.0f) value[c] = soft::load4(a.runs.values, entry.slot, column);
      float4 rows[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) rows[r] = *reinterpret_cast<const float4*>(shared + r * padded + column);
      const float left_dot = f.left * soft::dot4(value[c], rows[0]);
      const float right_dot = f.right * soft::dot4(value[c], rows[1]);
      dots.difference += right_dot - left_dot;
      dots.moment += fmaf(f.left_exponent, left_dot, f.left * soft::dot4(value[c], rows[2])) +
                     fmaf(f.right_exponent, right_dot, f.right * soft::dot4(value[c], rows[3]));
      soft::add_scaled(sum[c], f.left, rows[0]);
      soft::add_scaled(sum[c], f.right, rows[1]);
    }
    for (int begin = span_begin; begin < span_end; begin += 32) {
      const int mine = min(begin + lane, span_end - 1), count = min(32, span_end - begin);
      const float my_query = __ldg(queries.run.order.keys + mine);
      const double my_left = __ldg(queries.run.left_reach + mine), my_right = __ldg(queries.run.right_reach + mine);
      const float my_z = __ldg(queries.run.rows + std::int64_t{mine} * (padded + 4) + padded);
      for (int k = 0; k < count; ++k) {
        // What this query sends to this lane's entry, and from which side.
        const float query = __shfl_sync(kAll, my_query, k), z = __shfl_sync(kAll, my_z, k);
        const double left = __shfl_sync(kAll, my_left, k), right = __shfl_sync(kAll, my_right, k);
        const bool is_right = query > entry.key;
        const float sign = is_right ? 1.0f : query < entry.key ? -1.0f : 0.0f;
        const double distance = is_right ? left - entry.key : entry.key - right;
        const float exponent = soft::exponent_of(distance, inv_tau), factor = soft::decay(distance, scale);
        float dot = 0.0f;
#pragma unroll
        for (int c = 0; c < kEntryColumns / 4; ++c) {
          const float4 sent = queries.row(begin + k, first + 4 * c);
          dot += soft::dot4(value[c], sent);
          soft::add_scaled(sum[c], factor, sent);
        }
        if (first == 0) {
          dots.all = fmaf(factor, z, dots.all);
          dot += z;
        }
        dot *= factor;
        dots.difference = fmaf(sign, dot, dots.difference);
        dots.moment = fmaf(exponent, dot, dots.moment);
      }
    }
#pragma unroll
    for (int c = 0; c < kEntryColumns / 4; ++c) {
      dots.all += soft::dot4(value[c], sum[c]);
      if (a.d_values.data != nullptr && entry.weight >= 0.0f) {
        soft::store4(a.d_values, entry.slot, first + 4 * c, soft::scaled(entry.weight, sum[c]));
      }
    }
  }
  if (entry.weight < 0.0f) return 0.0f;
  write_scalars(a, entry, dots, inv_tau);
  return entry.weight * inv_tau * dots.moment;
}

// ---- Many: one entry, by half a warp. ----

template <int kLanes>
__device__ float backward_one(const SoftBackward& a, const Entry& entry, const soft::QueryRun& queries) {
  const int lane = soft::group_lane(), D = queries.D;
  const bool exists = entry.weight >= 0.0f;
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;
  const soft::Place place = soft::find(queries.order(), entry.key, true);
  const soft::Split<double> all = soft::split(queries, place, inv_tau, scale);
  const bool any_equal = __any_sync(kAll, soft::is_last(place, entry.key)) != 0;
  soft::Split<double> before = all;
  if (any_equal) before = soft::split(queries, soft::find(queries.order(), entry.key, false), inv_tau, scale);
  const Factors f = factors_at(entry.key, all.left_at, all.right_at, inv_tau, scale);
  const float before_left = factors_at(entry.key, before.left_at, before.right_at, inv_tau, scale).left;

  Dots dots{0.0f, 0.0f, 0.0f};
  for (int begin = 0; begin < D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    soft::Sides sides, sides_before;
    soft::add_rows<kLanes>(queries, all, f.left, f.right, column, sides);
    sides_before.left = sides.left;
    if (any_equal) {
      sides_before.left = float4{};
      soft::add_rows<kLanes>(queries, before, before_left, 0.0f, column, sides_before);
    }
    float4 sum = sides.left, difference = sides.right, moment = sides.left_moment;
    soft::add_scaled(sum, 1.0f, sides.right);
    soft::add_scaled(difference, -1.0f, sides_before.left);
    soft::add_scaled(moment, f.left_exponent, sides.left);
    soft::add_scaled(moment, 1.0f, sides.right_moment);
    soft::add_scaled(moment, f.right_exponent, sides.right);
    sum = soft::sum_rows<kLanes>(sum);
    difference = soft::sum_rows<kLanes>(difference);
    moment = soft::sum_rows<kLanes>(moment);
    const float4 value = exists ? soft::load4(a.runs.values, entry.slot, column) : float4{};
    dots.all += soft::sum_columns<kLanes>(soft::dot4(value, sum));
    dots.difference += soft::sum_columns<kLanes>(soft::dot4(value, difference));
    dots.moment += soft::sum_columns<kLanes>(soft::dot4(value, moment));
    if (a.d_values.data != nullptr && exists && lane < kLanes) {
      soft::store4(a.d_values, entry.slot, column, soft::scaled(entry.weight, sum));
    }
  }
  const Dots of_z = z_dots(f, all.z_left, all.z_right, all.z_left_moment, all.z_right_moment);
  dots.all += of_z.all;
  dots.difference += fmaf(f.right, all.z_right, -before_left * before.z_left);
  dots.moment += of_z.moment;
  if (!exists || lane != 0) return 0.0f;
  write_scalars(a, entry, dots, inv_tau);
  return entry.weight * inv_tau * dots.moment;
}

// The sum over a block's threads, in its first.
template <int kWarps>
__device__ double block_sum(double x) {
  __shared__ double parts[kWarps];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0.0;
#pragma unroll
  for (const double part : parts) sum += part;
  return sum;
}

// A warp that finds many says so in `many`, and leaves its entries to the other kernel.
template <int kLanes>
__global__ void __launch_bounds__(kThreads, 6)
    few_kernel(const __grid_constant__ SoftBackward a, int which, std::int64_t first_partial, std::uint8_t* many) {
  extern __shared__ float4 shared4[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + warp * 32;
  const int n = run.order.n;
  float part = 0.0f;
  if (first < n) {
    const Entry entry = entry_of(run, first + lane);
    const soft::QueryRun queries{a.queries, a.d_reads.D};
    if (entry.weight >= 0.0f) prefetch_row(a.runs.values, entry.slot);
    const bool is_left = lane < soft::kGroup;
    const soft::Place place = soft::find(queries.order(), __shfl_sync(kAll, entry.key, is_left ? 0 : 31), !is_left);
    const int span = __shfl_sync(kAll, place.before, soft::kGroup) - __shfl_sync(kAll, place.before, 0);
    if (lane == 0) many[first / 32] = span > kSpanMax;
    if (span <= kSpanMax) {
      float* const shared = reinterpret_cast<float*>(shared4) + warp * 4 * soft_padded(queries.D);
      part = backward_few<kLanes>(a, entry, queries, place, shared);
    }
  }
  const double sum = block_sum<kWarpsPerBlock>(part);
  if (threadIdx.x == 0) a.partials[first_partial + blockIdx.x] = sum;
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 4) many_kernel(const __grid_constant__ SoftBackward a, int which,
                                                           std::int64_t first_partial, const std::uint8_t* many) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + warp * 32;
  const bool is_many = first < run.order.n && many[first / 32] != 0;
  if (!__syncthreads_or(is_many)) return;
  double part = 0.0;
  if (is_many) {
    const Entry entry = entry_of(run, first + lane);
    const soft::QueryRun queries{a.queries, a.d_reads.D};
    for (int k = 0; k < 32; k += 32 / soft::kGroup) {
      const int of = k + lane / soft::kGroup;
      const Entry one = entry_of_lane(entry, of);
      part += backward_one<kLanes>(a, one, queries);
    }
  }
  const double sum = block_sum<kWarpsPerBlock>(part);
  if (threadIdx.x == 0) a.partials[first_partial + blockIdx.x] += sum;
}

constexpr int kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    sum_partials_kernel(const double* partials, std::int64_t count, float* sum) {
  double part = 0.0;
#pragma unroll 8
  for (std::int64_t i = threadIdx.x; i < count; i += kSumThreads) part += __ldg(partials + i);
  const double all = block_sum<kSumThreads / 32>(part);
  if (threadIdx.x == 0) *sum = static_cast<float>(all);
}

}  // namespace

Status soft_backward_entries_sm80(const SoftBackward& a, int which, std::int64_t first_partial, std::uint8_t* many,
                                  device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    const dim3 blocks(static_cast<unsigned>(soft_entry_blocks(a.runs.of[which].order.n)));
    const int shared = kWarpsPerBlock * 4 * static_cast<int>(soft_padded(a.d_reads.D) * sizeof(float));
    TD_TRY(launch("soft_backward", few_kernel<lanes()>, {blocks, kThreads, shared}, stream, a, which, first_partial,
                  many));
    return launch("soft_backward", many_kernel<lanes()>, {blocks, kThreads}, stream, a, which, first_partial, many);
  });
}

Status soft_sum_partials_sm80(const double* partials, std::int64_t count, float* sum, device::Stream& stream) {
  return launch("soft_backward", sum_partials_kernel, {dim3(1), kSumThreads}, stream, partials, count, sum);
}

}  // namespace tandem::kernels

// Backward to the entries of a run: with the queries as sources, an entry's gradients are a soft read of them that is
// not divided by Z. With U the sum of what all queries send to entry i, U+ and U- of those to its right and left, and M
// that of the exponents' moments:
//   d_v = w U     d_w = <[v;1], U>     d_k = (w/tau) <[v;1], U+ - U->     d_tau = sum_i (w/tau) <[v;1], M>
//
// A warp a tile of 32 entries. What lies left of all of them, and right, is two rows of sums, found once; the queries
// among them are taken one by one, each entry a lane. Where they are many, each entry is a read of its own instead.
// Bound: bytes, (8 D + 20) n: values and keys read, gradients written.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/walk_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::kAll;

constexpr int kTilesPerBlock = 4;  // soft_entry_blocks()
constexpr int kSpanMax = 96;       // queries among a tile's entries that are taken one by one
constexpr int kColumns = 16;       // that a lane holds at a time

struct Entry {
  float key, weight;  // weight < 0: no entry
  int slot;
};

// Factors of both sides' sums at an entry, and their exponents.
struct Factors {
  float left, right, left_exponent, right_exponent;
};
__device__ Factors factors_at(float key, double left_at, double right_at, float inv_tau, float scale) {
  Factors out{0.0f, 0.0f, 0.0f, 0.0f};
  if (!isinf(left_at)) {
    const double distance = key - left_at;
    out.left = soft::decay(distance, scale);
    out.left_exponent = static_cast<float>(distance) * inv_tau;
  }
  if (!isinf(right_at)) {
    const double distance = right_at - key;
    out.right = soft::decay(distance, scale);
    out.right_exponent = static_cast<float>(distance) * inv_tau;
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

template <int kLanes>
__device__ float backward_tile(const SoftBackward& a, const Entry& entry, const soft::QueryRun& queries,
                               const soft::Place& begin, const soft::Place& end, float* shared) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = queries.D, padded = static_cast<int>(soft_padded(D));
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;
  const soft::Split<double> left = split(queries, begin, inv_tau, scale), right = split(queries, end, inv_tau, scale);
  float* const rows[4] = {shared, shared + padded, shared + 2 * padded, shared + 3 * padded};
  for (int begin_column = 0; begin_column < padded; begin_column += 4 * kLanes) {
    const int column = begin_column + 4 * (lane % kLanes);
    soft::Sides sides;
    soft::add_rows<kLanes>(queries, left, 1.0f, 0.0f, column, sides);
    soft::add_rows<kLanes>(queries, right, 0.0f, 1.0f, column, sides);
    const float4 sums[4] = {soft::sum_rows<kLanes>(sides.left), soft::sum_rows<kLanes>(sides.right),
                            soft::sum_rows<kLanes>(sides.left_moment), soft::sum_rows<kLanes>(sides.right_moment)};
    if (lane < kLanes && column < padded) {
#pragma unroll
      for (int r = 0; r < 4; ++r) *reinterpret_cast<float4*>(rows[r] + column) = sums[r];
    }
  }
  __syncwarp();

  const Factors f = factors_at(entry.key, left.left_at, right.right_at, inv_tau, scale);
  Dots dots = z_dots(f, left.z_left, right.z_right, left.z_left_moment, right.z_right_moment);
  // What query j sends to this lane's entry: its factor, the exponent's, and from which side.
  const auto sent = [&](int j, float& exponent, float& sign) {
    const float query = __ldg(queries.run.order.keys + j);
    const bool is_right = query > entry.key;
    sign = is_right ? 1.0f : query < entry.key ? -1.0f : 0.0f;
    const double distance =
        is_right ? __ldg(queries.run.left_reach + j) - entry.key : entry.key - __ldg(queries.run.right_reach + j);
    exponent = static_cast<float>(distance) * inv_tau;
    return soft::decay(distance, scale);
  };
  for (int j = begin.before; j < end.before; ++j) {
    float exponent, sign;
    const float factor = sent(j, exponent, sign);
    const float z = factor * __ldg(queries.run.rows + std::int64_t{j} * (padded + 4) + padded);
    dots.all += z;
    dots.difference = fmaf(sign, z, dots.difference);
    dots.moment = fmaf(exponent, z, dots.moment);
  }
  for (int first = 0; first < D; first += kColumns) {
    float4 value[kColumns / 4], sum[kColumns / 4];
#pragma unroll
    for (int c = 0; c < kColumns / 4; ++c) {
      const int column = first + 4 * c;
      value[c] = sum[c] = float4{};
      if (column >= D) continue;
      if (entry.weight >= 0.0f) value[c] = soft::load4(a.runs.values, entry.slot, column);
      float4 row[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) row[r] = *reinterpret_cast<const float4*>(rows[r] + column);
      const float left_dot = f.left * soft::dot4(value[c], row[0]), right_dot = f.right * soft::dot4(value[c], row[1]);
      dots.difference += right_dot - left_dot;
      dots.moment += fmaf(f.left_exponent, left_dot, f.left * soft::dot4(value[c], row[2])) +
                     fmaf(f.right_exponent, right_dot, f.right * soft::dot4(value[c], row[3]));
      soft::add_scaled(sum[c], f.left, row[0]);
      soft::add_scaled(sum[c], f.right, row[1]);
    }
    for (int j = begin.before; j < end.before; ++j) {
      float exponent, sign;
      const float factor = sent(j, exponent, sign);
      float dot = 0.0f;
#pragma unroll
      for (int c = 0; c < kColumns / 4; ++c) {
        const float4 row = queries.row(j, first + 4 * c);
        dot += soft::dot4(value[c], row);
        soft::add_scaled(sum[c], factor, row);
      }
      dot *= factor;
      dots.difference = fmaf(sign, dot, dots.difference);
      dots.moment = fmaf(exponent, dot, dots.moment);
    }
#pragma unroll
    for (int c = 0; c < kColumns / 4; ++c) {
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

// ---- Many: one entry, by all lanes. ----

template <int kLanes>
__device__ float backward_entry(const SoftBackward& a, const Entry& entry, const soft::QueryRun& queries) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = queries.D;
  const float inv_tau = 1.0f / a.runs.tau, scale = 1.44269504f / a.runs.tau;
  const soft::Place place = soft::find<true>(queries.order(), entry.key);
  const soft::Split<double> all = split(queries, place, inv_tau, scale);
  const float last = __shfl_sync(kAll, place.key, (place.before - 1) % kSoftTile);
  const bool has_equal = place.before > 0 && last == entry.key;
  soft::Split<double> before = all;
  if (has_equal) before = split(queries, soft::find<false>(queries.order(), entry.key), inv_tau, scale);
  const Factors f = factors_at(entry.key, all.left_at, all.right_at, inv_tau, scale);
  const float before_left = factors_at(entry.key, before.left_at, before.right_at, inv_tau, scale).left;

  Dots dots{0.0f, 0.0f, 0.0f};
  for (int begin_column = 0; begin_column < D; begin_column += 4 * kLanes) {
    const int column = begin_column + 4 * (lane % kLanes);
    soft::Sides sides, sides_before;
    soft::add_rows<kLanes>(queries, all, f.left, f.right, column, sides);
    sides_before.left = sides.left;
    if (has_equal) {
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
    const float4 value = soft::load4(a.runs.values, entry.slot, column);
    dots.all += soft::sum_columns<kLanes>(soft::dot4(value, sum));
    dots.difference += soft::sum_columns<kLanes>(soft::dot4(value, difference));
    dots.moment += soft::sum_columns<kLanes>(soft::dot4(value, moment));
    if (a.d_values.data != nullptr && lane < kLanes) {
      soft::store4(a.d_values, entry.slot, column, soft::scaled(entry.weight, sum));
    }
  }
  const Dots of_z = z_dots(f, all.z_left, all.z_right, all.z_left_moment, all.z_right_moment);
  dots.all += of_z.all;
  dots.difference += fmaf(f.right, all.z_right, -before_left * before.z_left);
  dots.moment += of_z.moment;
  if (lane == 0) write_scalars(a, entry, dots, inv_tau);
  return lane == 0 ? entry.weight * inv_tau * dots.moment : 0.0f;
}

template <int kLanes>
__global__ void __launch_bounds__(32 * kTilesPerBlock, 4)
    backward_entries_kernel(const __grid_constant__ SoftBackward a, int which, std::int64_t first_partial) {
  extern __shared__ float4 shared4[];
  __shared__ double parts[kTilesPerBlock];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t first = (std::int64_t{blockIdx.x} * kTilesPerBlock + warp) * kSoftTile;
  const int n = run.order.n;
  double part = 0.0;
  if (first < n) {
    const int i = static_cast<int>(min(first + lane, std::int64_t{n} - 1));
    const Entry entry{__ldg(run.order.keys + i), first + lane < n ? __ldg(run.weights + i) : -1.0f,
                      __ldg(run.slots + i)};
    const soft::QueryRun queries{a.queries, a.d_reads.D};
    const soft::Place begin = soft::find<false>(queries.order(), __shfl_sync(kAll, entry.key, 0));
    const soft::Place end = soft::find<true>(queries.order(), __shfl_sync(kAll, entry.key, 31));
    if (end.before - begin.before <= kSpanMax) {
      float* const shared = reinterpret_cast<float*>(shared4) + warp * 4 * soft_padded(queries.D);
      part = backward_tile<kLanes>(a, entry, queries, begin, end, shared);
    } else {
      for (int of = 0; of < kSoftTile; ++of) {
        const Entry one{__shfl_sync(kAll, entry.key, of), __shfl_sync(kAll, entry.weight, of),
                        __shfl_sync(kAll, entry.slot, of)};
        if (one.weight >= 0.0f) part += backward_entry<kLanes>(a, one, queries);
      }
    }
    part = soft::warp_sum(part);
  }
  if (lane == 0) parts[warp] = part;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0.0;
#pragma unroll
  for (const double of_warp : parts) sum += of_warp;
  a.partials[first_partial + blockIdx.x] = sum;
}

constexpr int kSumThreads = 256;

__global__ void __launch_bounds__(kSumThreads)
    sum_partials_kernel(const double* partials, std::int64_t count, float* sum) {
  __shared__ double parts[kSumThreads / 32];
  double part = 0.0;
  for (std::int64_t i = threadIdx.x; i < count; i += kSumThreads) part += partials[i];
  part = soft::warp_sum(part);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double all = 0.0;
#pragma unroll
  for (const double of_warp : parts) all += of_warp;
  *sum = static_cast<float>(all);
}

}  // namespace

Status soft_backward_entries_sm80(const SoftBackward& a, int which, std::int64_t first_partial,
                                  device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    const dim3 blocks(static_cast<unsigned>(soft_entry_blocks(a.runs.of[which].order.n)));
    const int shared = kTilesPerBlock * 4 * static_cast<int>(soft_padded(a.d_reads.D) * sizeof(float));
    return launch("soft_backward", backward_entries_kernel<lanes()>, {blocks, 32 * kTilesPerBlock, shared}, stream, a,
                  which, first_partial);
  });
}

Status soft_sum_partials_sm80(const double* partials, std::int64_t count, float* sum, device::Stream& stream) {
  return launch("soft_backward", sum_partials_kernel, {dim3(1), kSumThreads}, stream, partials, count, sum);
}

}  // namespace tandem::kernels

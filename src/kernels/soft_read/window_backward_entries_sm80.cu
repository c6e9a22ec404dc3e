// Backward to the entries of a run with a kernel that ends: the sums of window_sm80.cuh again, over queries, whose rows
// are gamma = [d_read ; d_log_z - <d_read, r>] / Z. With u = (k - q) / tau,
//   d_v = w sum K gamma    d_w = <[v;1], sum K gamma>    d_k = -(2 w / tau) <[v;1], sum u gamma>
//
// A warp takes 32 entries. The queries that all of them reach are summed once, as seen from one of them, c:
//   sum K gamma = V - 2 delta S - delta^2 M    sum u gamma = S + delta M    delta = (k - c) / tau
// of V = sum (1 - u_c^2) gamma, S = sum u_c gamma, M = sum gamma; those that only some reach are taken one by one.
// Where these are many, each entry is a read of the queries, by half a warp. Bound: bytes, (8 D + 20) n: values and
// keys read, gradients written.
#include "kernels/common/launch.cuh"
#include "kernels/soft_read/backward_sm80.cuh"
#include "kernels/soft_read/window_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::Entry, soft::entry_of, soft::entry_of_lane, soft::kAll, soft::kEntryColumns, soft::kSpanMax;

constexpr int kThreads = 128;

__device__ void write_scalars(const SoftBackward& a, const Entry& entry, float dot, float slope) {
  if (a.d_keys != nullptr) a.d_keys[entry.slot] = -2.0f * entry.weight * slope / a.runs.tau;
  if (a.d_weights != nullptr) a.d_weights[entry.slot] = dot;
}

// Queries that some entries reach: those of the first that the last does not, and the other way round.
struct Spans {
  soft::Reach shared, before, after;
  __device__ int count() const { return before.last - before.first + after.last - after.first; }
};
__device__ Spans spans_of(const soft::Reach& of_half) {
  const soft::Reach first{__shfl_sync(kAll, of_half.first, 0), __shfl_sync(kAll, of_half.last, 0)};
  const soft::Reach last{__shfl_sync(kAll, of_half.first, soft::kGroup), __shfl_sync(kAll, of_half.last, soft::kGroup)};
  // No query is reached by all: then others may lie between those that these two reach.
  if (last.first >= first.last) return {{0, 0}, {first.first, last.last}, {0, 0}};
  return {{last.first, first.last}, {first.first, last.first}, {first.last, last.last}};
}

template <int kLanes>
__device__ void backward_few(const SoftBackward& a, const Entry& entry, const soft::WindowQueryRun& queries,
                             const Spans& spans, float* shared) {
  const int lane = static_cast<int>(threadIdx.x % 32), D = queries.D, stride = static_cast<int>(soft_row(D));
  const float tau = a.runs.tau, centre = __shfl_sync(kAll, entry.key, 15), delta = __fdiv_rn(entry.key - centre, tau);
  float dot = 0.0f, slope = 0.0f;
  const bool any_shared = spans.shared.first < spans.shared.last;
  if (any_shared) {  // both halves do the same
    const soft::WindowTerms terms = soft::window_terms(queries, spans.shared, centre, tau);
    const soft::WindowFactors z = soft::window_z(queries, terms);
    dot = z.value - delta * fmaf(delta, z.mass, 2.0f * z.slope);
    slope = fmaf(delta, z.mass, z.slope);
    for (int begin = 0; begin < stride - 4; begin += 4 * kLanes) {
      const int column = begin + 4 * (lane % kLanes);
      float4 sums[3]{};
      soft::window_rows<kLanes>(queries, terms, column, [&](float4 x, const soft::WindowFactors& of) {
        soft::add_scaled(sums[0], of.value, x);
        soft::add_scaled(sums[1], of.slope, x);
        soft::add_scaled(sums[2], of.mass, x);
      });
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const float4 sum = soft::sum_rows<kLanes>(sums[k]);
        if (lane < kLanes && column < stride - 4) *reinterpret_cast<float4*>(shared + k * stride + column) = sum;
      }
    }
    __syncwarp();
  }
  for (int first = 0; first < D; first += kEntryColumns) {
    float4 value[kEntryColumns / 4], sum[kEntryColumns / 4];
#pragma unroll
    for (int c = 0; c < kEntryColumns / 4; ++c) {
      const int column = first + 4 * c;
      value[c] = sum[c] = float4{};
      if (column >= D) continue;
      if (entry.weight >= 0.0f) value[c] = soft::load4(a.runs.values, entry.slot, column);
      if (!any_shared) continue;
      const float4 mass = *reinterpret_cast<const float4*>(shared + 2 * stride + column);
      float4 of_slope = *reinterpret_cast<const float4*>(shared + stride + column);
      sum[c] = *reinterpret_cast<const float4*>(shared + column);
      soft::add_scaled(sum[c], -2.0f * delta, of_slope);
      soft::add_scaled(sum[c], -delta * delta, mass);
      soft::add_scaled(of_slope, delta, mass);
      slope += soft::dot4(value[c], of_slope);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const soft::Reach& span = side == 0 ? spans.before : spans.after;
      for (int j = span.first; j < span.last; ++j) {
        const float query = __ldg(queries.run.order.keys + j);
        const bool is_in = !(entry.key - query >= tau) && !(query - entry.key >= tau);
        const float u = is_in ? __fdiv_rn(entry.key - query, tau) : 0.0f, all = is_in ? (1.0f - u) * (1.0f + u) : 0.0f;
        float of_row = 0.0f;
#pragma unroll
        for (int c = 0; c < kEntryColumns / 4; ++c) {
          const float4 sent = queries.row(j, first + 4 * c);
          of_row += soft::dot4(value[c], sent);
          soft::add_scaled(sum[c], all, sent);
        }
        if (first == 0) {
          const float z = __ldg(queries.run.rows + std::int64_t{j} * stride + stride - 4);
          dot = fmaf(all, z, dot);
          of_row += z;
        }
        slope = fmaf(u, of_row, slope);
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
  if (entry.weight >= 0.0f) write_scalars(a, entry, dot, slope);
}

// ---- Many: one entry, by half a warp. ----

template <int kLanes>
__device__ void backward_one(const SoftBackward& a, const Entry& entry, const soft::WindowQueryRun& queries) {
  const int lane = soft::group_lane(), D = a.d_reads.D;
  const bool exists = entry.weight >= 0.0f;
  const soft::WindowTerms terms = soft::window_terms(queries, entry.key, a.runs.tau);
  const soft::WindowFactors z = soft::window_z(queries, terms);
  float dot = 0.0f, slope = 0.0f;
  for (int begin = 0; begin < D; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    const float4 v = exists ? soft::load4(a.runs.values, entry.slot, column) : float4{};
    float4 sum{};
    soft::window_rows<kLanes>(queries, terms, column, [&](float4 x, const soft::WindowFactors& of) {
      soft::add_scaled(sum, of.value, x);
      slope = fmaf(of.slope, soft::dot4(v, x), slope);
    });
    dot += soft::dot4(v, sum);
    sum = soft::sum_rows<kLanes>(sum);
    if (a.d_values.data != nullptr && exists && lane < kLanes) {
      soft::store4(a.d_values, entry.slot, column, soft::scaled(entry.weight, sum));
    }
  }
  dot = soft::group_sum(dot) + z.value;
  slope = soft::group_sum(slope) + z.slope;  // its u is (key - q) / tau
  if (exists && lane == 0) write_scalars(a, entry, dot, slope);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 5)
    few_window_kernel(const __grid_constant__ SoftBackward a, int which, std::uint8_t* many) {
  extern __shared__ float4 shared4[];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const SoftEntryRun& run = a.runs.of[which];
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + warp * 32;
  if (first >= run.order.n) return;
  const Entry entry = entry_of(run, first + lane);
  const soft::WindowQueryRun queries{{a.queries, a.d_reads.D}};
  const float edge = __shfl_sync(kAll, entry.key, lane < soft::kGroup ? 0 : 31);
  const Spans spans = spans_of(soft::reach_of(queries.order(), edge, a.runs.tau));
  const bool is_few = spans.count() <= kSpanMax;
  if (lane == 0) many[first / 32] = !is_few;
  if (!is_few) return;
  float* const shared = reinterpret_cast<float*>(shared4) + warp * 3 * soft_row(queries.D);
  backward_few<kLanes>(a, entry, queries, spans, shared);
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads, 5)
    many_window_kernel(const __grid_constant__ SoftBackward a, int which, const std::uint8_t* many) {
  const soft::WindowQueryRun queries{{a.queries, a.d_reads.D}};
  soft::for_entries_left<kThreads>(a.runs.of[which], many,
                                   [&](const Entry& entry) { backward_one<kLanes>(a, entry, queries); });
}

}  // namespace

Status soft_backward_entries_window_sm80(const SoftBackward& a, int which, std::uint8_t* many, device::Stream& stream) {
  return soft::with_lanes(a.d_reads.D, [&](auto lanes) {
    return soft::launch_entries<kThreads>(a, which, many, 3, few_window_kernel<lanes()>, many_window_kernel<lanes()>,
                                          stream);
  });
}

}  // namespace tandem::kernels

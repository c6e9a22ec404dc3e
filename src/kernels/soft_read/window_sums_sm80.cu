// The sums that window_sm80.cuh reads: of tiles, half a warp each, and level by level of nodes in groups of 16
// siblings, a block a group, a thread a column and side; from the group's end, or from its beginning. Bound: bytes, (4
// D + 16) n of entries read once, and 18 rows of D + 4 for each tile written or read.
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/soft_read/window_sm80.cuh"

namespace tandem::kernels {
namespace {

constexpr int kThreads = 256, kTilesPerBlock = kThreads / soft::kGroup;

template <int kLanes, class Run>
__device__ void tile_sums(const Run& run, int D, float tau, const std::uint8_t* dirty) {
  const int lane = soft::group_lane(), n = run.order().n, tiles = (n - 1) / kSoftTile + 1;
  const auto [tile, exists] = soft::group_share(kTilesPerBlock, tiles);
  if (dirty != nullptr && !__any_sync(soft::kAll, dirty[tile] != 0)) return;
  const int first = static_cast<int>(tile) * kSoftTile, i = first + lane, count = min(kSoftTile, n - first);
  const float key = i < n ? __ldg(run.order().keys + i) : 0.0f;
  const float from = soft::group_shuffle(key, 0), to = soft::group_shuffle(key, count - 1);
  soft::Source<typename Run::At> source{0.0f, 0, 0, 0.0f, 0};
  if (i < n) source = run.source(i, key);
  const bool counts = source.weight > 0.0f;
  const float weight = counts ? source.weight : 0.0f;
  const float lo = counts ? __fdiv_rn(key - from, tau) : 0.0f, hi = counts ? __fdiv_rn(to - key, tau) : 0.0f;
  // M0, and from both edges M1 and M2.
  const float factors[5] = {weight, weight * lo, weight * lo * lo, weight * hi, weight * hi * hi};
  const int padded = static_cast<int>(soft_padded(D)), stride = padded + 4;
  const std::int64_t row_at = tile * 3 * stride;
  const auto write = [&](int k, int column, float4 x) {
    if (k < 3) *reinterpret_cast<float4*>(run.window().tiles_lo + row_at + k * stride + column) = x;
    if (k == 0 || k > 2) {
      *reinterpret_cast<float4*>(run.window().tiles_hi + row_at + (k > 2 ? k - 2 : 0) * stride + column) = x;
    }
  };
#pragma unroll
  for (int k = 0; k < 5; ++k) {
    const float z = soft::group_sum(counts ? factors[k] * source.z : 0.0f);
    if (exists && lane == 0) write(k, padded, {z, 0.0f, 0.0f, 0.0f});
  }
  for (int begin = 0; begin < padded; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    float4 sums[5]{};
#pragma unroll(kLanes < 2 ? kLanes : 2)
    for (int step = 0; step < kLanes; ++step) {
      const int of = step * (soft::kGroup / kLanes) + lane / kLanes;
      const int row = soft::group_shuffle(source.row, of);
      float factor[5];
#pragma unroll
      for (int k = 0; k < 5; ++k) factor[k] = soft::group_shuffle(factors[k], of);
      float4 x{};
      if (factor[0] != 0.0f) x = run.row(row, column);
#pragma unroll
      for (int k = 0; k < 5; ++k) soft::add_scaled(sums[k], factor[k], x);
    }
#pragma unroll
    for (int k = 0; k < 5; ++k) {
      const float4 x = soft::sum_rows<kLanes>(sums[k]);
      if (exists && lane < kLanes && column < padded) write(k, column, x);
    }
  }
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    entry_window_sums_kernel(const __grid_constant__ SoftEntryRun run, const SoftRows values, float tau,
                             const std::uint8_t* dirty) {
  tile_sums<kLanes>(soft::WindowEntryRun{{run, values}}, values.D, tau, dirty);
}
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    query_window_sums_kernel(const __grid_constant__ SoftQueryRun run, int D, float tau) {
  tile_sums<kLanes>(soft::WindowQueryRun{{run, D}}, D, tau, nullptr);
}

struct GroupArguments {
  SoftOrder order;
  // Sums of the nodes, from their first source and from their last: node j's are the last_of-th of each 16 of `hi`, and
  // the first of each 16 of `lo`; of tiles, their own.
  const float *lo, *hi;
  float *suffixes, *prefixes;
  int level, count, below;  // nodes of this level, and of the one below (0: these are tiles)
  int stride;
  float tau;
};

constexpr int kGroupThreadsMax = 576;
static_assert(2 * ((soft_row(256) + 31) / 32 * 32) <= kGroupThreadsMax);

__global__ void __launch_bounds__(kGroupThreadsMax) group_sums_kernel(const __grid_constant__ GroupArguments a) {
  const int half = static_cast<int>(blockDim.x) / 2, column = static_cast<int>(threadIdx.x) % half;
  const bool is_suffix = static_cast<int>(threadIdx.x) < half;
  if (column >= a.stride) return;
  const int begin = static_cast<int>(blockIdx.x) * kSoftTile, count = min(kSoftTile, a.count - begin);
  const int bits = kSoftTileBits * (a.level + 1);
  const auto node_at = [&](int k) { return is_suffix ? begin + count - 1 - k : begin + k; };
  const auto row_of = [&](int node) {
    if (a.below == 0) return node;
    return is_suffix ? node * kSoftTile : min(node * kSoftTile + kSoftTile, a.below) - 1;
  };
  const float* const from = is_suffix ? a.lo : a.hi;
  float* const to = is_suffix ? a.suffixes : a.prefixes;
  const auto edge_of = [&](std::int64_t node) {
    return is_suffix ? node << bits : min((node + 1) << bits, std::int64_t{a.order.n}) - 1;
  };
  constexpr int kAhead = 4;  // nodes whose loads are asked for together
  double m0 = 0.0, m1 = 0.0, m2 = 0.0;
  float edge = __ldg(a.order.keys + edge_of(node_at(0)));
  for (int ahead = 0; ahead < count; ahead += kAhead) {
    float x[kAhead][3], key[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (ahead + k >= count) break;
      const int node = node_at(ahead + k);
      const std::int64_t row = 3 * std::int64_t{row_of(node)};
      key[k] = __ldg(a.order.keys + edge_of(node));
#pragma unroll
      for (int i = 0; i < 3; ++i) x[k][i] = __ldg(from + (row + i) * a.stride + column);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (ahead + k >= count) break;
      const double moved = key[k] == edge ? 0.0 : fabs(double{key[k]} - double{edge}) / double{a.tau};
      edge = key[k];
      m2 = fma(moved, fma(moved, m0, 2 * m1), m2) + double{x[k][2]};
      m1 = fma(moved, m0, m1) + double{x[k][1]};
      m0 += double{x[k][0]};
      const std::int64_t row = 3 * std::int64_t{node_at(ahead + k)};
      to[row * a.stride + column] = static_cast<float>(m0);
      to[(row + 1) * a.stride + column] = static_cast<float>(m1);
      to[(row + 2) * a.stride + column] = static_cast<float>(m2);
    }
  }
}

int tiles_of(int n) { return (n + kSoftTile - 1) / kSoftTile; }
dim3 tile_blocks(int n) { return dim3(static_cast<unsigned>((tiles_of(n) + kTilesPerBlock - 1) / kTilesPerBlock)); }

Status sum_groups(const SoftOrder& order, const SoftWindow& window, int D, float tau, device::Stream& stream) {
  const int stride = static_cast<int>(soft_row(D)), threads = 2 * ((stride + 31) / 32 * 32);
  int count = tiles_of(order.n), below = 0;
  for (int level = 0; level < window.levels; ++level) {
    const GroupArguments arguments{.order = order,
                                   .lo = level == 0 ? window.tiles_lo : window.suffixes[level - 1],
                                   .hi = level == 0 ? window.tiles_hi : window.prefixes[level - 1],
                                   .suffixes = window.suffixes[level],
                                   .prefixes = window.prefixes[level],
                                   .level = level,
                                   .count = count,
                                   .below = below,
                                   .stride = stride,
                                   .tau = tau};
    TD_TRY(launch("soft_sums", group_sums_kernel, {dim3(static_cast<unsigned>(tiles_of(count))), threads}, stream,
                  arguments));
    below = count;
    count = tiles_of(count);
  }
  return ok_status();
}

}  // namespace

Status soft_sum_entries_window_sm80(const SoftEntryRun& run, const SoftRows& values, float tau, bool dirty_only,
                                    device::Stream& stream) {
  const std::uint8_t* const dirty = dirty_only ? run.dirty : nullptr;
  TD_TRY(soft::with_lanes(values.D, [&](auto lanes) {
    return launch("soft_sums", entry_window_sums_kernel<lanes()>, {tile_blocks(run.order.n), kThreads}, stream, run,
                  values, tau, dirty);
  }));
  return sum_groups(run.order, run.window, values.D, tau, stream);
}

Status soft_sum_queries_window_sm80(const SoftQueryRun& run, int D, float tau, device::Stream& stream) {
  TD_TRY(soft::with_lanes(D, [&](auto lanes) {
    return launch("soft_sums", query_window_sums_kernel<lanes()>, {tile_blocks(run.order.n), kThreads}, stream, run, D,
                  tau);
  }));
  return sum_groups(run.order, run.window, D, tau, stream);
}

}  // namespace tandem::kernels

// The sums of a run's tiles, and by a scan over them those of all that lies to the left and to the right of each.
//
//   tile_sums_kernel  half a warp a tile: its sources' factors, one a lane, then its rows, several at a time
//   scan_kernel       a block adds up a chunk of kSoftChunk tiles, then of chunks, until one block can scan what is
//                     left; then blocks scan their chunks from where those before them came. A thread a column and
//                     side, in f64, whose decays are f64 too: thousands of them are multiplied.
// Bound: bytes, (4 D + 16) n of entries read once, and 8 rows of D + 4 for each tile written or read.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/common/launch.cuh"
#include "kernels/soft_read/matern_sm80.cuh"

namespace tandem::kernels {
namespace {

using soft::kAll;

constexpr int kThreads = 256, kTilesPerBlock = kThreads / soft::kGroup;

// ---- Tiles. ----

template <class Run, int kLanes>
__device__ void tile_sums(const Run& run, int D, float tau, const std::uint8_t* dirty) {
  using At = typename Run::At;
  const int lane = soft::group_lane(), n = run.order().n, tiles = (n - 1) / kSoftTile + 1;
  const auto [tile, exists] = soft::group_share(kTilesPerBlock, tiles);
  if (dirty != nullptr && !__any_sync(kAll, dirty[tile] != 0)) return;
  const float inv_tau = 1.0f / tau, scale = 1.44269504f / tau;
  const int i = static_cast<int>(tile) * kSoftTile + lane;
  soft::Source<At> source{0.0f, 0, 0, 0.0f, 0};
  if (i < n) source = run.source(i, run.order().keys[i]);
  const bool counts = source.weight > 0.0f;
  const unsigned all = soft::group_ballot(counts);
  const At left_at = soft::group_shuffle(source.reach_right, 31 - __clz(static_cast<int>(all | 1u)));
  const At right_at = soft::group_shuffle(source.reach_left, all != 0 ? __ffs(static_cast<int>(all)) - 1 : 0);
  const float to_left = static_cast<float>(left_at - source.reach_right);
  const float to_right = static_cast<float>(source.reach_left - right_at);
  const float left = counts ? source.weight * soft::decay(to_left, scale) : 0.0f;
  const float right = counts ? source.weight * soft::decay(to_right, scale) : 0.0f;
  const float left_exponent = counts ? soft::exponent_of(to_left, inv_tau) : 0.0f,
              right_exponent = counts ? soft::exponent_of(to_right, inv_tau) : 0.0f;

  const SoftSums& sums = run.scan().sums[0];
  const int padded = static_cast<int>(soft_padded(D)), stride = padded + 4;
  const std::int64_t row_at = tile * stride;
  const auto write_z = [&](float* to, float z) {
    const float sum = soft::group_sum(counts ? z * source.z : 0.0f);
    if (exists && lane == 0) *reinterpret_cast<float4*>(to + row_at + padded) = {sum, 0.0f, 0.0f, 0.0f};
  };
  write_z(sums.left, left);
  write_z(sums.right, right);
  if constexpr (Run::kMoments) {
    write_z(sums.left_moments, left * left_exponent);
    write_z(sums.right_moments, right * right_exponent);
  }
  if constexpr (soft::has_squares<Run>) {
    write_z(sums.left_squares, left * left_exponent * left_exponent);
    write_z(sums.right_squares, right * right_exponent * right_exponent);
  }
  if (exists && lane == 0) {
    sums.left_at[tile] = all != 0 ? static_cast<double>(left_at) : -HUGE_VAL;
    sums.right_at[tile] = all != 0 ? static_cast<double>(right_at) : HUGE_VAL;
  }
  for (int begin = 0; begin < padded; begin += 4 * kLanes) {
    const int column = begin + 4 * (lane % kLanes);
    soft::Sides sides;
    float4 left_square{}, right_square{};
#pragma unroll(kLanes < 8 ? kLanes : 8)
    for (int step = 0; step < kLanes; ++step) {
      const int of = step * (soft::kGroup / kLanes) + lane / kLanes;
      const float left_of = soft::group_shuffle(left, of), right_of = soft::group_shuffle(right, of);
      const int row = soft::group_shuffle(source.row, of);
      float4 x{};
      if (left_of != 0.0f || right_of != 0.0f) x = run.row(row, column);
      soft::add_scaled(sides.left, left_of, x);
      soft::add_scaled(sides.right, right_of, x);
      if constexpr (Run::kMoments) {
        const float left_u = soft::group_shuffle(left_exponent, of), right_u = soft::group_shuffle(right_exponent, of);
        soft::add_scaled(sides.left_moment, left_of * left_u, x);
        soft::add_scaled(sides.right_moment, right_of * right_u, x);
        if constexpr (soft::has_squares<Run>) {
          soft::add_scaled(left_square, left_of * left_u * left_u, x);
          soft::add_scaled(right_square, right_of * right_u * right_u, x);
        }
      }
    }
    const auto write = [&](float* to, float4 x) {
      x = soft::sum_rows<kLanes>(x);
      if (exists && lane < kLanes && column < padded) *reinterpret_cast<float4*>(to + row_at + column) = x;
    };
    write(sums.left, sides.left);
    write(sums.right, sides.right);
    if constexpr (Run::kMoments) {
      write(sums.left_moments, sides.left_moment);
      write(sums.right_moments, sides.right_moment);
    }
    if constexpr (soft::has_squares<Run>) {
      write(sums.left_squares, left_square);
      write(sums.right_squares, right_square);
    }
  }
}

template <class Run, int kLanes>
__global__ void __launch_bounds__(kThreads)
    entry_tile_sums_kernel(const __grid_constant__ SoftEntryRun run, const SoftRows values, float tau,
                           const std::uint8_t* dirty) {
  tile_sums<Run, kLanes>({run, values}, values.D, tau, dirty);
}

template <class Run, int kLanes>
__global__ void __launch_bounds__(kThreads)
    query_tile_sums_kernel(const __grid_constant__ SoftQueryRun run, int D, float tau) {
  tile_sums<Run, kLanes>({run, D}, D, tau, nullptr);
}

int tiles_of(int n) { return (n + kSoftTile - 1) / kSoftTile; }
dim3 tile_blocks(int n) { return dim3(static_cast<unsigned>((tiles_of(n) + kTilesPerBlock - 1) / kTilesPerBlock)); }

// ---- Scan. ----

struct ScanArguments {
  SoftSums of;  // [count]
  int count;
  SoftSums before;  // what comes before and after each block's; null: nothing
  SoftSums to;      // kWrite: [count], all before and after each; else [blocks], the sums of each block
  int stride;
  double tau;
};

constexpr int kScanThreadsMax = 576;
static_assert(2 * ((soft_row(256) + 31) / 32 * 32) <= kScanThreadsMax);

// Half of the threads go from left to right over the left sums, half from right to left over the right ones.
template <int kMoments, bool kWrite>
__global__ void __launch_bounds__(kScanThreadsMax, 1) scan_kernel(const __grid_constant__ ScanArguments a) {
  __shared__ double at[2][kSoftChunk], factors[2][kSoftChunk], exponents[2][kSoftChunk];
  const int half = static_cast<int>(blockDim.x) / 2, side = static_cast<int>(threadIdx.x) / half;
  const int column = static_cast<int>(threadIdx.x) % half;
  const bool is_left = side == 0, has_column = column < a.stride;
  const int begin = static_cast<int>(blockIdx.x) * kSoftChunk, end = min(begin + kSoftChunk, a.count);
  const double* const of_at = is_left ? a.of.left_at : a.of.right_at;
  const float* const of = is_left ? a.of.left : a.of.right;
  const float* const of_moments = is_left ? a.of.left_moments : a.of.right_moments;
  float* const to = is_left ? a.to.left : a.to.right;
  float* const to_moments = is_left ? a.to.left_moments : a.to.right_moments;
  const float* const of_squares = is_left ? a.of.left_squares : a.of.right_squares;
  float* const to_squares = is_left ? a.to.left_squares : a.to.right_squares;
  double* const to_at = is_left ? a.to.left_at : a.to.right_at;

  double anchor = is_left ? -HUGE_VAL : HUGE_VAL, sum = 0.0, moment = 0.0, square = 0.0;
  if (a.before.left != nullptr) {
    anchor = (is_left ? a.before.left_at : a.before.right_at)[blockIdx.x];
    const std::int64_t from = std::int64_t{blockIdx.x} * a.stride + column;
    if (has_column) sum = (is_left ? a.before.left : a.before.right)[from];
    if (kMoments > 0 && has_column) moment = (is_left ? a.before.left_moments : a.before.right_moments)[from];
    if (kMoments > 1 && has_column) square = (is_left ? a.before.left_squares : a.before.right_squares)[from];
  }
  const int count = end - begin;
  const auto index = [&](int k) { return std::int64_t{is_left ? begin + k : end - 1 - k}; };
  for (int k = column; k < count; k += half) at[side][k] = of_at[index(k)];
  __syncthreads();
  for (int k = column; k < count; k += half) {
    int last = k - 1;
    while (last >= 0 && isinf(at[side][last])) --last;
    const double before = last >= 0 ? at[side][last] : anchor;
    const bool moves = !isinf(at[side][k]), from_nothing = isinf(before);
    const double exponent = moves && !from_nothing ? fabs(at[side][k] - before) / a.tau : 0.0;
    factors[side][k] = moves && from_nothing ? 0.0 : exp(-exponent);
    exponents[side][k] = exponent;
    if (kWrite) to_at[index(k)] = before;
  }
  __syncthreads();
  // Loads of several steps at a time, ahead of what is written.
  constexpr int kAhead = kMoments ? 8 : 16;
  for (int first = 0; has_column && first < count; first += kAhead) {
    float x[kAhead], x_moment[kAhead], x_square[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const std::int64_t i = index(first + k) * a.stride + column;
      const bool exists = first + k < count;
      x[k] = exists ? __ldg(of + i) : 0.0f;
      if (kMoments > 0) x_moment[k] = exists ? __ldg(of_moments + i) : 0.0f;
      if (kMoments > 1) x_square[k] = exists ? __ldg(of_squares + i) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k >= count) break;
      const std::int64_t i = index(first + k) * a.stride + column;
      const double factor = factors[side][first + k];
      if (kWrite) to[i] = static_cast<float>(sum);
      if (kMoments > 1) {
        if (kWrite) to_squares[i] = static_cast<float>(square);
        const double u = exponents[side][first + k];
        square = fma(fma(u, fma(u, sum, 2 * moment), square), factor, static_cast<double>(x_square[k]));
      }
      if (kMoments > 0) {
        if (kWrite) to_moments[i] = static_cast<float>(moment);
        moment = fma(fma(exponents[side][first + k], sum, moment), factor, static_cast<double>(x_moment[k]));
      }
      sum = fma(sum, factor, static_cast<double>(x[k]));
    }
  }
  if (kWrite) return;
  const std::int64_t i = std::int64_t{blockIdx.x} * a.stride + column;
  if (has_column) to[i] = static_cast<float>(sum);
  if (kMoments > 0 && has_column) to_moments[i] = static_cast<float>(moment);
  if (kMoments > 1 && has_column) to_squares[i] = static_cast<float>(square);
  if (column != 0) return;
  int last = count - 1;
  while (last >= 0 && isinf(at[side][last])) --last;
  to_at[blockIdx.x] = last >= 0 ? at[side][last] : anchor;
}

template <int kMoments>
Status scan(const SoftScan& scan, int tiles, int stride, double tau, device::Stream& stream) {
  const int threads = 2 * std::max((stride + 31) / 32 * 32, kSoftChunk);
  const auto run = [&](auto* kernel, int blocks, const ScanArguments& arguments) {
    return launch("soft_scan", kernel, {dim3(static_cast<unsigned>(blocks)), threads}, stream, arguments);
  };
  int counts[kSoftScanLevels] = {tiles}, level = 0;
  for (; counts[level] > kSoftChunk; ++level) {
    const int chunks = (counts[level] + kSoftChunk - 1) / kSoftChunk;
    TD_TRY(run(scan_kernel<kMoments, false>, chunks,
               {scan.sums[level], counts[level], {}, scan.sums[level + 1], stride, tau}));
    counts[level + 1] = chunks;
  }
  TD_TRY(run(scan_kernel<kMoments, true>, 1, {scan.sums[level], counts[level], {}, scan.carries[level], stride, tau}));
  for (; level > 0; --level) {
    TD_TRY(run(scan_kernel<kMoments, true>, counts[level],
               {scan.sums[level - 1], counts[level - 1], scan.carries[level], scan.carries[level - 1], stride, tau}));
  }
  return ok_status();
}

}  // namespace

Status soft_sum_entries_sm80(const SoftEntryRun& run, const SoftRows& values, float tau, SoftShape shape,
                             bool dirty_only, device::Stream& stream) {
  if (run.order.n == 0) return ok_status();
  if (shape == SoftShape::kEpanechnikov) {
    return soft_sum_entries_window_sm80(run, values, tau, dirty_only, stream);
  }
  const std::uint8_t* const dirty = dirty_only ? run.dirty : nullptr;
  const auto sum = [&](auto* of) {
    using Run = std::remove_pointer_t<decltype(of)>;
    return soft::with_lanes(values.D, [&](auto lanes) {
      return launch("soft_sums", entry_tile_sums_kernel<Run, lanes()>, {tile_blocks(run.order.n), kThreads}, stream,
                    run, values, tau, dirty);
    });
  };
  const int tiles = tiles_of(run.order.n), stride = static_cast<int>(soft_row(values.D));
  if (shape == SoftShape::kMatern32) {
    TD_TRY(sum(static_cast<soft::SquaredEntryRun*>(nullptr)));
    return scan<2>(run.scan, tiles, stride, tau, stream);
  }
  TD_TRY(sum(static_cast<soft::EntryRun*>(nullptr)));
  return scan<0>(run.scan, tiles, stride, tau, stream);
}

Status soft_sum_queries_sm80(const SoftQueryRun& run, int D, float tau, SoftShape shape, device::Stream& stream) {
  if (run.order.n == 0) return ok_status();
  if (shape == SoftShape::kEpanechnikov) return soft_sum_queries_window_sm80(run, D, tau, stream);
  const auto sum = [&](auto* of) {
    using Run = std::remove_pointer_t<decltype(of)>;
    return soft::with_lanes(D, [&](auto lanes) {
      return launch("soft_sums", query_tile_sums_kernel<Run, lanes()>, {tile_blocks(run.order.n), kThreads}, stream,
                    run, D, tau);
    });
  };
  const int tiles = tiles_of(run.order.n), stride = static_cast<int>(soft_row(D));
  if (shape == SoftShape::kMatern32) {
    TD_TRY(sum(static_cast<soft::RestQueryRun*>(nullptr)));
    TD_TRY(scan<0>(run.scan, tiles, stride, tau, stream));
    TD_TRY(sum(static_cast<soft::SlopeQueryRun*>(nullptr)));
    return scan<1>(run.slopes, tiles, stride, tau, stream);
  }
  TD_TRY(sum(static_cast<soft::QueryRun*>(nullptr)));
  return scan<1>(run.scan, tiles, stride, tau, stream);
}

}  // namespace tandem::kernels

// What a warp does to see all sources of a run from one point: finds its tile, weighs the tile's sources, one a lane,
// and adds to them the sums of what is left and right of the tile.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/common/sm80.cuh"
#include "kernels/soft_read/paths.h"

namespace tandem::kernels::soft {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kGroup = kSoftTile;  // lanes
constexpr float kInf = std::numeric_limits<float>::infinity();

__device__ __forceinline__ int group_lane() { return static_cast<int>(threadIdx.x % kGroup); }
__device__ __forceinline__ unsigned group_ballot(bool x) {
  return __ballot_sync(kAll, x) >> (threadIdx.x % 32 / kGroup * kGroup) & ((1u << kGroup) - 1);
}
template <class T>
__device__ __forceinline__ T group_shuffle(T x, int lane) {
  return __shfl_sync(kAll, x, lane, kGroup);
}

// Which of `count` tiles or queries a half warp takes, of `per_block` to a block. One beyond the last takes the last,
// so that warps stay whole, and writes nothing.
struct GroupShare {
  std::int64_t index;
  bool exists;
};
template <class Count>
__device__ __forceinline__ GroupShare group_share(int per_block, Count count) {
  const std::int64_t mine = std::int64_t{blockIdx.x} * per_block + threadIdx.x / kGroup;
  const bool exists = mine < count;
  return {exists ? mine : count - 1, exists};
}

// ---- Rows, four columns at a time: what lies beyond the last is read as 0 and not written. ----

__device__ __forceinline__ float4 load4(const SoftRows& rows, std::int64_t row, int column) {
  const float* const from = rows.data + row * rows.stride + column;
  if (rows.fours) return column < rows.D ? __ldg(reinterpret_cast<const float4*>(from)) : float4{};
  return {column < rows.D ? __ldg(from) : 0.0f, column + 1 < rows.D ? __ldg(from + 1) : 0.0f,
          column + 2 < rows.D ? __ldg(from + 2) : 0.0f, column + 3 < rows.D ? __ldg(from + 3) : 0.0f};
}
__device__ __forceinline__ void store4(const SoftRows& rows, std::int64_t row, int column, float4 x) {
  float* const to = rows.data + row * rows.stride + column;
  if (rows.fours) {
    if (column < rows.D) *reinterpret_cast<float4*>(to) = x;
    return;
  }
  if (column < rows.D) to[0] = x.x;
  if (column + 1 < rows.D) to[1] = x.y;
  if (column + 2 < rows.D) to[2] = x.z;
  if (column + 3 < rows.D) to[3] = x.w;
}
// Rows of sums.
__device__ __forceinline__ float4 sums4(const float* sums, std::int64_t row, int stride, int column) {
  return __ldg(reinterpret_cast<const float4*>(sums + row * stride + column));
}
__device__ __forceinline__ void add_scaled(float4& sum, float factor, float4 x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}
__device__ __forceinline__ float4 scaled(float factor, float4 x) {
  return {factor * x.x, factor * x.y, factor * x.z, factor * x.w};
}
__device__ __forceinline__ float dot4(float4 a, float4 b) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w)));
}

// ---- Sums over lanes. ----

template <class T>
__device__ __forceinline__ T group_sum(T x) {
#pragma unroll
  for (int lanes = kGroup / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAll, x, lanes);
  return x;
}
// Rows are read by kLanes lanes each, several rows at a time: the sum over the rows, and over a row's columns.
template <int kLanes>
__device__ __forceinline__ float4 sum_rows(float4 x) {
#pragma unroll
  for (int lanes = kGroup / 2; lanes >= kLanes; lanes /= 2) {
    x.x += __shfl_xor_sync(kAll, x.x, lanes);
    x.y += __shfl_xor_sync(kAll, x.y, lanes);
    x.z += __shfl_xor_sync(kAll, x.z, lanes);
    x.w += __shfl_xor_sync(kAll, x.w, lanes);
  }
  return x;
}
template <int kLanes>
__device__ __forceinline__ float sum_columns(float x) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAll, x, lanes);
  return x;
}

// e^-u for u = distance / tau, by `scale` = log2(e) / tau. Distances are negative only from entries of weight 0.
// distance / tau for a factor beside decay(): finite, so that what has decayed to nothing, from some 104 on, stays so.
__device__ __forceinline__ float exponent_of(double distance, float inv_tau) {
  return fminf(static_cast<float>(distance) * inv_tau, 1e6f);
}
template <class At>
__device__ __forceinline__ float decay(At distance, float scale) {
  return sm80::exp2_fast(fminf(-static_cast<float>(distance) * scale, 100.0f));
}
// From one sum's anchor to another: 0 if the sum is empty.
template <class At>
__device__ __forceinline__ float decay_between(At from, At to, float scale) {
  return isinf(from) ? 0.0f : decay(fabs(to - from), scale);
}

// ---- Finding. ----

struct Place {
  int before;  // sources before it
  int tile;    // of the last of them, or the first
  float key;   // of this lane's source of that tile
};

// After all sources of which is_before(true, key): no others come between them. is_before(false, _) is false.
template <class IsBefore>
__device__ __forceinline__ Place find_by(const SoftOrder& order, const IsBefore& is_before) {
  const int lane = group_lane();
  const auto count_before = [&](bool exists, float key) { return __popc(group_ballot(is_before(exists, key))); };
  int node = 0;
#pragma unroll
  for (int level = kSoftLevels - 1; level >= 0; --level) {
    if (level >= order.levels_count) continue;
    const int i = node * kSoftTile + lane, bits = kSoftTileBits * (level + 1);
    const bool exists = i < ((order.n - 1) >> bits) + 1;
    const float key = exists ? __ldg(order.levels[level] + i) : kInf;
    node = node * kSoftTile + max(count_before(exists, key) - 1, 0);
  }
  const int i = node * kSoftTile + lane;
  const float key = i < order.n ? __ldg(order.keys + i) : kInf;
  return {node * kSoftTile + count_before(i < order.n, key), node, key};
}
// Where x comes in the order: after its equals, or before them.
__device__ __forceinline__ Place find(const SoftOrder& order, float x, bool after_equals) {
  return find_by(order, [&](bool exists, float key) { return exists && (key < x || (after_equals && key == x)); });
}
// Whether the last source before a place is x.
__device__ __forceinline__ bool is_last(const Place& place, float x) {
  const float last = group_shuffle(place.key, (place.before - 1) & (kSoftTile - 1));
  return place.before > 0 && last == x;
}

// Whether a slot is one of the `used` from `first` on, modulo slots_count.
__device__ __forceinline__ bool is_used(std::int64_t slot, std::int64_t first, std::int64_t used,
                                        std::int64_t slots_count) {
  const std::int64_t after_first = slot - first + (slot < first ? slots_count : 0);
  return slot >= 0 && slot < slots_count && after_first < used;
}

// ---- Runs: what a source is. ----

// reach_right: where it seems to be from the right, reach_left: from the left.
template <class At>
struct Source {
  float weight;  // 0: it does not count
  At reach_right, reach_left;
  float z;
  int row;
};

struct EntryRun {
  using At = float;
  static constexpr bool kMoments = false;
  const SoftEntryRun& run;
  const SoftRows& values;
  __device__ const SoftOrder& order() const { return run.order; }
  __device__ const SoftScan& scan() const { return run.scan; }
  __device__ int stride() const { return static_cast<int>(soft_row(values.D)); }
  __device__ Source<At> source(int i, float key) const {
    return {fmaxf(__ldg(run.weights + i), 0.0f), key, key, 1.0f, __ldg(run.slots + i)};
  }
  __device__ float4 row(int row, int column) const { return load4(values, row, column); }
};

struct QueryRun {
  using At = double;
  static constexpr bool kMoments = true;
  const SoftQueryRun& run;
  int D;
  __device__ const SoftOrder& order() const { return run.order; }
  __device__ const SoftScan& scan() const { return run.scan; }
  __device__ int stride() const { return static_cast<int>(soft_row(D)); }
  __device__ Source<At> source(int i, float key) const {
    return {key < kInf ? 1.0f : 0.0f, __ldg(run.right_reach + i), __ldg(run.left_reach + i),
            __ldg(run.rows + std::int64_t{i} * stride() + soft_padded(D)), i};
  }
  __device__ float4 row(int row, int column) const {
    return column < D ? sums4(run.rows, row, stride(), column) : float4{};
  }
};

// ---- A run cut in two at a place. ----

// Left sums are anchored at left_at, the last source before the place (-inf: none has weight), right ones at right_at.
template <class At>
struct Split {
  At left_at, right_at;
  float z_left, z_right;
  float z_left_moment, z_right_moment;
  // This lane's source of the tile: its factor, and the exponent that made it.
  float factor, exponent;
  int row;
  int tile, left_count;  // lanes below left_count are left of the place
  float carry_left, carry_right, carry_left_exponent, carry_right_exponent;
};

// Without kWithZ: all but the sums z, and with the exponents.
template <class Run, bool kWithZ = true>
__device__ __forceinline__ Split<typename Run::At> split(const Run& run, const Place& place, float inv_tau,
                                                         float scale) {
  using At = typename Run::At;
  constexpr At kFar = HUGE_VAL;
  const int i = place.tile * kSoftTile + group_lane();
  const SoftSums& carries = run.scan().carries[0];
  Source<At> source{0.0f, 0, 0, 0.0f, 0};
  if (i < run.order().n) source = run.source(i, place.key);
  const bool is_left = i<place.before, counts = source.weight> 0.0f;
  const unsigned lefts = group_ballot(counts && is_left), rights = group_ballot(counts && !is_left);

  Split<At> out;
  const At before = static_cast<At>(carries.left_at[place.tile]), after = static_cast<At>(carries.right_at[place.tile]);
  const At last_left = group_shuffle(source.reach_right, 31 - __clz(static_cast<int>(lefts | 1u)));
  const At first_right = group_shuffle(source.reach_left, rights != 0 ? __ffs(static_cast<int>(rights)) - 1 : 0);
  out.left_at = lefts != 0 ? last_left : before;
  out.right_at = rights != 0 ? first_right : after;
  const At distance = is_left ? out.left_at - source.reach_right : source.reach_left - out.right_at;
  out.factor = counts ? source.weight * decay(distance, scale) : 0.0f;
  out.row = source.row;
  out.tile = place.tile;
  out.left_count = place.before - place.tile * kSoftTile;
  out.carry_left = before == -kFar ? 0.0f : decay(out.left_at - before, scale);
  out.carry_right = after == kFar ? 0.0f : decay(after - out.right_at, scale);

  if constexpr (!kWithZ) {
    out.exponent = counts ? exponent_of(distance, inv_tau) : 0.0f;
    out.carry_left_exponent = before == -kFar ? 0.0f : exponent_of(out.left_at - before, inv_tau);
    out.carry_right_exponent = after == kFar ? 0.0f : exponent_of(after - out.right_at, inv_tau);
    return out;
  }

  const int stride = run.stride();
  const std::int64_t z_at = std::int64_t{place.tile} * stride + stride - 4;
  const float carried_left = __ldg(carries.left + z_at), carried_right = __ldg(carries.right + z_at);
  const float z = out.factor * source.z;
  out.z_left = fmaf(out.carry_left, carried_left, group_sum(is_left ? z : 0.0f));
  out.z_right = fmaf(out.carry_right, carried_right, group_sum(is_left ? 0.0f : z));
  if constexpr (Run::kMoments) {
    out.exponent = counts ? exponent_of(distance, inv_tau) : 0.0f;
    out.carry_left_exponent = before == -kFar ? 0.0f : exponent_of(out.left_at - before, inv_tau);
    out.carry_right_exponent = after == kFar ? 0.0f : exponent_of(after - out.right_at, inv_tau);
    const float left_moment = fmaf(out.carry_left_exponent, carried_left, __ldg(carries.left_moments + z_at));
    const float right_moment = fmaf(out.carry_right_exponent, carried_right, __ldg(carries.right_moments + z_at));
    const float moment = z * out.exponent;
    out.z_left_moment = fmaf(out.carry_left, left_moment, group_sum(is_left ? moment : 0.0f));
    out.z_right_moment = fmaf(out.carry_right, right_moment, group_sum(is_left ? 0.0f : moment));
  }
  return out;
}

struct Sides {
  float4 left{}, right{};
  float4 left_moment{}, right_moment{};
};

// Adds this lane's part of both sides' sums of four columns, times left_scale and right_scale; a side that is not
// wanted has the scale 0, and is not read. sum_rows<kLanes>() of it is the sum.
template <int kLanes, class Run>
__device__ __forceinline__ void add_rows(const Run& run, const Split<typename Run::At>& split, float left_scale,
                                         float right_scale, int column, Sides& sides) {
  const int lane = group_lane();
  const float mine = split.factor * (lane < split.left_count ? left_scale : right_scale);
  constexpr int kAtOnce = !Run::kMoments ? 8 : kLanes == kGroup ? 2 : 4;
#pragma unroll(kLanes < kAtOnce ? kLanes : kAtOnce)
  for (int step = 0; step < kLanes; ++step) {
    const int source = step * (kGroup / kLanes) + lane / kLanes;
    const float factor = group_shuffle(mine, source);
    const int row = group_shuffle(split.row, source);
    float4 x{};
    if (factor != 0.0f) x = run.row(row, column);
    const bool is_left = source < split.left_count;
    add_scaled(sides.left, is_left ? factor : 0.0f, x);
    add_scaled(sides.right, is_left ? 0.0f : factor, x);
    if constexpr (Run::kMoments) {
      const float moment = factor * group_shuffle(split.exponent, source);
      add_scaled(sides.left_moment, is_left ? moment : 0.0f, x);
      add_scaled(sides.right_moment, is_left ? 0.0f : moment, x);
    }
  }
  if (lane >= kLanes || column >= run.stride() - 4) return;
  const SoftSums& carries = run.scan().carries[0];
  const float left = split.carry_left * left_scale, right = split.carry_right * right_scale;
  if (left != 0.0f) {
    const float4 x = sums4(carries.left, split.tile, run.stride(), column);
    add_scaled(sides.left, left, x);
    if constexpr (Run::kMoments) {
      float4 moment = sums4(carries.left_moments, split.tile, run.stride(), column);
      add_scaled(moment, split.carry_left_exponent, x);
      add_scaled(sides.left_moment, left, moment);
    }
  }
  if (right != 0.0f) {
    const float4 x = sums4(carries.right, split.tile, run.stride(), column);
    add_scaled(sides.right, right, x);
    if constexpr (Run::kMoments) {
      float4 moment = sums4(carries.right_moments, split.tile, run.stride(), column);
      add_scaled(moment, split.carry_right_exponent, x);
      add_scaled(sides.right_moment, right, moment);
    }
  }
}

// Calls `with` with the number of lanes that read a row of D.
template <class With>
Status with_lanes(int D, const With& with) {
  if (D <= 4) return with(std::integral_constant<int, 1>());
  if (D <= 16) return with(std::integral_constant<int, 4>());
  return with(std::integral_constant<int, kGroup>());
}

}  // namespace tandem::kernels::soft

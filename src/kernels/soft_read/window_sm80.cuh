// A kernel that ends, 1 - u^2 within tau, seen from a point: the sources in reach are a range of the order. Those of
// the tiles at its two ends are taken one by one. What is between are nodes of 16, 256, ... sources: on each level
// those that follow the left end in their group of 16 siblings, and those before the right end in theirs, are one row
// each, up to the level where both ends are siblings; there the nodes between them are taken one by one.
//
// With x_i = w_i [row_i ; z_i], a row of sums is M0 = sum x, M1 = sum m x, M2 = sum m^2 x, m the distance / tau from
// the sum's first source (or from its last). That one is at u = (centre - its key) / tau, so u_i = u -+ m and
//   sum (1 - u_i^2) x = (1 - u)(1 + u) M0 +- 2 u M1 - M2     sum u_i x = u M0 -+ M1     sum u_i^2 x = u^2 M0 -+ 2 u M1
//   + M2
// As soft_btree_window.h has it: nothing is as seen from further away than the window is wide, so nothing large is
// subtracted. A sum that is wider may be infinite, and is never read.
#pragma once

#include "kernels/soft_read/walk_sm80.cuh"

namespace tandem::kernels::soft {

struct WindowEntryRun : EntryRun {
  __device__ const SoftWindow& window() const { return run.window; }
};
struct WindowQueryRun : QueryRun {
  __device__ const SoftWindow& window() const { return run.window; }
};

// What a lane holds of each of four kinds: a source of the first tile, one of the last, a row of a level, a node
// between.
enum WindowPart { kFirstTile, kLastTile, kLevels, kBetween, kWindowParts };
struct WindowTerms {
  float u[kWindowParts];       // of the source, or of the first (last) of a sum
  float weight[kWindowParts];  // 0: nothing
  float sign[kWindowParts];    // of sums: 1 as seen from the first, -1 from the last
  int row[kWindowParts];       // of sources: their row; of sums: that of M0, counted from `sums`
  const float* sums[2];        // where rows of kLevels, of kBetween lie: for sign 1
  float z[2];                  // of the two sources
  int lanes[kWindowParts];     // that may have something, of all of the warp
};

// Of a row: in the sums of K x, u x, u^2 x, and x.
struct WindowFactors {
  float value, slope, square, mass;
};
__device__ __forceinline__ WindowFactors factors_of_source(float u, float weight) {
  return {weight * ((1.0f - u) * (1.0f + u)), weight * u, weight * (u * u), weight};
}
// Of M0, M1, M2.
__device__ __forceinline__ WindowFactors factors_of_moment(int k, float u, float sign) {
  if (k == 0) return {(1.0f - u) * (1.0f + u), u, u * u, 1.0f};
  if (k == 1) return {2.0f * sign * u, -sign, -2.0f * sign * u, 0.0f};
  return {-1.0f, 0.0f, 1.0f, 0.0f};
}

// The sources in reach are first .. last - 1.
struct Reach {
  int first, last;
};
__device__ __forceinline__ Reach reach_of(const SoftOrder& order, float centre, float tau) {
  return {find_by(order, [&](bool exists, float key) { return exists && centre - key >= tau; }).before,
          find_by(order, [&](bool exists, float key) { return exists && !(key - centre >= tau); }).before};
}

// Of the sources in `reach`, or in a part of it.
template <class Run>
__device__ __forceinline__ WindowTerms window_terms(const Run& run, const Reach& reach, float centre, float tau) {
  const SoftOrder& order = run.order();
  const SoftWindow& window = run.window();
  const int lane = group_lane();
  const int first = reach.first, last = reach.last;
  const int a = min(first, order.n - 1) / kSoftTile, b = max(last - 1, first) / kSoftTile;
  WindowTerms out;
  const auto at = [&](int i) { return __fdiv_rn(centre - __ldg(order.keys + i), tau); };
#pragma unroll
  for (int part = kFirstTile; part <= kLastTile; ++part) {
    const int i = (part == kFirstTile ? a : b) * kSoftTile + lane;
    const bool is_in = i >= first && i < last && (part == kFirstTile || b != a);
    Source<typename Run::At> source{0.0f, 0, 0, 0.0f, 0};
    if (is_in) source = run.source(i, __ldg(order.keys + i));
    out.weight[part] = source.weight;
    out.u[part] = is_in ? at(i) : 0.0f;
    out.sign[part] = 0.0f;
    out.row[part] = source.row;
    out.z[part] = source.z;
  }
  const bool any_between = last > first && a != b;
  {
    const int level = lane / 2, bits = kSoftTileBits * level;
    const bool is_suffix = lane % 2 == 0;
    const int from = a >> bits, to = b >> bits;
    bool is_in = any_between && level < kSoftLevels && (from >> kSoftTileBits) != (to >> kSoftTileBits);
    is_in = is_in && (is_suffix ? (from + 1) % kSoftTile != 0 : to % kSoftTile != 0);
    const int node = is_suffix ? from + 1 : to - 1;
    out.weight[kLevels] = is_in ? 1.0f : 0.0f;
    out.sign[kLevels] = is_suffix ? 1.0f : -1.0f;
    const int edge = is_suffix ? node << (bits + kSoftTileBits) : (to << (bits + kSoftTileBits)) - 1;
    out.u[kLevels] = is_in ? at(edge) : 0.0f;
    out.row[kLevels] = 3 * node;
    out.sums[0] = nullptr;
#pragma unroll
    for (int l = 0; l < kSoftLevels; ++l) {
      if (l == level) out.sums[0] = is_suffix ? window.suffixes[l] : window.prefixes[l];
    }
  }
  {
    const int level = any_between ? (31 - __clz(a ^ b)) / kSoftTileBits : 0, bits = kSoftTileBits * level;
    const int node = (a >> bits) + 1 + lane;
    const bool is_in = any_between && node < b >> bits;
    const int first_source = node << (bits + kSoftTileBits), last_source = ((node + 1) << (bits + kSoftTileBits)) - 1;
    const float from_first = is_in ? at(first_source) : 0.0f, from_last = is_in ? at(last_source) : 0.0f;
    const bool is_first = from_first >= -from_last;  // the one further away
    out.weight[kBetween] = is_in ? 1.0f : 0.0f;
    out.sign[kBetween] = is_first ? 1.0f : -1.0f;
    out.u[kBetween] = is_first ? from_first : from_last;
    out.row[kBetween] = 3 * node;
    out.sums[1] = is_first ? window.tiles_lo : window.tiles_hi;
#pragma unroll
    for (int l = 0; l + 1 < kSoftLevels; ++l) {
      if (l + 1 != level) continue;
      out.sums[1] = is_first ? window.suffixes[l] : window.prefixes[l];
      out.row[kBetween] = 3 * (is_first ? node * kSoftTile : node * kSoftTile + kSoftTile - 1);
    }
  }
#pragma unroll
  for (int part = 0; part < kWindowParts; ++part) {
    const unsigned mine = __ballot_sync(kAll, out.weight[part] != 0.0f);
    out.lanes[part] = static_cast<int>((mine | mine >> kGroup) & ((1u << kGroup) - 1));
  }
  return out;
}

template <class Run>
__device__ __forceinline__ WindowTerms window_terms(const Run& run, float centre, float tau) {
  return window_terms(run, reach_of(run.order(), centre, tau), centre, tau);
}

// Sums over all of the group's terms of their z.
template <class Run>
__device__ __forceinline__ WindowFactors window_z(const Run& run, const WindowTerms& terms) {
  WindowFactors sum{0.0f, 0.0f, 0.0f, 0.0f};
  const auto add = [&](const WindowFactors& of, float z) {
    sum.value = fmaf(of.value, z, sum.value);
    sum.slope = fmaf(of.slope, z, sum.slope);
    sum.square = fmaf(of.square, z, sum.square);
    sum.mass = fmaf(of.mass, z, sum.mass);
  };
#pragma unroll
  for (int part = 0; part < kWindowParts; ++part) {
    if (part < kLevels) {
      add(factors_of_source(terms.u[part], terms.weight[part]), terms.z[part]);
    } else if (terms.weight[part] != 0.0f) {
      const float* const from =
          terms.sums[part - kLevels] + std::int64_t{terms.row[part]} * run.stride() + run.stride() - 4;
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        add(factors_of_moment(k, terms.u[part], terms.sign[part]), __ldg(from + k * run.stride()));
      }
    }
  }
  return {group_sum(sum.value), group_sum(sum.slope), group_sum(sum.square), group_sum(sum.mass)};
}

// Calls add(x, factors) with four columns of each row that this lane reads.
template <int kLanes, class Run, class Add>
__device__ __forceinline__ void window_rows(const Run& run, const WindowTerms& terms, int column, const Add& add) {
  constexpr int kRowsAtOnce = kGroup / kLanes;
  const int mine = static_cast<int>(group_lane()) / kLanes;
  const bool has_column = column < run.stride() - 4;
#pragma unroll
  for (int part = 0; part < kWindowParts; ++part) {
    if (terms.lanes[part] == 0) continue;
#pragma unroll(kLanes < 2 ? kLanes : 2)
    for (int step = 0; step < kLanes; ++step) {
      if ((terms.lanes[part] >> (step * kRowsAtOnce) & ((1 << kRowsAtOnce) - 1)) == 0) continue;
      const int of = step * kRowsAtOnce + mine;
      const float u = group_shuffle(terms.u[part], of), weight = group_shuffle(terms.weight[part], of);
      const int row = group_shuffle(terms.row[part], of);
      if (part < kLevels) {
        float4 x{};
        if (weight != 0.0f) x = run.row(row, column);
        add(x, factors_of_source(u, weight));
      } else {
        const float sign = group_shuffle(terms.sign[part], of);
        const auto sums = reinterpret_cast<const float*>(
            group_shuffle(reinterpret_cast<unsigned long long>(terms.sums[part - kLevels]), of));
        float4 x[3]{};
        if (weight != 0.0f && has_column) {
#pragma unroll
          for (int k = 0; k < 3; ++k) x[k] = sums4(sums, std::int64_t{row} + k, run.stride(), column);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) add(x[k], factors_of_moment(k, u, sign));
      }
    }
  }
}

}  // namespace tandem::kernels::soft

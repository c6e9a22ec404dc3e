// The kernel (1 + u) e^-u seen from a point. With n the distance to the nearest entry of a query and b what another is
// further away, both over tau, its share of what the nearest one has is
//   K(n + b) / K(n) = e^-b (1 + b s),   s = 1 / (1 + n),
// at most 1 at any distance. So sums go beside their first moments (and squares, where tau's gradient wants u^2):
// seen from `delta` further away, sum e^-u [1, u, u^2] x become e^-delta times [1; delta 1; delta^2 2delta 1] of them.
#pragma once

#include "kernels/soft_read/runs_sm80.cuh"

namespace tandem::kernels::soft {

template <class Run, class = void>
constexpr bool has_squares = false;
template <class Run>
constexpr bool has_squares<Run, std::void_t<decltype(Run::kSquares)>> = Run::kSquares;

struct SquaredEntryRun : EntryRun {
  static constexpr bool kMoments = true, kSquares = true;
};

// Queries as sources: their rows, and what is carried of them, which is the same times s and times n s = 1 - s: then
// u e^-u / K(n) = e^-b (n s + b s) wants no difference. s and n s stand beside a row's z.
struct MaternQueryRun : QueryRun {
  static constexpr bool kMoments = false;
  __device__ float2 slopes(int i) const {
    const float* const at = run.rows + std::int64_t{i} * stride() + soft_padded(D);
    return {__ldg(at + 1), __ldg(at + 2)};
  }
};
constexpr float kLeastShare = 1e-37f;  // of these: no sum may pass over a query that the other one counts
struct SlopeQueryRun : MaternQueryRun {
  static constexpr bool kMoments = true;
  __device__ const SoftScan& scan() const { return run.slopes; }
  __device__ Source<At> source(int i, float key) const {
    Source<At> out = QueryRun::source(i, key);
    out.weight = key < kInf ? fmaxf(slopes(i).x, kLeastShare) : 0.0f;
    return out;
  }
};
struct RestQueryRun : MaternQueryRun {
  __device__ Source<At> source(int i, float key) const {
    Source<At> out = QueryRun::source(i, key);
    out.weight = key < kInf ? fmaxf(slopes(i).y, kLeastShare) : 0.0f;
    return out;
  }
};

// One side of all runs together: its sums' factors at the query.
//   a source with the exponent u counts e (c0 + c1 u) of itself
struct MaternSide {
  float e, c0, c1;
  float beyond;               // of its nearest entry
  float z = 0, z_moment = 0;  // of all runs, from its nearest entry
};

template <int kRuns>
struct MaternSeen {
  Split<float> splits[kRuns];
  float left_scale[kRuns], right_scale[kRuns], left_delta[kRuns], right_delta[kRuns];
  float left_at = -kInf, right_at = kInf;
  MaternSide left{}, right{};
  double nearest, distance;  // over tau, and as it is
  float s, ns;               // 1 / (1 + n), n / (1 + n)
  float z;                   // Z / K(n)
};

__device__ __forceinline__ void set_side(MaternSide& side, double beyond, float s, float scale, double inv_tau) {
  side.e = decay(beyond, scale);
  side.beyond = side.e > 0.0f ? static_cast<float>(beyond * inv_tau) : 0.0f;
  side.c0 = fmaf(side.beyond, s, 1.0f);
  side.c1 = s;
}

template <int kRuns, class Point>
__device__ __forceinline__ MaternSeen<kRuns> see_matern(const SoftEntryRuns& runs, const Point& point, float inv_tau,
                                                        float scale) {
  MaternSeen<kRuns> seen;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const SquaredEntryRun run{{runs.of[r], runs.values}};
    seen.splits[r] = split_at(run, r, point, inv_tau, scale);
    seen.left_at = fmaxf(seen.left_at, seen.splits[r].left_at);
    seen.right_at = fminf(seen.right_at, seen.splits[r].right_at);
  }
  const auto add = [&](MaternSide& side, float from, float at, float z, float moment, float& factor, float& delta) {
    factor = decay_between(from, at, scale);
    delta = factor > 0.0f ? fabsf(at - from) * inv_tau : 0.0f;
    side.z = fmaf(factor, z, side.z);
    side.z_moment = fmaf(factor, fmaf(delta, z, moment), side.z_moment);
  };
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const Split<float>& split = seen.splits[r];
    add(seen.left, split.left_at, seen.left_at, split.z_left, split.z_left_moment, seen.left_scale[r],
        seen.left_delta[r]);
    add(seen.right, split.right_at, seen.right_at, split.z_right, split.z_right_moment, seen.right_scale[r],
        seen.right_delta[r]);
  }
  const double at = point.query, to_left = at - seen.left_at, to_right = seen.right_at - at, of_tau = 1.0 / runs.tau;
  seen.distance = fmin(to_left, to_right);
  seen.nearest = seen.distance * of_tau;
  const double s = 1.0 / (1.0 + seen.nearest);
  seen.s = static_cast<float>(s);
  seen.ns = static_cast<float>(seen.nearest * s);
  set_side(seen.left, to_left - seen.distance, seen.s, scale, of_tau);
  set_side(seen.right, to_right - seen.distance, seen.s, scale, of_tau);
  const auto mass = [](const MaternSide& side) { return side.e * fmaf(side.c0, side.z, side.c1 * side.z_moment); };
  seen.z = mass(seen.left) + mass(seen.right);
  return seen;
}

}  // namespace tandem::kernels::soft

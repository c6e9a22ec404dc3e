// The loops over rows that the soft B-tree spends its time in, compiled for each instruction set.
//
// A row is lanes(count) numbers, a multiple of 32 bytes, the padding zero; so are strides. Everything is exact up to
// rounding, in an order fixed by the arguments.
#pragma once

#include <cstdint>

namespace tandem::replay::rows {

// What a row of `count` numbers takes up: whole vectors of 32 bytes.
template <class Real>
constexpr int lanes(int count) {
  constexpr int kLanes = 32 / sizeof(Real);
  return (count + kLanes - 1) / kLanes * kLanes;
}

// The sum of x[0..count), as four.
template <class Real>
Real sum(const Real* x, int count) {
  Real s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  int i = 0;
  for (; i + 3 < count; i += 4) {
    s0 += x[i];
    s1 += x[i + 1];
    s2 += x[i + 2];
    s3 += x[i + 3];
  }
  for (; i < count; ++i) s0 += x[i];
  return (s0 + s1) + (s2 + s3);
}

// e[i] = exp(-u[i]), u >= 0 (infinity gives 0). May read and write up to lanes(count).
void exp_negative(const float* u, float* e, int count);
void exp_negative(const double* u, double* e, int count);

// The first place of the least key of all, whether there are several of it, and the range of those with weight
// (infinity, -infinity: there is none). 1 to kEdgeMost, of which all may be read.
inline constexpr int kEdgeMost = 32;
template <class Real>
struct Range {
  int first;
  bool several;
  Real lo, hi;
};
Range<float> range(const float* keys, const float* weights, int count);
Range<double> range(const double* keys, const double* weights, int count);

// The nearest keys with weight on either side of q (-infinity, infinity: there is none), and whether there is one at
// it. keys, weights [kEdgeMost], aligned to 64 bytes.
template <class Real>
struct Beside {
  Real before, after;
  bool tie;
};
Beside<float> beside(const float* keys, const float* weights, float q);
Beside<double> beside(const double* keys, const double* weights, double q);

// How much further from `query` keys are than the nearest entry, over tau: those to its left by as much as `before` is,
// and as they are from there; those to its right alike. keys, u [kEdgeMost], aligned to 64 bytes.
template <class Real>
struct Far {
  Real query, before, after, beyond_before, beyond_after, tau;
};
void far(const Far<float>& f, const float* keys, float* u);
void far(const Far<double>& f, const double* keys, double* u);

// The rows L and R of entries, those with weight in [lo, hi], and their masses: with u = (hi - k_i) / tau (right:
// (k_i - lo) / tau),
//   row = sum_i w_i e^-u v_i, mass = sum_i w_i e^-u; with moments a second row behind it, and mass_stride on a second
//   mass, of w_i u e^-u
// added up one by one as they lie.
template <class Real>
struct Edges {
  Real lo, hi, tau;
  int width, row;
  bool moments;
  Real *left, *right, *left_mass, *right_mass;
  int mass_stride;
};
// values [count, row]. At most kEdgeMost, of which all keys and weights may be read.
void edges(const Edges<float>& e, const float* keys, const float* weights, const float* values, int count);
void edges(const Edges<double>& e, const double* keys, const double* weights, const double* values, int count);
// One entry more behind them, in [lo, hi]: bit for bit what edges() makes of all. `value` [width] is copied to `to`
// [row], whose padding is zero.
void add_to_edges(const Edges<float>& e, float key, float weight, const float* value, float* to);
void add_to_edges(const Edges<double>& e, double key, double weight, const double* value, double* to);

// out += sum_i c[i] row_i; row_i = data + i width.
void add_weighted(const float* data, const float* c, int count, int width, float* out);
void add_weighted(const double* data, const double* c, int count, int width, double* out);

// out += sum_i c[i] rows[i].
void add_pointed(const float* const* rows, const float* c, int count, int width, float* out);
void add_pointed(const double* const* rows, const double* c, int count, int width, double* out);

// m0[i] = e^-u (m0[i], or with moments (1 + shift + u) m0[i] + m1[i]), u = distances[i] / tau >= 0; 0 where e^-u is.
// May read and write up to lanes(count).
template <class Real>
struct Weigh {
  const Real* distances;
  Real* m0;
  const Real* m1;
  int count;
  bool moments;
  Real shift, tau;
};
void weigh(const Weigh<float>& w);
void weigh(const Weigh<double>& w);

// Running sums: from `first` by `step` (+1 or -1) to the last of `count` rows,
//   sums_j = item_j + e^-u sums_{j-step},   u = |anchor_j - anchor_{j-step}| / tau
// and with moments (a second row behind each) sums'_j = item'_j + e^-u (sums'_{j-step} + u sums_{j-step}).
// The same of masses, unless null: every second number of theirs, those of moments mass_stride on. At most kScanMost
// rows; up to 32 bytes behind the anchors may be read.
inline constexpr int kScanMost = 16;
template <class Real>
struct Scan {
  const Real* anchors;
  const Real* items;
  Real* sums;
  const Real* item_masses;
  Real* masses;
  int mass_stride;
  int count, first, step, width;
  bool moments;
  Real tau;
};
void scan(const Scan<float>& s);
void scan(const Scan<double>& s);

}  // namespace tandem::replay::rows

#include "replay/soft_btree_rows.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "replay/soft_btree_rows.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "replay/soft_btree_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::rows::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using replay::HWY_NAMESPACE::exp_of;
using replay::HWY_NAMESPACE::Lanes;
using replay::HWY_NAMESPACE::WideLanes;

template <class Real>
HWY_INLINE void exp_negative_of(const Real* u, Real* e, int count) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < count; i += n) hn::StoreU(exp_of(d, hn::Neg(hn::LoadU(d, u + i))), d, e + i);
}

template <class Real>
HWY_INLINE void weigh_of(const Weigh<Real>& w) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto tau = hn::Set(d, w.tau), near = hn::Set(d, 1 + w.shift);
  for (int i = 0; i < w.count; i += n) {
    const auto u = hn::Div(hn::LoadU(d, w.distances + i), tau);
    const auto e = exp_of(d, hn::Neg(u));
    auto m = hn::LoadU(d, w.m0 + i);
    if (w.moments) m = hn::MulAdd(hn::Add(near, u), m, hn::LoadU(d, w.m1 + i));
    hn::StoreU(hn::IfThenElseZero(hn::Gt(e, hn::Zero(d)), hn::Mul(e, m)), d, w.m0 + i);
  }
}

template <class Real>
HWY_INLINE Range<Real> range_of(const Real* keys, const Real* weights, int count) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto none = hn::Set(d, std::numeric_limits<Real>::infinity());
  auto least = none, lo = none, hi = hn::Neg(none);
  for (int i = 0; i < count; i += n) {
    const auto key = hn::LoadU(d, keys + i);
    const auto some = hn::FirstN(d, static_cast<std::size_t>(count - i));
    const auto live = hn::And(some, hn::Gt(hn::LoadU(d, weights + i), hn::Zero(d)));
    least = hn::Min(least, hn::IfThenElse(some, key, none));
    lo = hn::Min(lo, hn::IfThenElse(live, key, none));
    hi = hn::Max(hi, hn::IfThenElse(live, key, hn::Neg(none)));
  }
  const auto at = hn::MinOfLanes(d, least);
  int first = 0;
  std::size_t equals = 0;
  for (int i = 0; i < count; i += n) {
    const auto some = hn::FirstN(d, static_cast<std::size_t>(count - i));
    const auto equal = hn::And(some, hn::Eq(hn::LoadU(d, keys + i), at));
    if (equals == 0) first = i + std::max(0, static_cast<int>(hn::FindFirstTrue(d, equal)));
    equals += hn::CountTrue(d, equal);
  }
  return {first, equals > 1, hn::GetLane(hn::MinOfLanes(d, lo)), hn::GetLane(hn::MaxOfLanes(d, hi))};
}

template <class Real>
HWY_INLINE Beside<Real> beside_all(const Real* keys, const Real* weights, Real q) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const auto found = replay::HWY_NAMESPACE::beside_of<kEdgeMost>(keys, weights, q, -kInfinity, kInfinity);
  return {found.before, found.after, found.tie};
}

template <class Real>
HWY_INLINE void far_all(const Far<Real>& f, const Real* keys, Real* u) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto query = hn::Set(d, f.query);
  for (int i = 0; i < kEdgeMost; i += n) {
    hn::Store(replay::HWY_NAMESPACE::over_tau_of(d, hn::Load(d, keys + i), query, f), d, u + i);
  }
}

// What entries weigh in both rows.
template <class V>
struct EdgeFactors {
  V left, right, left_moment, right_moment;
};
template <class D, class Real, class V = hn::Vec<D>>
HWY_INLINE EdgeFactors<V> edge_factors(D d, V key, V weight, Real lo, Real hi, Real tau, bool moments) {
  const auto zero = hn::Zero(d), t = hn::Set(d, tau);
  // (One without weight may be beyond the others.)
  const auto ul = hn::Div(hn::Max(zero, hn::Sub(hn::Set(d, hi), key)), t);
  const auto ur = hn::Div(hn::Max(zero, hn::Sub(key, hn::Set(d, lo))), t);
  const auto l = hn::Mul(exp_of(d, hn::Neg(ul)), weight), r = hn::Mul(exp_of(d, hn::Neg(ur)), weight);
  if (!moments) return {l, r, zero, zero};
  return {l, r, hn::IfThenElseZero(hn::Gt(l, zero), hn::Mul(l, ul)),  // (u may be infinite.)
          hn::IfThenElseZero(hn::Gt(r, zero), hn::Mul(r, ur))};
}

// Columns of both rows at once: out = sum_i c[i] row_i.
template <class D, class Real>
HWY_INLINE void edge_columns(D d, const Real* x, int stride, const Real* cl, const Real* cr, int count, Real* left,
                             Real* right) {
  auto l = hn::Zero(d), r = l;
  for (int i = 0; i < count; ++i, x += stride) {
    const auto v = hn::LoadU(d, x);
    l = hn::MulAdd(hn::Set(d, cl[i]), v, l);
    r = hn::MulAdd(hn::Set(d, cr[i]), v, r);
  }
  hn::StoreU(l, d, left);
  hn::StoreU(r, d, right);
}

// Whole rows by vectors: columns(d, k) of [k, k + Lanes(d)).
template <class Real, class Columns>
HWY_INLINE void for_columns(int row, const Columns& columns) {
  const WideLanes<Real> wide;
  const Lanes<Real> half;
  int k = 0;
  for (const int n = static_cast<int>(hn::Lanes(wide)); k + n <= row; k += n) columns(wide, k);
  for (const int n = static_cast<int>(hn::Lanes(half)); k < row; k += n) columns(half, k);
}

template <class Real>
HWY_INLINE void edge_rows(const Edges<Real>& e, const Real* values, const Real* cl, const Real* cr, int count,
                          int part) {
  Real *left = e.left + part * e.row, *right = e.right + part * e.row;
  for_columns<Real>(
      e.row, [&](auto d, int k) HWY_ATTR { edge_columns(d, values + k, e.row, cl, cr, count, left + k, right + k); });
  Real l = 0, r = 0;
  for (int i = 0; i < count; ++i) {
    l += cl[i];
    r += cr[i];
  }
  e.left_mass[part * e.mass_stride] = l;
  e.right_mass[part * e.mass_stride] = r;
}

template <class Real>
HWY_INLINE void edges_of(const Edges<Real>& e, const Real* keys, const Real* weights, const Real* values, int count) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  HWY_ALIGN Real cl[kEdgeMost], cr[kEdgeMost], ml[kEdgeMost], mr[kEdgeMost];
  for (int i = 0; i < count; i += n) {
    const auto f = edge_factors(d, hn::LoadU(d, keys + i), hn::LoadU(d, weights + i), e.lo, e.hi, e.tau, e.moments);
    hn::Store(f.left, d, cl + i);
    hn::Store(f.right, d, cr + i);
    if (e.moments) {
      hn::Store(f.left_moment, d, ml + i);
      hn::Store(f.right_moment, d, mr + i);
    }
  }
  edge_rows(e, values, cl, cr, count, 0);
  if (e.moments) edge_rows(e, values, ml, mr, count, 1);
}

template <class Real>
HWY_INLINE void add_to_edges_of(const Edges<Real>& e, Real key, Real weight, const Real* value, Real* to) {
  const WideLanes<Real> wide;
  const auto f = edge_factors(wide, hn::Set(wide, key), hn::Set(wide, weight), e.lo, e.hi, e.tau, e.moments);
  const Real l = hn::GetLane(f.left), r = hn::GetLane(f.right);
  const Real ml = hn::GetLane(f.left_moment), mr = hn::GetLane(f.right_moment);
  for_columns<Real>(e.row, [&](auto d, int k) HWY_ATTR {
    const int n = static_cast<int>(hn::Lanes(d));
    for (int i = k; i < e.width && e.width < k + n; ++i) to[i] = value[i];  // (Then come zeros.)
    const auto v = hn::LoadU(d, (e.width < k + n ? to : value) + k);
    if (e.width >= k + n) hn::StoreU(v, d, to + k);
    const auto add = [&](Real c, Real* row)
                         HWY_ATTR { hn::StoreU(hn::MulAdd(hn::Set(d, c), v, hn::LoadU(d, row + k)), d, row + k); };
    add(l, e.left);
    add(r, e.right);
    if (e.moments) {
      add(ml, e.left + e.row);
      add(mr, e.right + e.row);
    }
  });
  *e.left_mass += l;
  *e.right_mass += r;
  if (e.moments) {
    e.left_mass[e.mass_stride] += ml;
    e.right_mass[e.mass_stride] += mr;
  }
}

// row(i): where row i begins.
template <class Real, class Row>
HWY_INLINE void add_rows(Row row, const Real* c, int count, int width, Real* out) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  for (int j = 0; j < width; j += n) {
    auto s0 = hn::LoadU(d, out + j), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
    int i = 0;
    for (; i + 3 < count; i += 4) {
      s0 = hn::MulAdd(hn::Set(d, c[i]), hn::LoadU(d, row(i) + j), s0);
      s1 = hn::MulAdd(hn::Set(d, c[i + 1]), hn::LoadU(d, row(i + 1) + j), s1);
      s2 = hn::MulAdd(hn::Set(d, c[i + 2]), hn::LoadU(d, row(i + 2) + j), s2);
      s3 = hn::MulAdd(hn::Set(d, c[i + 3]), hn::LoadU(d, row(i + 3) + j), s3);
    }
    for (; i < count; ++i) s0 = hn::MulAdd(hn::Set(d, c[i]), hn::LoadU(d, row(i) + j), s0);
    hn::StoreU(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), d, out + j);
  }
}

// kVectors vectors next to each other in each of the rows of a scan, and in those of moments `behind` them. Running
// sums stay in registers from row to row; several vectors at once, as each waits for its last row.
template <class Real>
struct Columns {
  const Real* items;
  Real* sums;
  int stride, behind;
};
template <int kVectors, class D, class Real>
HWY_INLINE void scan_columns(D d, const Scan<Real>& s, const Columns<Real>& x, int begin, int low, int count,
                             const Real* u, const Real* e) {
  const int n = static_cast<int>(hn::Lanes(d));
  const Real* item = x.items + s.first * x.stride;
  Real* out = x.sums + s.first * x.stride;
  const int step = s.step * x.stride;
  const Real* before = out - step;
  const bool fresh = s.first == begin;
  const auto load = [&](int at) HWY_ATTR { return fresh ? hn::Zero(d) : hn::LoadU(d, before + at); };
  const int n1 = kVectors > 1 ? n : 0, n2 = kVectors > 2 ? 2 * n : 0, n3 = kVectors > 3 ? 3 * n : 0;
  auto s0 = load(0), s1 = load(n1), s2 = load(n2), s3 = load(n3);
  if (!s.moments) {
    for (int t = 0, j = s.first - low; t < count; ++t, j += s.step, item += step, out += step) {
      const auto factor = hn::Set(d, e[j]);
      const auto put = [&](int at, auto& sum) HWY_ATTR {
        sum = hn::MulAdd(factor, sum, hn::LoadU(d, item + at));
        hn::StoreU(sum, d, out + at);
      };
      put(0, s0);
      if constexpr (kVectors > 1) put(n1, s1);
      if constexpr (kVectors > 2) put(n2, s2);
      if constexpr (kVectors > 3) put(n3, s3);
    }
    return;
  }
  auto m0 = load(x.behind), m1 = load(x.behind + n1), m2 = load(x.behind + n2), m3 = load(x.behind + n3);
  for (int t = 0, j = s.first - low; t < count; ++t, j += s.step, item += step, out += step) {
    const auto factor = hn::Set(d, e[j]), shift = hn::Set(d, e[j] > 0 ? u[j] : Real(0));  // (u may be infinite.)
    const auto put = [&](int at, auto& sum, auto& moment) HWY_ATTR {
      moment = hn::MulAdd(factor, hn::MulAdd(shift, sum, moment), hn::LoadU(d, item + x.behind + at));
      hn::StoreU(moment, d, out + x.behind + at);
      sum = hn::MulAdd(factor, sum, hn::LoadU(d, item + at));
      hn::StoreU(sum, d, out + at);
    };
    put(0, s0, m0);
    if constexpr (kVectors > 1) put(n1, s1, m1);
    if constexpr (kVectors > 2) put(n2, s2, m2);
    if constexpr (kVectors > 3) put(n3, s3, m3);
  }
}

template <class Real>
HWY_INLINE void scan_of(const Scan<Real>& s) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  HWY_ALIGN Real u[kScanMost + 32 / sizeof(Real)], e[kScanMost + 32 / sizeof(Real)];
  const int last = s.step > 0 ? s.count - 1 : 0, begin = s.step > 0 ? 0 : s.count - 1;
  const int low = s.first < last ? s.first : last, high = s.first < last ? last : s.first;
  // Steps are between neighbours a and a + 1; where both are the same (both infinite, too), it is 0.
  const int from = s.step > 0 ? (low == begin ? low : low - 1) : low;
  const int to = s.step > 0 ? high : (high == begin ? high : high + 1);
  const int slot = s.step > 0 ? from + 1 - low : 0;  // of the step from `from`
  const auto tau = hn::Set(d, s.tau);
  for (int j = from; j < to; j += n) {
    const auto a = hn::LoadU(d, s.anchors + j), b = hn::LoadU(d, s.anchors + j + 1);
    const auto step = hn::Div(hn::IfThenZeroElse(hn::Eq(a, b), hn::Sub(b, a)), tau);
    hn::StoreU(step, d, u + slot + (j - from));
    hn::StoreU(exp_of(d, hn::Neg(step)), d, e + slot + (j - from));
  }
  if (s.first == begin) u[begin - low] = e[begin - low] = 0;
  const int count = high - low + 1;
  if (s.masses != nullptr) {
    scan_columns<1>(hn::CappedTag<Real, 1>(), s, {s.item_masses, s.masses, 2, s.mass_stride}, begin, low, count, u, e);
  }
  int k = 0;
  const auto columns = [&]<int kVectors>(auto some) HWY_ATTR {
    const int lanes = kVectors * static_cast<int>(hn::Lanes(some)), stride = s.moments ? 2 * s.width : s.width;
    for (; k + lanes <= s.width; k += lanes) {
      scan_columns<kVectors>(some, s, {s.items + k, s.sums + k, stride, s.width}, begin, low, count, u, e);
    }
  };
  const WideLanes<Real> wide;
  columns.template operator()<4>(wide);
  columns.template operator()<2>(wide);
  columns.template operator()<1>(wide);
  columns.template operator()<1>(d);
}

// Highway dispatches functions, not templates.
#define TD_ROWS_OF(Real, suffix)                                                                                       \
  void weigh_##suffix(const Weigh<Real>& w) { weigh_of(w); }                                                           \
  void exp_negative_##suffix(const Real* u, Real* e, int count) { exp_negative_of(u, e, count); }                      \
  void edges_##suffix(const Edges<Real>& e, const Real* keys, const Real* weights, const Real* values, int count) {    \
    edges_of(e, keys, weights, values, count);                                                                         \
  }                                                                                                                    \
  Range<Real> range_##suffix(const Real* keys, const Real* weights, int count) {                                       \
    return range_of(keys, weights, count);                                                                             \
  }                                                                                                                    \
  void far_##suffix(const Far<Real>& f, const Real* keys, Real* u) { far_all(f, keys, u); }                            \
  Beside<Real> beside_##suffix(const Real* keys, const Real* weights, Real q) { return beside_all(keys, weights, q); } \
  void add_to_edges_##suffix(const Edges<Real>& e, Real key, Real weight, const Real* value, Real* to) {               \
    add_to_edges_of(e, key, weight, value, to);                                                                        \
  }                                                                                                                    \
  void add_weighted_##suffix(const Real* x, const Real* c, int count, int width, Real* out) {                          \
    add_rows([x, width](int i) HWY_ATTR { return x + i * width; }, c, count, width, out);                              \
  }                                                                                                                    \
  void add_pointed_##suffix(const Real* const* x, const Real* c, int count, int width, Real* out) {                    \
    add_rows([x](int i) HWY_ATTR { return x[i]; }, c, count, width, out);                                              \
  }                                                                                                                    \
  void scan_##suffix(const Scan<Real>& s) { scan_of(s); }
TD_ROWS_OF(float, f32)
TD_ROWS_OF(double, f64)
#undef TD_ROWS_OF

}  // namespace tandem::replay::rows::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::replay::rows {

#define TD_ROWS_OF(Real, suffix)                                                                                     \
  HWY_EXPORT(weigh_##suffix);                                                                                        \
  void weigh(const Weigh<Real>& w) { HWY_DYNAMIC_DISPATCH(weigh_##suffix)(w); }                                      \
  HWY_EXPORT(exp_negative_##suffix);                                                                                 \
  HWY_EXPORT(edges_##suffix);                                                                                        \
  HWY_EXPORT(range_##suffix);                                                                                        \
  HWY_EXPORT(far_##suffix);                                                                                          \
  HWY_EXPORT(beside_##suffix);                                                                                       \
  HWY_EXPORT(add_to_edges_##suffix);                                                                                 \
  HWY_EXPORT(add_weighted_##suffix);                                                                                 \
  HWY_EXPORT(add_pointed_##suffix);                                                                                  \
  HWY_EXPORT(scan_##suffix);                                                                                         \
  void exp_negative(const Real* u, Real* e, int count) { HWY_DYNAMIC_DISPATCH(exp_negative_##suffix)(u, e, count); } \
  void edges(const Edges<Real>& e, const Real* keys, const Real* weights, const Real* values, int count) {           \
    HWY_DYNAMIC_DISPATCH(edges_##suffix)(e, keys, weights, values, count);                                           \
  }                                                                                                                  \
  Range<Real> range(const Real* keys, const Real* weights, int count) {                                              \
    return HWY_DYNAMIC_DISPATCH(range_##suffix)(keys, weights, count);                                               \
  }                                                                                                                  \
  void far(const Far<Real>& f, const Real* keys, Real* u) { HWY_DYNAMIC_DISPATCH(far_##suffix)(f, keys, u); }        \
  Beside<Real> beside(const Real* keys, const Real* weights, Real q) {                                               \
    return HWY_DYNAMIC_DISPATCH(beside_##suffix)(keys, weights, q);                                                  \
  }                                                                                                                  \
  void add_to_edges(const Edges<Real>& e, Real key, Real weight, const Real* value, Real* to) {                      \
    HWY_DYNAMIC_DISPATCH(add_to_edges_##suffix)(e, key, weight, value, to);                                          \
  }                                                                                                                  \
  void add_weighted(const Real* x, const Real* c, int count, int width, Real* out) {                                 \
    HWY_DYNAMIC_DISPATCH(add_weighted_##suffix)(x, c, count, width, out);                                            \
  }                                                                                                                  \
  void add_pointed(const Real* const* x, const Real* c, int count, int width, Real* out) {                           \
    HWY_DYNAMIC_DISPATCH(add_pointed_##suffix)(x, c, count, width, out);                                             \
  }                                                                                                                  \
  void scan(const Scan<Real>& s) { HWY_DYNAMIC_DISPATCH(scan_##suffix)(s); }
TD_ROWS_OF(float, f32)
TD_ROWS_OF(double, f64)
#undef TD_ROWS_OF

}  // namespace tandem::replay::rows
#endif  // HWY_ONCE

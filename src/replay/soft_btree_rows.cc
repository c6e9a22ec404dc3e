#include "replay/soft_btree_rows.h"

#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "replay/soft_btree_rows.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>
#include "kernels/common/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::rows::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 32 bytes, so that rows need no tails.
template <class Real>
using Lanes = hn::CappedTag<Real, 32 / sizeof(Real)>;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_of(D d, V x) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return kernels::HWY_NAMESPACE::exp_of_nonpositive(d, x);
  } else {
    return hn::Exp(d, hn::Max(x, hn::Set(d, -1000.0)));  // its reduction wants a finite argument; e^-1000 is 0
  }
}

template <class Real>
HWY_INLINE void exp_negative_of(const Real* u, Real* e, int count) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < count; i += n) hn::StoreU(exp_of(d, hn::Neg(hn::LoadU(d, u + i))), d, e + i);
}

template <class Real>
HWY_INLINE void weighted_pair_of(const Real* data, const Real* ca, const Real* cb, int count, int width, Real* a,
                                 Real* b) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  for (int j = 0; j < width; j += n) {
    auto a0 = hn::Zero(d), a1 = hn::Zero(d), b0 = hn::Zero(d), b1 = hn::Zero(d);
    int i = 0;
    for (; i + 1 < count; i += 2) {
      const auto x0 = hn::LoadU(d, data + i * width + j), x1 = hn::LoadU(d, data + (i + 1) * width + j);
      a0 = hn::MulAdd(hn::Set(d, ca[i]), x0, a0);
      b0 = hn::MulAdd(hn::Set(d, cb[i]), x0, b0);
      a1 = hn::MulAdd(hn::Set(d, ca[i + 1]), x1, a1);
      b1 = hn::MulAdd(hn::Set(d, cb[i + 1]), x1, b1);
    }
    if (i < count) {
      const auto x = hn::LoadU(d, data + i * width + j);
      a0 = hn::MulAdd(hn::Set(d, ca[i]), x, a0);
      b0 = hn::MulAdd(hn::Set(d, cb[i]), x, b0);
    }
    hn::StoreU(hn::Add(a0, a1), d, a + j);
    hn::StoreU(hn::Add(b0, b1), d, b + j);
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

template <class Real>
HWY_INLINE void scan_of(const Scan<Real>& s) {
  const Lanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const int stride = s.moments ? 2 * s.width : s.width;
  HWY_ALIGN Real u[64] = {}, e[64];
  const int last = s.step > 0 ? s.count - 1 : 0, begin = s.step > 0 ? 0 : s.count - 1;
  const int low = s.first < last ? s.first : last, high = s.first < last ? last : s.first;
  for (int j = low; j <= high; ++j) {
    const int before = j - s.step;
    if (j == begin || s.anchors[j] == s.anchors[before]) {  // (also -infinity beside -infinity)
      u[j - low] = 0;
    } else {
      u[j - low] = (s.step > 0 ? s.anchors[j] - s.anchors[before] : s.anchors[before] - s.anchors[j]) / s.tau;
    }
  }
  exp_negative_of(u, e, high - low + 1);
  for (int j = s.first;; j += s.step) {
    const Real* item = s.items + j * stride;
    Real* sum = s.sums + j * stride;
    if (j == begin) {
      for (int k = 0; k < stride; k += n) hn::StoreU(hn::LoadU(d, item + k), d, sum + k);
    } else {
      const Real* before = s.sums + (j - s.step) * stride;
      const auto factor = hn::Set(d, e[j - low]);
      for (int k = 0; k < s.width; k += n) {
        hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, before + k), hn::LoadU(d, item + k)), d, sum + k);
      }
      if (s.moments && e[j - low] > 0) {
        const auto shift = hn::Set(d, u[j - low]);
        for (int k = 0; k < s.width; k += n) {
          const auto moved = hn::MulAdd(shift, hn::LoadU(d, before + k), hn::LoadU(d, before + s.width + k));
          hn::StoreU(hn::MulAdd(factor, moved, hn::LoadU(d, item + s.width + k)), d, sum + s.width + k);
        }
      } else if (s.moments) {
        for (int k = s.width; k < stride; k += n) hn::StoreU(hn::LoadU(d, item + k), d, sum + k);
      }
    }
    if (j == last) break;
  }
}

// Highway dispatches functions, not templates.
#define TD_ROWS_OF(Real, suffix)                                                                                   \
  void exp_negative_##suffix(const Real* u, Real* e, int count) { exp_negative_of(u, e, count); }                  \
  void weighted_pair_##suffix(const Real* x, const Real* ca, const Real* cb, int count, int w, Real* a, Real* b) { \
    weighted_pair_of(x, ca, cb, count, w, a, b);                                                                   \
  }                                                                                                                \
  void add_weighted_##suffix(const Real* x, const Real* c, int count, int width, Real* out) {                      \
    add_rows([x, width](int i) HWY_ATTR { return x + i * width; }, c, count, width, out);                          \
  }                                                                                                                \
  void add_pointed_##suffix(const Real* const* x, const Real* c, int count, int width, Real* out) {                \
    add_rows([x](int i) HWY_ATTR { return x[i]; }, c, count, width, out);                                          \
  }                                                                                                                \
  void scan_##suffix(const Scan<Real>& s) { scan_of(s); }
TD_ROWS_OF(float, f32)
TD_ROWS_OF(double, f64)
#undef TD_ROWS_OF

}  // namespace tandem::replay::rows::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::replay::rows {

#define TD_ROWS_OF(Real, suffix)                                                                                     \
  HWY_EXPORT(exp_negative_##suffix);                                                                                 \
  HWY_EXPORT(weighted_pair_##suffix);                                                                                \
  HWY_EXPORT(add_weighted_##suffix);                                                                                 \
  HWY_EXPORT(add_pointed_##suffix);                                                                                  \
  HWY_EXPORT(scan_##suffix);                                                                                         \
  void exp_negative(const Real* u, Real* e, int count) { HWY_DYNAMIC_DISPATCH(exp_negative_##suffix)(u, e, count); } \
  void weighted_pair(const Real* x, const Real* ca, const Real* cb, int count, int w, Real* a, Real* b) {            \
    HWY_DYNAMIC_DISPATCH(weighted_pair_##suffix)(x, ca, cb, count, w, a, b);                                         \
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

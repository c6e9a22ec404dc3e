// What the soft B-tree's loops have in common. Per-target header: included once for each target.
#if defined(TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#undef TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#else
#define TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <limits>

#include "kernels/common/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 32 bytes, so that rows need no tails.
template <class Real>
using Lanes = hn::CappedTag<Real, 32 / sizeof(Real)>;

// Up to what 64 bytes hold.
template <class Real>
using WideLanes = hn::CappedTag<Real, 64 / sizeof(Real)>;

// e^x for x <= 0, and for -infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_of(D d, V x) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return kernels::HWY_NAMESPACE::exp_of_nonpositive(d, x);
  } else {
    return hn::Exp(d, hn::Max(x, hn::Set(d, -1000.0)));  // its reduction wants a finite argument; e^-1000 is 0
  }
}

// How much further from a query keys are than the nearest entry, over tau. Those of weight 0 may be nearer than the
// nearest live one: their distance is of no account.
template <class D, class Near, class V = hn::Vec<D>>
HWY_INLINE V over_tau_of(D d, V key, V query, const Near& near) {
  const auto zero = hn::Zero(d);
  const auto on_before = hn::Max(zero, hn::Sub(hn::Set(d, near.before), key));
  const auto on_after = hn::Max(zero, hn::Sub(key, hn::Set(d, near.after)));
  const auto to_before = hn::Add(hn::Set(d, near.beyond_before), on_before);
  const auto to_after = hn::Add(hn::Set(d, near.beyond_after), on_after);
  const auto far = hn::IfThenElse(hn::Lt(key, query), to_before, hn::IfThenElseZero(hn::Gt(key, query), to_after));
  return hn::Div(far, hn::Set(d, near.tau));
}

// The nearest keys with weight on either side of q, at least as near as those given, and whether there is one at it.
// All of the keys [kCount] and weights, which are aligned, are looked at: no branches.
template <class Real>
struct Beside {
  Real before, after;
  bool tie;
};
template <int kCount, class Real>
HWY_INLINE Beside<Real> beside_of(const Real* keys, const Real* weights, Real q, Real before, Real after) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto at = hn::Set(d, q), none = hn::Set(d, std::numeric_limits<Real>::quiet_NaN());
  auto last = hn::Set(d, before), first = hn::Set(d, after), same = none;
  for (int i = 0; i < kCount; i += n) {
    const auto key = hn::IfThenElse(hn::Gt(hn::Load(d, weights + i), hn::Zero(d)), hn::Load(d, keys + i), none);
    last = hn::IfThenElse(hn::Lt(key, at), hn::Max(last, key), last);
    first = hn::IfThenElse(hn::Gt(key, at), hn::Min(first, key), first);
    same = hn::IfThenElse(hn::Eq(key, at), key, same);
  }
  return {hn::GetLane(hn::MaxOfLanes(d, last)), hn::GetLane(hn::MinOfLanes(d, first)),
          !hn::AllFalse(d, hn::Eq(same, at))};
}

}  // namespace tandem::replay::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

// What the soft B-tree's loops have in common. Per-target header: included once for each target.
#if defined(TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#undef TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#else
#define TANDEM_REPLAY_SOFT_BTREE_LANES_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

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

}  // namespace tandem::replay::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

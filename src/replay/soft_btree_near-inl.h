// How a query comes down to the leaves, and how near it is to what it has come to. Per-target header: included once for
// each target.
#if defined(TANDEM_REPLAY_SOFT_BTREE_NEAR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_REPLAY_SOFT_BTREE_NEAR_INL_H_
#undef TANDEM_REPLAY_SOFT_BTREE_NEAR_INL_H_
#else
#define TANDEM_REPLAY_SOFT_BTREE_NEAR_INL_H_
#endif

#include <algorithm>
#include <limits>

#include "replay/soft_btree_lanes-inl.h"
#include "replay/soft_btree_nodes.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::tree::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using replay::HWY_NAMESPACE::exp_of;
using replay::HWY_NAMESPACE::WideLanes;

// How many of x[0..size) are below q. kMost are looked at, without a branch.
template <int kMost, bool kEqual, class Real>
HWY_INLINE int count_of(const Real* x, int size, Real q) {
  const WideLanes<Real> d;
  constexpr int n = static_cast<int>(hn::MaxLanes(d));
  const auto at = hn::Set(d, q);
  std::size_t count = 0;
  for (int i = 0; i < kMost; i += n) {
    const auto v = hn::LoadU(d, x + i);
    const auto some = hn::FirstN(d, static_cast<std::size_t>(std::max(0, size - i)));
    count += hn::CountTrue(d, hn::And(some, kEqual ? hn::Le(v, at) : hn::Lt(v, at)));
  }
  return static_cast<int>(count);
}

// Takes a read or a draw from the root to the node above the leaves, which is asked for. `down` goes one level down;
// false: there is no further.
template <class Real, class Way, class Down>
HWY_INLINE void descend_by(const Nodes<Real>& nodes, const Node* root, Real query, Way& way, const Down& down) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  way.query = query;
  way.before = -kInfinity;
  way.after = kInfinity;
  way.node = root;
  way.usual = true;
  while (way.node->level > 1) {
    const bool last = way.node->level == 2;
    if (!down()) return;
    if (last) {
      nodes.prefetch_bytes(way.node, sizeof(Inner<Real>));
      return;
    }
  }
}

// (1 + u) e of e = e^-u; where that is 0, u may be infinite.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V times_slope(D d, V e, V u) {
  return hn::IfThenElseZero(hn::Gt(e, hn::Zero(d)), hn::MulAdd(u, e, e));
}

// What a query's distances are measured by.
template <class Real>
struct Near {
  Real before, after;                // the nearest live keys on either side
  Real beyond_before, beyond_after;  // how much further away they are than the nearest entry
  Real nearest, tau;
  Real shift;  // nearest / tau, with moments
};

// `leaf`: where the query belongs, or null; before, after: the nearest live keys above it.
template <class Real>
HWY_INLINE Near<Real> near_of(const Leaf<Real>* leaf, Real q, Real before, Real after, Real tau, bool moments) {
  Near<Real> near{before, after, 0, 0, 0, tau, 0};
  bool tie = false;
  if (leaf != nullptr) {  // (Behind its last entry weights are 0.)
    const auto beside = replay::HWY_NAMESPACE::beside_of<kLeafMost>(leaf->keys, leaf->weights, q, before, after);
    near.before = beside.before;
    near.after = beside.after;
    tie = beside.tie;
  }
  const Real to_before = q - near.before, to_after = near.after - q;
  near.nearest = tie ? Real(0) : std::min(to_before, to_after);
  near.beyond_before = to_before == near.nearest ? 0 : to_before - near.nearest;
  near.beyond_after = to_after == near.nearest ? 0 : to_after - near.nearest;
  near.shift = moments ? near.nearest / tau : 0;
  return near;
}

// Coefficients of the entries of a leaf: c[i] = w_i e^-d_i, with moments w_i (1 + shift + d_i) e^-d_i; zeros behind
// them up to kLeafMost. Returns their sum.
template <class Real>
HWY_INLINE Real coefficients_of(const Leaf<Real>* leaf, Real query, const Near<Real>& near, bool moments, Real* c) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto q = hn::Set(d, query), shift = hn::Set(d, near.shift);
  auto sum = hn::Zero(d);
  for (int i = 0; i < kLeafMost; i += n) {
    const auto u = replay::HWY_NAMESPACE::over_tau_of(d, hn::Load(d, leaf->keys + i), q, near);
    auto e = exp_of(d, hn::Neg(u));
    if (moments) e = times_slope(d, e, hn::Add(u, shift));
    const auto mass = hn::Mul(e, hn::Load(d, leaf->weights + i));
    sum = hn::Add(sum, mass);
    hn::StoreU(mass, d, c + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace tandem::replay::tree::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

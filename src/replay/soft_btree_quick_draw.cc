#include "replay/soft_btree_quick_draw.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "replay/soft_btree_quick_draw.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "replay/soft_btree_near-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::tree::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using replay::HWY_NAMESPACE::exp_of;
using replay::HWY_NAMESPACE::WideLanes;

template <class Real>
inline constexpr int kPad = 64 / sizeof(Real);  // whole vectors are read and written

// One level down; false: there is no further.
template <class Real>
HWY_INLINE bool step(const Nodes<Real>& nodes, QuickDraw<Real>& draw) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const auto* n = Nodes<Real>::inner(draw.node);
  const Real q = draw.query;
  const int size = n->size;
  const int j = count_of<kInnerMost, false>(n->hi, size, q);
  int r = j;
  while (r < size && n->lo[r] <= q) ++r;
  auto& way = draw.ways[draw.ways_count++];
  way = {n, 0, size};
  if (j > 0 && n->hi[j - 1] > -kInfinity) {
    way.before = j;
    draw.before = n->hi[j - 1];
    nodes.prefetch_mass(nodes.left_to_mass(n, j - 1));
  }
  if (r < size && n->lo[r] < kInfinity) {
    way.from = r;
    draw.after = n->lo[r];
    nodes.prefetch_mass(nodes.right_from_mass(n, r));
  }
  draw.usual = r <= j + 1;
  draw.node = r == j + 1 ? n->children[j] : nullptr;
  return r == j + 1;
}

template <class Real>
HWY_INLINE void descend_of(const Nodes<Real>& nodes, const Node* root, Real query, QuickDraw<Real>& draw) {
  draw.ways_count = 0;
  descend_by(nodes, root, query, draw, [&]() HWY_ATTR { return step(nodes, draw); });
}

template <class Real>
HWY_INLINE void descend_rest_of(const Nodes<Real>& nodes, QuickDraw<Real>& draw) {
  if (draw.node == nullptr || draw.node->leaf()) return;
  if (step(nodes, draw)) nodes.prefetch_leaf(draw.node, false);
}

// mass[i] = m0[i] e^-u, with moments ((1 + shift + u) m0[i] + m1[i]) e^-u; u = far[i] / tau.
template <class Real>
HWY_INLINE void masses_of(const Nodes<Real>& nodes, Real shift, const Real* far, const Real* m0, const Real* m1,
                          int count, Real* mass) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto tau = hn::Set(d, nodes.tau), zero = hn::Zero(d);
  for (int i = 0; i < count; i += n) {
    const auto u = hn::Div(hn::LoadU(d, far + i), tau);
    const auto e = exp_of(d, hn::Neg(u));
    auto m = hn::LoadU(d, m0 + i);
    if (nodes.moments) m = hn::MulAdd(hn::Add(hn::Set(d, 1 + shift), u), m, hn::LoadU(d, m1 + i));
    hn::StoreU(hn::IfThenElseZero(hn::Gt(e, zero), hn::Mul(e, m)), d, mass + i);  // (u may be infinite.)
  }
}

// Which of the masses the uniform number falls to; what is left of it within that one.
template <class Real>
HWY_INLINE int pick(const Real* mass, int count, double& uniform) {
  double left = uniform * static_cast<double>(rows::sum(mass, count));
  int chosen = 0;  // the last with mass, if rounding leads beyond it
  double chosen_mass = 1;
  for (int i = 0; i < count; ++i) {
    const auto own = static_cast<double>(mass[i]);
    if (own > 0) {
      chosen = i;
      chosen_mass = own;
    }
    if (left < own) break;
    left -= own;
  }
  uniform = std::clamp(left / chosen_mass, 0.0, std::nextafter(1.0, 0.0));
  return chosen;
}

template <class Real>
HWY_INLINE bool choose_of(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {
  const auto* leaf = Nodes<Real>::leaf(draw.node);
  const Near<Real> near = near_of(leaf, draw.query, draw.before, draw.after, nodes.tau, nodes.moments);
  draw.before = near.before;
  draw.after = near.after;
  draw.beyond_before = near.beyond_before;
  draw.beyond_after = near.beyond_after;
  draw.shift = near.shift;
  constexpr int kTilesMost = 2 * kLevelsMost;  // of each way one before and one after
  HWY_ALIGN Real far[kTilesMost + kPad<Real>], m0[kTilesMost + kPad<Real>], m1[kTilesMost + kPad<Real>];
  HWY_ALIGN Real mass[kTilesMost + kLeafMost + kPad<Real>];
  const int tiles = 2 * draw.ways_count;
  const auto put = [&](int t, Real distance, const Real* of) {
    far[t] = distance;
    m0[t] = *of;
    m1[t] = nodes.moments ? of[nodes.mass_stride] : 0;
  };
  for (int w = 0; w < draw.ways_count; ++w) {
    const auto& way = draw.ways[w];
    const auto* n = way.node;
    far[2 * w] = m0[2 * w] = m1[2 * w] = far[2 * w + 1] = m0[2 * w + 1] = m1[2 * w + 1] = 0;
    if (way.before > 0) {
      put(2 * w, near.beyond_before + (near.before - n->hi[way.before - 1]), nodes.left_to_mass(n, way.before - 1));
    }
    if (way.from < n->size) {
      put(2 * w + 1, near.beyond_after + (n->lo[way.from] - near.after), nodes.right_from_mass(n, way.from));
    }
  }
  masses_of(nodes, near.shift, far, m0, m1, tiles, mass);
  int count = tiles;
  if (leaf != nullptr) {
    coefficients_of(leaf, draw.query, near, nodes.moments, mass + tiles);
    count += leaf->size;
  }
  const int chosen = pick(mass, count, draw.uniform);
  if (chosen >= tiles) {
    id = leaf->ids[chosen - tiles];
    return true;
  }
  const auto& way = draw.ways[chosen / 2];
  draw.right = chosen % 2 != 0;
  draw.node = way.node;
  draw.at = draw.right ? way.from : 0;
  draw.end = draw.right ? way.node->size : way.before;
  nodes.prefetch_masses(way.node, draw.at, draw.end, draw.right);
  return false;
}

// How far the keys [count] on one side of the query are, beyond the nearest entry. (One without weight may be nearer.)
template <class Real>
HWY_INLINE void distances_of(const QuickDraw<Real>& draw, const Real* keys, int count, Real* far) {
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  const auto beyond = hn::Set(d, draw.right ? draw.beyond_after : draw.beyond_before), zero = hn::Zero(d);
  const auto near = hn::Set(d, draw.right ? draw.after : draw.before);
  for (int i = 0; i < count; i += n) {
    const auto key = hn::LoadU(d, keys + i);
    const auto on = draw.right ? hn::Sub(key, near) : hn::Sub(near, key);
    hn::StoreU(hn::Add(beyond, hn::Max(zero, on)), d, far + i);
  }
}

template <class Real>
HWY_INLINE bool below_of(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {
  constexpr int kMost = kLeafMost + kPad<Real>;
  HWY_ALIGN Real far[kMost], m0[kMost], m1[kMost], mass[kMost];
  if (draw.node->leaf()) {
    const auto* leaf = Nodes<Real>::leaf(draw.node);
    distances_of(draw, leaf->keys, leaf->size, far);
    std::fill_n(m1, nodes.moments ? leaf->size : 0, Real(0));
    masses_of(nodes, draw.shift, far, leaf->weights, m1, leaf->size, mass);
    id = leaf->ids[pick(mass, leaf->size, draw.uniform)];
    return true;
  }
  const auto* n = Nodes<Real>::inner(draw.node);
  const int at = draw.at, count = (draw.end < 0 ? n->size : draw.end) - at;
  distances_of(draw, (draw.right ? n->lo : n->hi) + at, count, far);
  for (int c = 0; c < count; ++c) {
    const Real* of = draw.right ? nodes.right_mass(n, at + c) : nodes.left_mass(n, at + c);
    m0[c] = *of;
    m1[c] = nodes.moments ? of[nodes.mass_stride] : 0;
  }
  masses_of(nodes, draw.shift, far, m0, m1, count, mass);
  draw.node = n->children[at + pick(mass, count, draw.uniform)];
  draw.at = 0;
  draw.end = -1;
  if (n->level == 1) {
    nodes.prefetch_bytes(draw.node, sizeof(Leaf<Real>));
  } else {
    const auto* child = Nodes<Real>::inner(draw.node);
    nodes.prefetch_bytes(child, sizeof(Inner<Real>));
    nodes.prefetch_masses(child, 0, kInnerMost, draw.right);
  }
  return false;
}

// Highway dispatches functions, not templates.
#define TD_QUICK_DRAW_OF(Real, suffix)                                                                          \
  void descend_##suffix(const Nodes<Real>& nodes, const Node* root, Real query, QuickDraw<Real>& draw) {        \
    descend_of(nodes, root, query, draw);                                                                       \
  }                                                                                                             \
  void descend_rest_##suffix(const Nodes<Real>& nodes, QuickDraw<Real>& draw) { descend_rest_of(nodes, draw); } \
  bool choose_##suffix(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {                          \
    return choose_of(nodes, draw, id);                                                                          \
  }                                                                                                             \
  bool below_##suffix(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {                           \
    return below_of(nodes, draw, id);                                                                           \
  }
TD_QUICK_DRAW_OF(float, f32)
TD_QUICK_DRAW_OF(double, f64)
#undef TD_QUICK_DRAW_OF

}  // namespace tandem::replay::tree::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::replay::tree {

#define TD_QUICK_DRAW_OF(Real, suffix)                                                                     \
  HWY_EXPORT(descend_##suffix);                                                                            \
  HWY_EXPORT(descend_rest_##suffix);                                                                       \
  HWY_EXPORT(choose_##suffix);                                                                             \
  HWY_EXPORT(below_##suffix);                                                                              \
  void quick_draw_descend(const Nodes<Real>& nodes, const Node* root, Real query, QuickDraw<Real>& draw) { \
    HWY_DYNAMIC_DISPATCH(descend_##suffix)(nodes, root, query, draw);                                      \
  }                                                                                                        \
  void quick_draw_descend_rest(const Nodes<Real>& nodes, QuickDraw<Real>& draw) {                          \
    HWY_DYNAMIC_DISPATCH(descend_rest_##suffix)(nodes, draw);                                              \
  }                                                                                                        \
  bool quick_draw_choose(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {                   \
    return HWY_DYNAMIC_DISPATCH(choose_##suffix)(nodes, draw, id);                                         \
  }                                                                                                        \
  bool quick_draw_below(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id) {                    \
    return HWY_DYNAMIC_DISPATCH(below_##suffix)(nodes, draw, id);                                          \
  }
TD_QUICK_DRAW_OF(float, f32)
TD_QUICK_DRAW_OF(double, f64)
#undef TD_QUICK_DRAW_OF

}  // namespace tandem::replay::tree
#endif  // HWY_ONCE

#include "replay/soft_btree_quick.h"

#include <algorithm>
#include <limits>

#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "replay/soft_btree_quick.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "replay/soft_btree_near-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::replay::tree::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using replay::HWY_NAMESPACE::exp_of;
using replay::HWY_NAMESPACE::Lanes;
using replay::HWY_NAMESPACE::WideLanes;

// One level down; false: there is no further.
template <class Real>
HWY_INLINE bool step(const Nodes<Real>& nodes, QuickRead<Real>& read) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const auto* n = Nodes<Real>::inner(read.node);
  const Real q = read.query;
  const int size = n->size;
  const int j = count_of<kInnerMost, false>(n->hi, size, q);
  const auto meet = [&](const Real* row, const Real* mass, Real anchor, Real side) HWY_ATTR {
    const int t = read.tiles++;
    read.rows[t] = row;
    read.masses[t] = mass;
    read.anchors[t] = anchor;
    read.sides[t] = side;
    nodes.prefetch_mass(mass);
    nodes.prefetch_row(row);
  };
  if (j > 0 && n->hi[j - 1] > -kInfinity) {
    read.before = n->hi[j - 1];
    meet(nodes.left_to(n, j - 1), nodes.left_to_mass(n, j - 1), read.before, -1);
  }
  int r = j;
  while (r < size && n->lo[r] <= q) ++r;
  if (r < size && n->lo[r] < kInfinity) {
    read.after = n->lo[r];
    meet(nodes.right_from(n, r), nodes.right_from_mass(n, r), read.after, 1);
  }
  if (r == j) {
    read.node = nullptr;
    return false;
  }
  if (r != j + 1 || nodes.waits(n, j)) {
    read.usual = false;
    return false;
  }
  read.node = n->children[j];
  return true;
}

template <class Real>
HWY_INLINE void descend_of(const Nodes<Real>& nodes, const Node* root, Real query, QuickRead<Real>& read) {
  read.tiles = 0;
  descend_by(nodes, root, query, read, [&]() HWY_ATTR { return step(nodes, read); });
}

template <class Real>
HWY_INLINE void descend_rest_of(const Nodes<Real>& nodes, QuickRead<Real>& read) {
  if (read.node == nullptr || read.node->leaf()) return;
  if (step(nodes, read)) nodes.prefetch_leaf(read.node, true);
}

// out [lanes] = sum over tiles of e row + sum over entries of c value, columns from k on.
template <class D, class Real>
HWY_INLINE void columns_of(D d, const Real* const* rows, const Real* e, int tiles, const Real* values, const Real* c,
                           int count, int stride, int k, Real* out) {
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int t = 0;
  for (; t + 1 < tiles; t += 2) {
    s0 = hn::MulAdd(hn::Set(d, e[t]), hn::LoadU(d, rows[t] + k), s0);
    s1 = hn::MulAdd(hn::Set(d, e[t + 1]), hn::LoadU(d, rows[t + 1] + k), s1);
  }
  if (t < tiles) s0 = hn::MulAdd(hn::Set(d, e[t]), hn::LoadU(d, rows[t] + k), s0);
  int i = 0;
  for (const Real* row = values + k; i + 3 < count; i += 4, row += 4 * stride) {
    s0 = hn::MulAdd(hn::Set(d, c[i]), hn::LoadU(d, row), s0);
    s1 = hn::MulAdd(hn::Set(d, c[i + 1]), hn::LoadU(d, row + stride), s1);
    s2 = hn::MulAdd(hn::Set(d, c[i + 2]), hn::LoadU(d, row + 2 * stride), s2);
    s3 = hn::MulAdd(hn::Set(d, c[i + 3]), hn::LoadU(d, row + 3 * stride), s3);
  }
  for (; i < count; ++i) s0 = hn::MulAdd(hn::Set(d, c[i]), hn::LoadU(d, values + i * stride + k), s0);
  hn::StoreU(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), d, out);
}

template <class Real>
HWY_INLINE QuickTotal<Real> total_of(const Nodes<Real>& nodes, const QuickRead<Real>& read, Real* values) {
  const Real q = read.query;
  const Leaf<Real>* leaf = Nodes<Real>::leaf(read.node);
  const Near<Real> near = near_of(leaf, q, read.before, read.after, nodes.tau, nodes.moments);

  constexpr int kMost = QuickRead<Real>::kMost, kPad = QuickRead<Real>::kPad;
  HWY_ALIGN Real c[kLeafMost], u[kMost + kPad], e[2 * kMost + kPad];
  int tiles = read.tiles, count = 0;
  const WideLanes<Real> d;
  const int n = static_cast<int>(hn::Lanes(d));
  for (int t = 0; t < tiles; t += n) {
    const auto right = hn::Gt(hn::LoadU(d, read.sides + t), hn::Zero(d));
    const auto from = hn::IfThenElse(right, hn::Set(d, near.after), hn::Set(d, near.before));
    const auto beyond = hn::IfThenElse(right, hn::Set(d, near.beyond_after), hn::Set(d, near.beyond_before));
    const auto far = hn::Add(beyond, hn::Abs(hn::Sub(hn::LoadU(d, read.anchors + t), from)));
    const auto some = hn::FirstN(d, static_cast<std::size_t>(tiles - t));
    const auto over_tau = hn::Div(hn::IfThenElseZero(some, far), hn::Set(d, nodes.tau));
    hn::StoreU(over_tau, d, u + t);
    hn::StoreU(exp_of(d, hn::Neg(over_tau)), d, e + t);
  }
  Real z = 0;
  const Real* const* rows = read.rows;
  const Real* twice[2 * kMost];
  if (nodes.moments) {  // the second rows as they are, the first times (1 + shift + u)
    for (int t = 0; t < tiles; ++t) {
      twice[t] = rows[t];
      twice[tiles + t] = rows[t] + nodes.row;
      e[tiles + t] = e[t];
      z += e[t] * read.masses[t][nodes.mass_stride];
      e[t] = e[t] > 0 ? (1 + near.shift + u[t]) * e[t] : 0;
    }
    rows = twice;
  }
  for (int t = 0; t < tiles; ++t) z += e[t] * *read.masses[t];
  if (nodes.moments) tiles *= 2;
  const Real* of_leaf = values;  // nothing is read of it where there is no leaf
  if (leaf != nullptr) {
    z += coefficients_of(leaf, q, near, nodes.moments, c);
    count = leaf->size;
    of_leaf = leaf->values();
  }
  const int stride = nodes.value_stride;
  const auto columns = [&](auto some, int k)
                           HWY_ATTR { columns_of(some, rows, e, tiles, of_leaf, c, count, stride, k, values + k); };
  const Lanes<Real> half;
  const int m = static_cast<int>(hn::Lanes(half));
  int k = 0;
  for (; k + n <= stride; k += n) columns(d, k);
  for (; k < stride; k += m) columns(half, k);
  return {z, near.nearest};
}

// Highway dispatches functions, not templates.
#define TD_QUICK_OF(Real, suffix)                                                                               \
  void descend_##suffix(const Nodes<Real>& nodes, const Node* root, Real query, QuickRead<Real>& read) {        \
    descend_of(nodes, root, query, read);                                                                       \
  }                                                                                                             \
  void descend_rest_##suffix(const Nodes<Real>& nodes, QuickRead<Real>& read) { descend_rest_of(nodes, read); } \
  QuickTotal<Real> total_##suffix(const Nodes<Real>& nodes, const QuickRead<Real>& read, Real* values) {        \
    return total_of(nodes, read, values);                                                                       \
  }
TD_QUICK_OF(float, f32)
TD_QUICK_OF(double, f64)
#undef TD_QUICK_OF

}  // namespace tandem::replay::tree::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::replay::tree {

#define TD_QUICK_OF(Real, suffix)                                                                     \
  HWY_EXPORT(descend_##suffix);                                                                       \
  HWY_EXPORT(descend_rest_##suffix);                                                                  \
  HWY_EXPORT(total_##suffix);                                                                         \
  void quick_descend(const Nodes<Real>& nodes, const Node* root, Real query, QuickRead<Real>& read) { \
    HWY_DYNAMIC_DISPATCH(descend_##suffix)(nodes, root, query, read);                                 \
  }                                                                                                   \
  void quick_descend_rest(const Nodes<Real>& nodes, QuickRead<Real>& read) {                          \
    HWY_DYNAMIC_DISPATCH(descend_rest_##suffix)(nodes, read);                                         \
  }                                                                                                   \
  QuickTotal<Real> quick_total(const Nodes<Real>& nodes, const QuickRead<Real>& read, Real* values) { \
    return HWY_DYNAMIC_DISPATCH(total_##suffix)(nodes, read, values);                                 \
  }
TD_QUICK_OF(float, f32)
TD_QUICK_OF(double, f64)
#undef TD_QUICK_OF

}  // namespace tandem::replay::tree
#endif  // HWY_ONCE

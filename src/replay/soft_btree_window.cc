#include "replay/soft_btree_window.h"

#include <algorithm>
#include <array>

namespace tandem::replay::tree {
namespace {

// A child's row seen from its edge that is further from the query: K = (t + m) (2 - t - m), |u| = 1 - t - m.
template <class Real>
struct FarEdge {
  FarEdge(const Inner<Real>* n, int j, Real query, Real tau) {
    const Real to_lo = query - n->lo[j], to_hi = n->hi[j] - query;
    after = to_hi > to_lo;
    u = (after ? to_hi : to_lo) / tau;
    t = 1 - u;
  }
  bool after;  // it is hi
  Real u, t;
};

// The places of a leaf's entries within tau of the query.
struct Within {
  template <class Real>
  Within(const Leaf<Real>* n, Real query, Real tau) {
    for (int i = 0; i < n->size; ++i) {
      const Real u = (query - n->keys[i]) / tau;
      places[count] = i;
      count += u < 1 && u > -1;
    }
  }
  const int* begin() const { return places.data(); }
  const int* end() const { return places.data() + count; }
  int count = 0;
  std::array<int, kLeafMost> places;
};

template <class Real>
Real kernel(Real query, Real key, Real tau) {
  const Real u = (query - key) / tau;
  return (1 - u) * (1 + u);
}

}  // namespace

template <class Real>
auto Window<Real>::reach(const Inner<Real>* n, int j, Real query) const -> Reach {
  if (!nodes_.live(n, j)) return Reach::kNone;
  const Real before = (query - n->lo[j]) / nodes_.tau, after = (n->hi[j] - query) / nodes_.tau;
  if ((query - n->hi[j]) / nodes_.tau >= 1 || (n->lo[j] - query) / nodes_.tau >= 1) return Reach::kNone;
  // One that reaches from near one edge of the window to near the other has two far edges. There is one on a level.
  constexpr Real kNear = Real(0.875);
  if (std::min(before, after) > 0 && std::max(before, after) > kNear) return Reach::kPart;
  return before < 1 && after < 1 ? Reach::kAll : Reach::kPart;
}

template <class Real>
void Window<Real>::visit(const Node* node, const Except* except) {
  const int row = nodes_.row;
  Real *value = sums_.data(), *slope = value + row, *square = slope + row;
  if (node->leaf()) {
    const auto* n = Nodes<Real>::leaf(node);
    const Within some(n, query_, nodes_.tau);
    const int count = some.count;
    if (count == 0) return;
    alignas(64) Real c[3][kLeafMost];
    std::array<const Real*, kLeafMost> values;
    for (int i = 0; i < count; ++i) {
      const int at = some.places[i];
      const Real u = (query_ - n->keys[at]) / nodes_.tau;
      const bool out = except != nullptr && n->ids[at] == except->id;
      const Real w = out ? 0 : n->weights[at];
      values[i] = nodes_.value(n, at);
      c[0][i] = w * ((1 - u) * (1 + u));
      c[1][i] = w * u;
      c[2][i] = w * (u * u);
    }
    for (int part = 0; part < 3; ++part) {
      rows::add_pointed(values.data(), c[part], count, nodes_.value_stride, value + part * row);
      value[part * row + nodes_.width] += rows::sum(c[part], count);
    }
    return;
  }
  const auto* n = Nodes<Real>::inner(node);
  const int path = except != nullptr ? Nodes<Real>::child_of(n, except->key, except->id) : -1;
  for (int j = 0; j < n->size; ++j) {
    const Reach reached = reach(n, j, query_);
    if (reached == Reach::kNone) continue;
    if (reached == Reach::kPart || j == path) {
      visit(n->children[j], j == path ? except : nullptr);
      continue;
    }
    const FarEdge<Real> far(n, j, query_, nodes_.tau);
    const Real* m0 = nodes_.left(n, j);
    const Real* m1 = m0 + (far.after ? 3 : 1) * row;
    const Real* const moments[3] = {m0, m1, m1 + row};
    const Real sign = far.after ? -1 : 1;
    const Real of_value[3] = {far.t * (2 - far.t), 2 * far.u, -1};
    const Real of_slope[3] = {sign * far.u, -sign, 0};
    const Real of_square[3] = {far.u * far.u, -2 * far.u, 1};
    rows::add_pointed(moments, of_value, 3, row, value);
    rows::add_pointed(moments, of_slope, 2, row, slope);
    rows::add_pointed(moments, of_square, 3, row, square);
  }
}

template <class Real>
double Window<Real>::child_mass(const Inner<Real>* n, int j, Real query) const {
  const FarEdge<Real> far(n, j, query, nodes_.tau);
  const Real* m0 = nodes_.left(n, j) + nodes_.width;
  const Real* m1 = m0 + (far.after ? 3 : 1) * nodes_.row;
  const double t = far.t, u = far.u;
  return t * (2 - t) * double(*m0) + 2 * u * double(*m1) - double(m1[nodes_.row]);
}

template <class Real>
double Window<Real>::mass(const Node* node, Real query) const {
  double sum = 0;
  if (node->leaf()) {
    const auto* n = Nodes<Real>::leaf(node);
    for (const int i : Within(n, query, nodes_.tau))
      sum += double(n->weights[i]) * double(kernel(query, n->keys[i], nodes_.tau));
    return sum;
  }
  const auto* n = Nodes<Real>::inner(node);
  for (int j = 0; j < n->size; ++j) {
    switch (reach(n, j, query)) {
      case Reach::kNone: break;
      case Reach::kPart: sum += mass(n->children[j], query); break;
      case Reach::kAll: sum += child_mass(n, j, query); break;
    }
  }
  return sum;
}

template <class Real>
bool Window<Real>::pick(const Node* node, Real query, double& left, EntryId& id) const {
  if (node->leaf()) {
    const auto* n = Nodes<Real>::leaf(node);
    for (const int i : Within(n, query, nodes_.tau)) {
      const double m = double(n->weights[i]) * double(kernel(query, n->keys[i], nodes_.tau));
      if (!(m > 0)) continue;
      id = n->ids[i];
      if (left < m) return true;
      left -= m;
    }
    return false;
  }
  const auto* n = Nodes<Real>::inner(node);
  for (int j = 0; j < n->size; ++j) {
    const Reach reached = reach(n, j, query);
    if (reached == Reach::kNone) continue;
    if (reached == Reach::kPart) {
      if (pick(n->children[j], query, left, id)) return true;
      continue;
    }
    const double m = child_mass(n, j, query);
    if (left < m) {
      if (pick(n->children[j], query, left, id)) return true;
      left = 0;  // rounded: the next that has mass
    } else {
      left -= m;
    }
  }
  return false;
}

template <class Real>
void Nodes<Real>::summarise_window(InnerT* parent, int j) const {
  const Node* child = parent->children[j];
  Real *m0 = left(parent, j), *a1 = m0 + row, *a2 = a1 + row, *b1 = a2 + row, *b2 = b1 + row;
  std::fill_n(m0, stride, Real(0));
  if (!child->leaf()) {
    const InnerT* c = inner(child);
    const Real lo = parent->lo[j], hi = parent->hi[j];
    const bool narrow = (hi - lo) / tau <= kWindowWidth;
    for (int i = 0; i < c->size; ++i) {
      if (!live(c, i)) continue;
      const Real* of = left(c, i);
      const Real* const before[3] = {of, of + row, of + 2 * row};
      const Real* const after[3] = {of, of + 3 * row, of + 4 * row};
      const Real one[1] = {1};
      rows::add_pointed(before, one, 1, row, m0);
      if (!narrow) continue;
      const Real s = (c->lo[i] - lo) / tau, e = (hi - c->hi[i]) / tau;
      const Real s1[2] = {s, 1}, s2[3] = {s * s, 2 * s, 1}, e1[2] = {e, 1}, e2[3] = {e * e, 2 * e, 1};
      rows::add_pointed(before, s1, 2, row, a1);
      rows::add_pointed(before, s2, 3, row, a2);
      rows::add_pointed(after, e1, 2, row, b1);
      rows::add_pointed(after, e2, 3, row, b2);
    }
    return;
  }
  const LeafT* c = leaf(child);
  const Real lo = parent->lo[j], hi = parent->hi[j];
  if (lo > hi) return;  // none is live
  const bool narrow = (hi - lo) / tau <= kWindowWidth;
  const int count = c->size;
  const auto add = [&](Real* out, auto&& coefficient) {
    alignas(64) Real x[kLeafMost] = {};  // (One without weight may be far from the others.)
    for (int i = 0; i < count; ++i) x[i] = c->weights[i] > 0 ? c->weights[i] * coefficient(c->keys[i]) : 0;
    rows::add_weighted(c->values(), x, count, value_stride, out);
    out[width] = rows::sum(x, count);
  };
  add(m0, [](Real) { return Real(1); });
  if (!narrow) return;
  const auto square = [](Real x) { return x * x; };
  add(a1, [&](Real key) { return (key - lo) / tau; });
  add(a2, [&](Real key) { return square((key - lo) / tau); });
  add(b1, [&](Real key) { return (hi - key) / tau; });
  add(b2, [&](Real key) { return square((hi - key) / tau); });
}

template class Window<float>;
template class Window<double>;
template void Nodes<float>::summarise_window(InnerT*, int) const;
template void Nodes<double>::summarise_window(InnerT*, int) const;

}  // namespace tandem::replay::tree

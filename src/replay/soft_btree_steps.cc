// Steps on values that wait in inner nodes (see Inner in soft_btree_nodes.h).
//
// Seen from an edge that is d further away, profiles are T(d) times what they were: e^-d, or with moments
// [e^-d, 0; d e^-d, e^-d] of (e^-u, u e^-u). So products of a node are T G T' of its children's, a tag for a node is
// T' of it for a child; all factors are at most 1.
#include <algorithm>
#include <cmath>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {
namespace {

// T(d): e^-d and d e^-d.
template <class Real>
struct Shift {
  Shift(Real d) : e(std::exp(-d)), de(e > 0 ? d * e : 0) {}
  // (x0, x1) of profiles or of rows of products; `moments`: there is an x1.
  template <class X>
  void apply(X* x0, X* x1) const {
    if (x1 != nullptr) *x1 = de * *x0 + e * *x1;
    *x0 *= e;
  }
  void apply_transposed(Real* x0, Real* x1) const {
    *x0 = e * *x0 + (x1 != nullptr ? de * *x1 : 0);
    if (x1 != nullptr) *x1 *= e;
  }
  Real e, de;
};

}  // namespace

template <class Real>
void Nodes<Real>::start_steps(InnerT* n) const {
  const std::size_t products = kInnerMost * profiles * profiles, tags = kInnerMost * profiles * row;
  n->steps = static_cast<double*>(::operator new(products * sizeof(double) + tags * sizeof(Real), kNodeAlignment));
  n->pending = 0;
}

template <class Real>
void Nodes<Real>::move_steps(InnerT* to, int to_at, const InnerT* from, int from_at, int count) const {
  const unsigned mask = (1u << count) - 1, bits = from->pending >> from_at & mask;
  if (from->steps == nullptr) return;  // of before the first step: all sums are made again
  if (to != from || to_at < from_at) {
    std::copy_n(product(from, from_at), profiles * profiles * count, product(to, to_at));
    for (int i = 0; i < count; ++i) {
      if ((bits >> i & 1) != 0) std::copy_n(tag(from, from_at + i), profiles * row, tag(to, to_at + i));
    }
  } else if (to_at > from_at) {
    std::copy_backward(product(from, from_at), product(from, from_at + count), product(to, to_at + count));
    for (int i = count - 1; i >= 0; --i) {
      if ((bits >> i & 1) != 0) std::copy_n(tag(from, from_at + i), profiles * row, tag(to, to_at + i));
    }
  }
  to->pending = static_cast<std::uint16_t>((to->pending & ~(mask << to_at)) | bits << to_at);
}

template <class Real>
void Nodes<Real>::profile(Real key, const Waiting<Real>& edges, Real* f) const {
  const Shift<Real> a((edges.hi - key) / tau), b((key - edges.lo) / tau);
  if (moments) {
    f[0] = a.e;
    f[1] = a.de;
    f[2] = b.e;
    f[3] = b.de;
  } else {
    f[0] = a.e;
    f[1] = b.e;
  }
}

template <class Real>
void Nodes<Real>::summarise_steps(InnerT* parent, int j) const {
  const int R = profiles, half = R / 2;
  parent->pending = static_cast<std::uint16_t>(parent->pending & ~(1u << j));
  double* out = product(parent, j);
  std::fill_n(out, R * R, 0.0);
  const Node* child = parent->children[j];
  if (child->leaf()) {
    const LeafT* c = leaf(child);
    const Waiting<Real> edges = {parent->hi[j], parent->lo[j], nullptr};
    for (int i = 0; i < c->size; ++i) {
      if (c->weights[i] == 0) continue;
      Real f[kProfilesMost];
      profile(c->keys[i], edges, f);
      const double ww = double(c->weights[i]) * double(c->weights[i]);
      for (int r = 0; r < R; ++r) {
        for (int s = 0; s < R; ++s) out[r * R + s] += ww * f[r] * f[s];
      }
    }
    return;
  }
  const InnerT* c = inner(child);
  const Real hi = c->hi[c->size - 1], lo = c->lo[0];
  for (int i = 0; i < c->size; ++i) {
    if (!live(c, i)) continue;
    const Shift<Real> a((hi - c->hi[i]) / tau), b((c->lo[i] - lo) / tau);
    double g[kProfilesMost * kProfilesMost];
    std::copy_n(product(c, i), R * R, g);
    for (int s = 0; s < R; ++s) {  // rows, then columns
      a.apply(&g[s], moments ? &g[R + s] : nullptr);
      b.apply(&g[half * R + s], moments ? &g[(half + 1) * R + s] : nullptr);
    }
    for (int r = 0; r < R; ++r) {
      a.apply(&g[r * R], moments ? &g[r * R + 1] : nullptr);
      b.apply(&g[r * R + half], moments ? &g[r * R + half + 1] : nullptr);
    }
    for (int k = 0; k < R * R; ++k) out[k] += g[k];
  }
}

template <class Real>
void Nodes<Real>::add_tags(const Real* tags, const double* c, int count, Real* out) const {
  constexpr double kMost = 1e20;  // within it, a factor and what it is in f32 do the same
  double greatest = 0;
  for (int r = 0; r < count; ++r) greatest = std::max(greatest, std::abs(c[r]));
  if (greatest == 0) return;
  if (greatest < kMost && greatest > 1 / kMost) {
    Real factors[kProfilesMost];
    for (int r = 0; r < count; ++r) factors[r] = static_cast<Real>(c[r]);
    rows::add_weighted(tags, factors, count, row, out);
    return;
  }
  for (int k = 0; k < width; ++k) {
    double sum = out[k];
    for (int r = 0; r < count; ++r) sum += c[r] * double(tags[r * row + k]);
    out[k] = static_cast<Real>(sum);
  }
}

template <class Real>
void Nodes<Real>::step(InnerT* n, int j, const Real* tags) const {
  const double* g = product(n, j);
  const int half = profiles / 2;
  for (int r = 0; r < profiles; ++r) {
    Real* out = (r < half ? left(n, j) : right(n, j)) + r % half * row;
    add_tags(tags, g + r * profiles, profiles, out);
  }
  Real* own = tag(n, j);
  if (!waits(n, j)) {
    std::copy_n(tags, profiles * row, own);
    n->pending = static_cast<std::uint16_t>(n->pending | 1u << j);
    return;
  }
  for (int k = 0; k < profiles * row; ++k) own[k] += tags[k];
}

template <class Real>
bool Nodes<Real>::carry(const InnerT* n, int j, const Waiting<Real>& above, Real* tags) const {
  const bool own = waits(n, j);
  if (!live(n, j) || (!own && above.tags == nullptr)) return false;
  if (above.tags == nullptr) {
    std::copy_n(tag(n, j), profiles * row, tags);
    return true;
  }
  const Shift<Real> a((above.hi - n->hi[j]) / tau), b((n->lo[j] - above.lo) / tau);
  std::copy_n(above.tags, profiles * row, tags);
  const int half = profiles / 2;
  for (int k = 0; k < width; ++k) {
    a.apply_transposed(tags + k, moments ? tags + row + k : nullptr);
    b.apply_transposed(tags + half * row + k, moments ? tags + (half + 1) * row + k : nullptr);
  }
  if (own) {
    for (int k = 0; k < profiles * row; ++k) tags[k] += tag(n, j)[k];
  }
  return true;
}

template <class Real>
void Nodes<Real>::step_values(const LeafT* n, const Waiting<Real>& waiting, Real* values) const {
  for (int i = 0; i < n->size; ++i) step_value(n, i, waiting, values + i * value_stride);
}

template <class Real>
void Nodes<Real>::step_value(const LeafT* n, int i, const Waiting<Real>& waiting, Real* value) const {
  if (n->weights[i] == 0) return;
  const Real* from[kProfilesMost];
  Real f[kProfilesMost];
  profile(n->keys[i], waiting, f);
  for (int r = 0; r < profiles; ++r) {
    from[r] = waiting.tags + r * row;
    f[r] *= n->weights[i];
  }
  rows::add_pointed(from, f, profiles, value_stride, value);
}

template <class Real>
const Real* Nodes<Real>::value_with_steps(const Node* root, Real key, EntryId id, std::vector<Real>& scratch) const {
  const std::size_t tags_size = static_cast<std::size_t>(profiles * row);
  std::vector<Real> above(stepping ? tags_size : 0), below(above);
  Waiting<Real> waiting = {0, 0, nullptr};
  while (!root->leaf()) {
    const InnerT* n = inner(root);
    const int j = child_of(n, key, id);
    if (carry(n, j, waiting, below.data())) {
      above.swap(below);
      waiting = {n->hi[j], n->lo[j], above.data()};
    } else {
      waiting.tags = nullptr;
    }
    root = n->children[j];
  }
  const LeafT* n = leaf(root);
  const int at = place_of(n, id);
  if (waiting.tags == nullptr) return value(n, at);
  scratch.assign(value(n, at), value(n, at) + value_stride);
  step_value(n, at, waiting, scratch.data());
  return scratch.data();
}

template <class Real>
void Nodes<Real>::push(InnerT* n, int j) const {
  if (!waits(n, j)) return;
  n->pending = static_cast<std::uint16_t>(n->pending & ~(1u << j));
  const Waiting<Real> waiting = {n->hi[j], n->lo[j], tag(n, j)};
  if (n->children[j]->leaf()) {
    LeafT* child = leaf(n->children[j]);
    step_values(child, waiting, child->values());
    return;
  }
  InnerT* child = inner(n->children[j]);
  std::vector<Real> tags(static_cast<std::size_t>(profiles * row));
  const int half = profiles / 2;
  for (int c = 0; c < child->size; ++c) {
    if (!live(child, c)) continue;
    const Shift<Real> a((waiting.hi - child->hi[c]) / tau), b((child->lo[c] - waiting.lo) / tau);
    if (a.e == 0 && b.e == 0) continue;
    std::copy_n(waiting.tags, profiles * row, tags.data());
    for (int k = 0; k < width; ++k) {
      a.apply_transposed(&tags[k], moments ? &tags[row + k] : nullptr);
      b.apply_transposed(&tags[half * row + k], moments ? &tags[(half + 1) * row + k] : nullptr);
    }
    step(child, c, tags.data());
  }
  refresh(child);
}

template <class Real>
void Nodes<Real>::add_waiting(const InnerT* n, int from, int to, bool right_row, Real anchor,
                              const Waiting<Real>& waiting, double* coefficients) const {
  const int R = profiles, half = R / 2, first = right_row ? half : 0;
  for (int c = from; c < to; ++c) {
    if (!live(n, c)) continue;
    const Shift<Real> own(std::abs(anchor - (right_row ? n->lo[c] : n->hi[c])) / tau);
    const Shift<Real> a((waiting.hi - n->hi[c]) / tau), b((n->lo[c] - waiting.lo) / tau);
    double g[2 * kProfilesMost];
    std::copy_n(product(n, c) + first * R, half * R, g);
    for (int s = 0; s < R; ++s) own.apply(&g[s], moments ? &g[R + s] : nullptr);
    for (int r = 0; r < half; ++r) {
      a.apply(&g[r * R], moments ? &g[r * R + 1] : nullptr);
      b.apply(&g[r * R + half], moments ? &g[r * R + half + 1] : nullptr);
    }
    for (int k = 0; k < half * R; ++k) coefficients[k] += g[k];
  }
}

template <class Real>
void Nodes<Real>::settle(Node*& root, Real key, EntryId id) const {
  unshare(root);
  for (Node* node = root; !node->leaf();) {
    InnerT* n = inner(node);
    const int j = child_of(n, key, id);
    unshare(n->children[j]);
    push(n, j);
    node = n->children[j];
  }
}

template <class Real>
void Nodes<Real>::settle_all(Node*& root) const {
  if (root->leaf()) return;
  unshare(root);
  InnerT* n = inner(root);
  for (int j = 0; j < n->size; ++j) {
    if (waits(n, j)) {
      unshare(n->children[j]);
      push(n, j);
    }
    settle_all(n->children[j]);
  }
}

template class Nodes<float>;
template class Nodes<double>;

}  // namespace tandem::replay::tree

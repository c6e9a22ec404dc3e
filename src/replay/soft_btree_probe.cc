#include "replay/soft_btree_probe.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem::replay::tree {

template <class Real>
void Probe<Real>::clear(Real q) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  left.clear();
  right.clear();
  ties.clear();
  leaves.clear();
  query = q;
  before = -kInfinity;
  after = kInfinity;
  has_before = has_after = has_tie = false;
}

template <class Real>
void Probe<Real>::locate(const Nodes<Real>& nodes, const Node* root, Real q) {
  clear(q);
  visit(nodes, root);
  measure();
}

template <class Real>
void Probe<Real>::locate_without(const Nodes<Real>& nodes, const Node* root, Real q, Real key, EntryId id) {
  clear(q);
  visit_without(nodes, root, key, id);
  measure();
}

template <class Real>
void Probe<Real>::meet_before(Real key) {
  before = std::max(before, key);
  has_before = true;
}

template <class Real>
void Probe<Real>::meet_after(Real key) {
  after = std::min(after, key);
  has_after = true;
}

template <class Real>
void Probe<Real>::visit(const Nodes<Real>& nodes, const Node* node) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const Real q = query;
  while (!node->leaf()) {
    const auto* n = Nodes<Real>::inner(node);
    int j = 0;
    for (int c = 0; c < n->size; ++c) j += n->hi[c] < q;
    int r = j;
    while (r < n->size && n->lo[r] <= q) ++r;
    if (j > 0 && n->hi[j - 1] > -kInfinity) {
      left.push_back({nodes.left_to(n, j - 1), n->hi[j - 1], n, j - 1, false});
      meet_before(n->hi[j - 1]);
    }
    if (r < n->size && n->lo[r] < kInfinity) {
      right.push_back({nodes.right_from(n, r), n->lo[r], n, r, false});
      meet_after(n->lo[r]);
    }
    if (r == j) return;  // q lies between two children
    // Usually one child; several when a run of keys equal to q spans them.
    for (int c = j; c + 1 < r; ++c) {
      if (!nodes.live(n, c)) continue;
      if (n->lo[c] == q && n->hi[c] == q) {
        ties.push_back({nodes.left(n, c), q, n, c, true});
        has_tie = true;
      } else {
        visit(nodes, n->children[c]);
      }
    }
    node = n->children[r - 1];
    if (!nodes.live(n, r - 1)) return;
  }
  meet_leaf(Nodes<Real>::leaf(node), -1);
}

template <class Real>
void Probe<Real>::visit_without(const Nodes<Real>& nodes, const Node* node, Real key, EntryId id) {
  const Real q = query;
  while (!node->leaf()) {
    const auto* n = Nodes<Real>::inner(node);
    const int path = Nodes<Real>::child_of(n, key, id);
    for (int c = 0; c < n->size; ++c) {
      if (c == path || !nodes.live(n, c)) continue;
      if (n->hi[c] < q) {
        left.push_back({nodes.left(n, c), n->hi[c], n, c, true});
        meet_before(n->hi[c]);
      } else if (n->lo[c] > q) {
        right.push_back({nodes.right(n, c), n->lo[c], n, c, true});
        meet_after(n->lo[c]);
      } else {
        visit(nodes, n->children[c]);
      }
    }
    node = n->children[path];
  }
  const auto* leaf = Nodes<Real>::leaf(node);
  meet_leaf(leaf, Nodes<Real>::place_of(leaf, key, id));
}

template <class Real>
void Probe<Real>::meet_leaf(const Leaf<Real>* leaf, int except) {
  int at = 0;
  for (int i = 0; i < leaf->size; ++i) at += leaf->keys[i] < query;
  int after_at = at;
  while (after_at < leaf->size && leaf->keys[after_at] == query) ++after_at;
  const auto counts = [leaf, except](int i) { return leaf->weights[i] > 0 && i != except; };
  for (int i = at - 1; i >= 0; --i) {
    if (counts(i)) {
      meet_before(leaf->keys[i]);
      break;
    }
  }
  for (int i = at; i < after_at; ++i) has_tie |= counts(i);
  for (int i = after_at; i < leaf->size; ++i) {
    if (counts(i)) {
      meet_after(leaf->keys[i]);
      break;
    }
  }
  leaves.push_back({leaf, at, after_at, except});
}

template <class Real>
void Probe<Real>::measure() {
  const Real to_before = query - before, to_after = after - query;  // infinity where there is none
  nearest = has_tie ? 0 : std::min(to_before, to_after);
  beyond_before = to_before == nearest ? 0 : to_before - nearest;
  beyond_after = to_after == nearest ? 0 : to_after - nearest;
}

template <class Real>
Gather<Real>::Gather(const Nodes<Real>& nodes) : nodes_(nodes), sums_(6 * nodes.row) {}

template <class Real>
void Gather<Real>::add_total(const Probe<Real>& probe) {
  std::fill_n(sums_.data(), nodes_.row, Real(0));
  for (const Side side : {kBefore, kAfter, kTie}) add_side(probe, side, {sums_.data(), nullptr});
}

template <class Real>
void Gather<Real>::add_sides(const Probe<Real>& probe) {
  std::fill(sums_.begin(), sums_.end(), Real(0));
  for (const Side side : {kBefore, kAfter, kTie}) {
    add_side(probe, side, {sums_.data() + side * nodes_.row, sums_.data() + (3 + side) * nodes_.row});
  }
}

template <class Real>
void Gather<Real>::add_side(const Probe<Real>& probe, Side side, Into into) {
  const Real tau = nodes_.tau, shift = nodes_.moments ? probe.nearest / tau : 0;
  const Real near = side == kBefore ? probe.before : side == kAfter ? probe.after : probe.query;
  const Real beyond = side == kBefore ? probe.beyond_before : side == kAfter ? probe.beyond_after : 0;
  const auto& tiles = side == kBefore ? probe.left : side == kAfter ? probe.right : probe.ties;
  if ((side == kBefore && !probe.has_before) || (side == kAfter && !probe.has_after) ||
      (side == kTie && !probe.has_tie)) {
    return;
  }
  if (!tiles.empty()) {
    rows_.clear();
    u_.resize(rows::lanes<Real>(static_cast<int>(tiles.size())));
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      rows_.push_back(tiles[t].row);
      u_[t] = (beyond + std::abs(near - tiles[t].anchor)) / tau;
    }
    add_tiles(shift, into);
  }
  for (const LeafPart<Real>& part : probe.leaves) {
    const int from = side == kBefore ? 0 : side == kTie ? part.at : part.after;
    const int to = side == kBefore ? part.at : side == kTie ? part.after : part.leaf->size;
    if (from < to) add_leaf(part, from, to, near, beyond, shift, into);
  }
}

template <class Real>
void Gather<Real>::add_tiles(Real shift, Into into) {
  const int count = static_cast<int>(rows_.size());
  e_.resize(u_.size());
  rows::exp_negative(u_.data(), e_.data(), count);
  if (!nodes_.moments) {
    rows::add_pointed(rows_.data(), e_.data(), count, nodes_.row, into.out0);
    return;
  }
  c_.resize(u_.size());
  for (int t = 0; t < count; ++t) {
    const Real factor = into.out1 != nullptr ? u_[t] : 1 + shift + u_[t];
    c_[t] = e_[t] > 0 ? e_[t] * factor : 0;
  }
  if (into.out1 != nullptr) {
    rows::add_pointed(rows_.data(), e_.data(), count, nodes_.row, into.out0);
    rows::add_pointed(rows_.data(), c_.data(), count, nodes_.row, into.out1);
  } else {
    rows::add_pointed(rows_.data(), c_.data(), count, nodes_.row, into.out0);
  }
  for (const Real*& row : rows_) row += nodes_.row;
  rows::add_pointed(rows_.data(), e_.data(), count, nodes_.row, into.out1 != nullptr ? into.out1 : into.out0);
}

template <class Real>
void Gather<Real>::add_leaf(const LeafPart<Real>& part, int from, int to, Real near, Real beyond, Real shift,
                            Into into) {
  alignas(64) Real u[kLeafMost] = {}, c[kLeafMost];
  const int count = to - from;
  const Real* keys = part.leaf->keys + from;
  const Real* weights = part.leaf->weights + from;
  const Real sign = from == 0 && to == part.at ? Real(1) : Real(-1);
  // Entries of weight 0 may be nearer than `near`: their distance is of no account.
  for (int i = 0; i < count; ++i) u[i] = (beyond + std::max(Real(0), sign * (near - keys[i]))) / nodes_.tau;
  rows::exp_negative(u, c, count);
  for (int i = 0; i < count; ++i) c[i] *= weights[i];
  if (part.except >= from && part.except < to) c[part.except - from] = 0;
  const auto add = [&](Real* out) {
    rows::add_weighted(nodes_.value(part.leaf, from), c, count, nodes_.value_stride, out);
    Real sum = 0;
    for (int i = 0; i < count; ++i) sum += c[i];
    out[nodes_.width] += sum;
  };
  if (!nodes_.moments) {
    add(into.out0);
    return;
  }
  if (into.out1 != nullptr) add(into.out0);
  for (int i = 0; i < count; ++i) {
    const Real factor = into.out1 != nullptr ? u[i] : 1 + shift + u[i];
    c[i] = c[i] > 0 ? c[i] * factor : 0;
  }
  add(into.out1 != nullptr ? into.out1 : into.out0);
}

template struct Probe<float>;
template struct Probe<double>;
template class Gather<float>;
template class Gather<double>;

}  // namespace tandem::replay::tree

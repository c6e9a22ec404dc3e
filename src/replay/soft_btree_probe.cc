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
  edges.clear();
  tags.clear();
  query = q;
  before = -kInfinity;
  after = kInfinity;
  has_before = has_after = has_tie = false;
}

template <class Real>
void Probe<Real>::descend(const Nodes<Real>& nodes, const Node* root, Real q, bool with_values) {
  clear(q);
  values = with_values;
  rest = nullptr;
  visit(nodes, root, -1, true);
}

template <class Real>
void Probe<Real>::descend_rest(const Nodes<Real>& nodes) {
  if (rest != nullptr) visit(nodes, rest, rest_waiting);
}

template <class Real>
void Probe<Real>::arrive() {
  for (const auto& part : leaves) meet_leaf(part);
  measure();
}

template <class Real>
void Probe<Real>::locate_without(const Nodes<Real>& nodes, const Node* root, Real q, Real key, EntryId id) {
  clear(q);
  visit_without(nodes, root, key, id);
  arrive();
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

// What waits for a child, where `waiting` does for `n`.
template <class Real>
int Probe<Real>::carry(const Nodes<Real>& nodes, const Inner<Real>* n, int child, int waiting) {
  if (waiting < 0 && !nodes.waits(n, child)) return -1;
  const std::size_t size = static_cast<std::size_t>(nodes.profiles * nodes.row), begin = tags.size();
  tags.resize(begin + size);
  const Waiting<Real> above = waiting < 0 ? Waiting<Real>{0, 0, nullptr} : this->waiting(nodes, waiting);
  if (!nodes.carry(n, child, above, tags.data() + begin)) {
    tags.resize(begin);
    return -1;
  }
  edges.push_back({n->hi[child], n->lo[child]});
  return static_cast<int>(edges.size()) - 1;
}

template <class Real>
void Probe<Real>::visit(const Nodes<Real>& nodes, const Node* node, int waiting, bool stop) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const Real q = query;
  while (!node->leaf()) {
    const auto* n = Nodes<Real>::inner(node);
    int j = 0;
    for (int c = 0; c < n->size; ++c) j += n->hi[c] < q;
    int r = j;
    while (r < n->size && n->lo[r] <= q) ++r;
    if (j > 0 && n->hi[j - 1] > -kInfinity) {
      left.push_back({nodes.left_to(n, j - 1), nodes.left_to_mass(n, j - 1), n->hi[j - 1], n, j - 1, false, waiting});
      prefetch(nodes, left.back());
      meet_before(n->hi[j - 1]);
    }
    if (r < n->size && n->lo[r] < kInfinity) {
      right.push_back({nodes.right_from(n, r), nodes.right_from_mass(n, r), n->lo[r], n, r, false, waiting});
      prefetch(nodes, right.back());
      meet_after(n->lo[r]);
    }
    if (r == j) return;  // q lies between two children
    // Usually one child; several when a run of keys equal to q spans them. (One without live keys adds nothing.)
    for (int c = j; c + 1 < r; ++c) {
      if (n->lo[c] == q && n->hi[c] == q) {
        ties.push_back({nodes.left(n, c), nodes.left_mass(n, c), q, n, c, true, waiting});
        has_tie = true;
      } else {
        visit(nodes, n->children[c], carry(nodes, n, c, waiting));
      }
    }
    waiting = carry(nodes, n, r - 1, waiting);
    node = n->children[r - 1];
    if (n->level == 1) nodes.prefetch_leaf(node, values);
    if (n->level == 2 && stop) {
      nodes.prefetch_bytes(node, sizeof(Inner<Real>));
      rest = node;
      rest_waiting = waiting;
      return;
    }
  }
  leaves.push_back({Nodes<Real>::leaf(node), -1, waiting});
}

template <class Real>
void Probe<Real>::visit_without(const Nodes<Real>& nodes, const Node* node, Real key, EntryId id) {
  const Real q = query;
  int waiting = -1;
  while (!node->leaf()) {
    const auto* n = Nodes<Real>::inner(node);
    const int path = Nodes<Real>::child_of(n, key, id);
    for (int c = 0; c < n->size; ++c) {
      if (c == path || !nodes.live(n, c)) continue;
      if (n->hi[c] < q) {
        left.push_back({nodes.left(n, c), nodes.left_mass(n, c), n->hi[c], n, c, true, waiting});
        meet_before(n->hi[c]);
      } else if (n->lo[c] > q) {
        right.push_back({nodes.right(n, c), nodes.right_mass(n, c), n->lo[c], n, c, true, waiting});
        meet_after(n->lo[c]);
      } else {
        visit(nodes, n->children[c], carry(nodes, n, c, waiting));
      }
    }
    waiting = carry(nodes, n, path, waiting);
    node = n->children[path];
  }
  const auto* leaf = Nodes<Real>::leaf(node);
  leaves.push_back({leaf, Nodes<Real>::place_of(leaf, id), waiting});
}

template <class Real>
void Probe<Real>::meet_leaf(const LeafPart<Real>& part) {
  const Leaf<Real>* leaf = part.leaf;
  alignas(64) Real others[kLeafMost];  // the weights, without it
  const Real* weights = leaf->weights;
  if (part.except >= 0) {
    std::copy_n(leaf->weights, kLeafMost, others);
    others[part.except] = 0;
    weights = others;
  }
  const rows::Beside<Real> beside = rows::beside(leaf->keys, weights, query);
  if (std::isfinite(beside.before)) meet_before(beside.before);
  if (std::isfinite(beside.after)) meet_after(beside.after);
  has_tie |= beside.tie;
}

template <class Real>
void Probe<Real>::measure() {
  const Real to_before = query - before, to_after = after - query;  // infinity where there is none
  nearest = has_tie ? 0 : std::min(to_before, to_after);
  beyond_before = to_before == nearest ? 0 : to_before - nearest;
  beyond_after = to_after == nearest ? 0 : to_after - nearest;
}

template <class Real>
Gather<Real>::Gather(const Nodes<Real>& nodes)
    : nodes_(nodes),
      row_(rows::lanes<Real>(nodes.width + 1)),
      far_sums_(static_cast<std::size_t>(6 * row_) > near_sums_.size() ? 6 * row_ : 0),
      sums_(far_sums_.empty() ? near_sums_.data() : far_sums_.data(), static_cast<std::size_t>(6 * row_)) {}

template <class Real>
void Gather<Real>::add_total(const Probe<Real>& probe) {
  std::fill_n(sums_.data(), row_, Real(0));
  shift_ = nodes_.moments ? probe.nearest / nodes_.tau : 0;
  const Into into = {sums_.data(), nullptr};
  for (const Side side : {kBefore, kTie, kAfter}) put(probe, side, into);
  flush(into);
  add_leaves(probe, kBefore, kAfter, into);
}

template <class Real>
void Gather<Real>::add_sides(const Probe<Real>& probe) {
  std::fill(sums_.begin(), sums_.end(), Real(0));
  shift_ = nodes_.moments ? probe.nearest / nodes_.tau : 0;
  for (const Side side : {kBefore, kTie, kAfter}) {
    const Into into = {sums_.data() + side * row_, sums_.data() + (3 + side) * row_};
    put(probe, side, into);
    flush(into);
    add_leaves(probe, side, side, into);
  }
}

template <class Real>
void Gather<Real>::put(const Probe<Real>& probe, Side side, Into into) {
  const Real near = side == kBefore ? probe.before : side == kAfter ? probe.after : probe.query;
  const Real beyond = side == kBefore ? probe.beyond_before : side == kAfter ? probe.beyond_after : 0;
  for (const auto& tile : side == kBefore ? probe.left : side == kAfter ? probe.right : probe.ties) {
    if (tiles_ == kTiles) flush(into);
    rows_[tiles_] = tile.row;
    masses_[tiles_] = tile.mass;
    const Real u = u_[tiles_++] = (beyond + std::abs(near - tile.anchor)) / nodes_.tau;
    if (tile.waiting >= 0) put_waiting(probe, tile, side == kAfter, u, into);
  }
}

// A tile lacks what waits above it: the same factors as its rows have, times what the rows would change by.
template <class Real>
void Gather<Real>::put_waiting(const Probe<Real>& probe, const Tile<Real>& tile, bool right, Real u, Into into) {
  const Waiting<Real> waiting = probe.waiting(nodes_, tile.waiting);
  const int from = tile.only || right ? tile.child : 0, to = tile.only || !right ? tile.child + 1 : tile.node->size;
  const int count = nodes_.profiles;
  double changes[2 * kProfilesMost] = {};
  nodes_.add_waiting(tile.node, from, to, right, tile.anchor, waiting, changes);
  const Real e = std::exp(-u);
  if (e == 0) return;
  double c0[kProfilesMost], c1[kProfilesMost];
  for (int r = 0; r < count; ++r) {
    c0[r] = e * changes[r];
    if (nodes_.moments) c1[r] = e * changes[count + r];
  }
  if (nodes_.moments && into.out1 == nullptr) {
    for (int r = 0; r < count; ++r) c0[r] = (1 + shift_ + u) * c0[r] + c1[r];
  } else if (nodes_.moments) {
    for (int r = 0; r < count; ++r) c1[r] += u * c0[r];
    nodes_.add_tags(waiting.tags, c1, count, into.out1);
  }
  nodes_.add_tags(waiting.tags, c0, count, into.out0);
}

template <class Real>
void Gather<Real>::flush(Into into) {
  const int count = tiles_;
  tiles_ = 0;
  if (count == 0) return;
  rows::exp_negative(u_.data(), e_.data(), count);
  // Rows, and masses, `part` of them. (In a sum masses are behind the values.)
  const auto add = [&](const std::array<Real, kTiles>& c, int part, Real* out) {
    if (part == 1) {
      for (int t = 0; t < count; ++t) rows_[t] += nodes_.row;
    }
    rows::add_pointed(rows_.data(), c.data(), count, nodes_.row, out);
    if (nodes_.mass_in_row) return;
    for (int t = 0; t < count; ++t) out[nodes_.width] += c[t] * masses_[t][part * nodes_.mass_stride];
  };
  if (!nodes_.moments) {
    add(e_, 0, into.out0);
    return;
  }
  const bool whole = into.out1 == nullptr;
  for (int t = 0; t < count; ++t) c_[t] = e_[t] > 0 ? e_[t] * (whole ? 1 + shift_ + u_[t] : u_[t]) : 0;
  if (!whole) add(e_, 0, into.out0);
  add(c_, 0, whole ? into.out0 : into.out1);
  add(e_, 1, whole ? into.out0 : into.out1);
}

template <class Real>
void Gather<Real>::add_leaves(const Probe<Real>& probe, Side first, Side last, Into into) {
  for (const LeafPart<Real>& part : probe.leaves) {
    const Leaf<Real>* leaf = part.leaf;
    alignas(64) Real all[kLeafMost], u[kLeafMost] = {}, c[kLeafMost];
    std::array<const Real*, kLeafMost> values;
    std::array<int, kLeafMost> places;
    const Real query = probe.query;
    rows::far(rows::Far<Real>{query, probe.before, probe.after, probe.beyond_before, probe.beyond_after, nodes_.tau},
              leaf->keys, all);
    int count = 0;
    for (int i = 0; i < leaf->size; ++i) {
      const int side = (leaf->keys[i] >= query) + (leaf->keys[i] > query);
      u[count] = all[i];
      values[count] = nodes_.value(leaf, i);
      places[count] = i;
      count += static_cast<int>(side >= first) & static_cast<int>(side <= last) & static_cast<int>(i != part.except);
    }
    if (count == 0) continue;
    rows::exp_negative(u, c, count);
    for (int i = 0; i < count; ++i) c[i] *= leaf->weights[places[i]];
    const auto add = [&](Real* out) {
      rows::add_pointed(values.data(), c, count, nodes_.value_stride, out);
      out[nodes_.width] += rows::sum(c, count);
      if (part.waiting < 0) return;
      const Waiting<Real> waiting = probe.waiting(nodes_, part.waiting);
      double along[kProfilesMost] = {};
      for (int i = 0; i < count; ++i) {
        if (c[i] == 0) continue;
        Real f[kProfilesMost] = {};  // (Of all there may be: sums stay in registers.)
        nodes_.profile(leaf->keys[places[i]], waiting, f);
        const double weight = double(c[i]) * leaf->weights[places[i]];
        for (int r = 0; r < kProfilesMost; ++r) along[r] += weight * f[r];
      }
      nodes_.add_tags(waiting.tags, along, nodes_.profiles, out);
    };
    if (nodes_.moments) {
      const bool whole = into.out1 == nullptr;
      if (!whole) add(into.out0);
      for (int i = 0; i < count; ++i) {
        const bool tie = leaf->keys[places[i]] == query;
        c[i] = tie && whole ? c[i] : c[i] > 0 ? c[i] * (whole ? 1 + shift_ + u[i] : u[i]) : 0;
      }
      add(whole ? into.out0 : into.out1);
    } else {
      add(into.out0);
    }
  }
}

template struct Probe<float>;
template struct Probe<double>;
template class Gather<float>;
template class Gather<double>;

}  // namespace tandem::replay::tree

// What a query meets: the sums that stand for the entries before it, at it and after it, and the nearest live keys.
//
// Found on the way down (locate), before anything is added up: the distance to the nearest entry must be known first,
// so that all exponents are at most 0 and the largest is 0.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {

// A short list that lies where its owner does; only a long one is on the heap.
template <class T, std::size_t kNear>
class ShortList {
 public:
  ShortList() = default;
  ShortList(const ShortList&) = delete;
  ShortList& operator=(const ShortList&) = delete;

  void clear() { size_ = 0; }
  void push_back(const T& x) {
    if (size_ == capacity_) grow();
    data_[size_++] = x;
  }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  const T& back() const { return data_[size_ - 1]; }

 private:
  void grow() {
    std::vector<T> more(2 * capacity_);
    std::copy_n(data_, size_, more.data());
    far_ = std::move(more);
    data_ = far_.data();
    capacity_ = far_.size();
  }
  T near_[kNear];  // not initialised: T has no constructor
  std::vector<T> far_;
  T* data_ = near_;
  std::size_t size_ = 0, capacity_ = kNear;
};

template <class Real>
struct Tile {
  const Real *row, *mass;  // L or R of its entries
  Real anchor;             // the key that the row is seen from: the entries' last (L) or first (R)
  const Inner<Real>* node;
  int child;  // the row is of the children up to, or from, this one; or only of it
  bool only;
  int waiting;  // which of the probe's tags wait for the node; -1: none do
};

template <class Real>
struct LeafPart {
  const Leaf<Real>* leaf;
  int except;  // a place left out, or -1
  int waiting;
};

template <class Real>
struct Probe {
  ShortList<Tile<Real>, 8> left, right, ties;
  ShortList<LeafPart<Real>, 2> leaves;
  Real query, before, after;  // nearest live keys on either side
  bool has_before, has_after, has_tie;

  // Distances over tau beyond `nearest` (the distance to the nearest live entry) of `before` and `after`.
  Real nearest, beyond_before, beyond_after;
  bool found() const { return has_before || has_after || has_tie; }
  // `nearest` before it was rounded, for what compares it with other distances in double: no exponent is above 0.
  double distance() const {
    if (has_tie) return 0;
    const double to_before = static_cast<double>(query) - static_cast<double>(before);
    const double to_after = static_cast<double>(after) - static_cast<double>(query);
    return !has_after ? to_before : !has_before ? to_after : std::min(to_before, to_after);
  }

  // What waits for a node on the way (a tile's or a part's `waiting`, not -1).
  Waiting<Real> waiting(const Nodes<Real>& nodes, int index) const {
    const Edges& of = edges[index];
    return {of.hi, of.lo, tags.data() + index * nodes.profiles * nodes.row};
  }

  // Walks down from `root`, and knows the distances afterwards.
  void locate(const Nodes<Real>& nodes, const Node* root, Real q) {
    descend(nodes, root, q);
    descend_rest(nodes);
    arrive();
  }
  // Its steps: down to the node above the leaves; down to the leaves; into them. Each asks for what the next looks at,
  // which comes from memory while other queries take theirs. `values`: those of the leaves, and whole rows, will be
  // wanted, and not only masses.
  void descend(const Nodes<Real>& nodes, const Node* root, Real q, bool values = true);
  void descend_rest(const Nodes<Real>& nodes);
  void arrive();
  // The same with one entry left out.
  void locate_without(const Nodes<Real>& nodes, const Node* root, Real q, Real key, EntryId id);

 private:
  void clear(Real q);
  struct Edges {
    Real hi, lo;
  };
  void visit(const Nodes<Real>& nodes, const Node* node, int waiting, bool stop = false);
  void visit_without(const Nodes<Real>& nodes, const Node* node, Real key, EntryId id);
  int carry(const Nodes<Real>& nodes, const Inner<Real>* n, int child, int waiting);
  [[gnu::always_inline]] void prefetch(const Nodes<Real>& nodes, const Tile<Real>& tile) const {
    nodes.prefetch_mass(tile.mass);
    if (values) nodes.prefetch_row(tile.row);
  }
  void meet_leaf(const LeafPart<Real>& part);
  void meet_before(Real key);
  void meet_after(Real key);
  void measure();

  const Node* rest;  // where descend() stopped, or null
  int rest_waiting;
  bool values = true;
  std::vector<Edges> edges;  // of the nodes that something waits for
  std::vector<Real> tags;    // [edges, profiles, row]
};

// Sums of what a probe met. With d_i = (|q - k_i| - nearest) / tau and x_i = w_i [v_i ; 1]:
template <class Real>
class Gather {
 public:
  explicit Gather(const Nodes<Real>& nodes);
  Gather(const Gather&) = delete;
  Gather& operator=(const Gather&) = delete;

  // sum w_i K_i [v_i ; 1] over all entries, up to the factor e^{-nearest/tau}; total()[width] is the normaliser Z.
  void add_total(const Probe<Real>& probe);
  const Real* total() const { return sums_.data(); }

  // x0 = sum e^-d_i x_i and (with moments) x1 = sum d_i e^-d_i x_i, of each side; of the tie x0 only.
  enum Side { kBefore, kTie, kAfter };
  void add_sides(const Probe<Real>& probe);
  const Real* x0(Side side) const { return sums_.data() + side * row_; }
  const Real* x1(Side side) const { return sums_.data() + (3 + side) * row_; }

 private:
  struct Into {
    Real* out0;
    Real* out1;  // null: all goes to out0, times K
  };
  void put(const Probe<Real>& probe, Side side, Into into);  // tiles; those before may be flushed
  void put_waiting(const Probe<Real>& probe, const Tile<Real>& tile, bool right, Real u, Into into);
  void flush(Into into);
  void add_leaves(const Probe<Real>& probe, Side first, Side last, Into into);

  static constexpr int kTiles = 32;
  const Nodes<Real>& nodes_;
  const int row_;   // of the sums here: values, then the mass
  Real shift_ = 0;  // nearest / tau, with moments
  int tiles_ = 0;
  std::array<const Real*, kTiles> rows_, masses_;
  std::array<Real, kTiles> u_ = {}, e_, c_;
  std::array<Real, 256> near_sums_;
  std::vector<Real> far_sums_;
  const std::span<Real> sums_;  // 6 rows, in one of the two
};

}  // namespace tandem::replay::tree

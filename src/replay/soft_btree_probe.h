// What a query meets: the sums that stand for the entries before it, at it and after it, and the nearest live keys.
//
// Found on the way down (locate), before anything is added up: the distance to the nearest entry must be known first,
// so that all exponents are at most 0 and the largest is 0.
#pragma once

#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {

template <class Real>
struct Tile {
  const Real* row;  // L or R of its entries
  Real anchor;      // the key that the row is seen from: the entries' last (L) or first (R)
  const Inner<Real>* node;
  int child;  // the row is of the children up to, or from, this one; or only of it
  bool only;
};

// A leaf's entries: those before the query, at it, after it: [0, at), [at, after), [after, size).
template <class Real>
struct LeafPart {
  const Leaf<Real>* leaf;
  int at, after;
  int except;  // a place left out, or -1
};

template <class Real>
struct Probe {
  std::vector<Tile<Real>> left, right, ties;
  std::vector<LeafPart<Real>> leaves;
  Real query, before, after;  // nearest live keys on either side
  bool has_before, has_after, has_tie;

  // Distances over tau beyond `nearest` (the distance to the nearest live entry) of `before` and `after`.
  Real nearest, beyond_before, beyond_after;
  bool found() const { return has_before || has_after || has_tie; }

  // Clears, walks down from `root`, and knows the distances afterwards.
  void locate(const Nodes<Real>& nodes, const Node* root, Real q);
  // The same with one entry left out.
  void locate_without(const Nodes<Real>& nodes, const Node* root, Real q, Real key, EntryId id);

 private:
  void clear(Real q);
  void visit(const Nodes<Real>& nodes, const Node* node);
  void visit_without(const Nodes<Real>& nodes, const Node* node, Real key, EntryId id);
  void meet_leaf(const Leaf<Real>* leaf, int except);
  void meet_before(Real key);
  void meet_after(Real key);
  void measure();
};

// Sums of what a probe met. With d_i = (|q - k_i| - nearest) / tau and x_i = w_i [v_i ; 1]:
template <class Real>
class Gather {
 public:
  explicit Gather(const Nodes<Real>& nodes);

  // sum w_i K_i [v_i ; 1] over all entries, up to the factor e^{-nearest/tau}; total()[width] is the normaliser Z.
  void add_total(const Probe<Real>& probe);
  const Real* total() const { return sums_.data(); }

  // x0 = sum e^-d_i x_i and (with moments) x1 = sum d_i e^-d_i x_i, of each side; of the tie x0 only.
  enum Side { kBefore, kAfter, kTie };
  void add_sides(const Probe<Real>& probe);
  const Real* x0(Side side) const { return sums_.data() + side * nodes_.row; }
  const Real* x1(Side side) const { return sums_.data() + (3 + side) * nodes_.row; }

 private:
  struct Into {
    Real* out0;
    Real* out1;  // null: K's value itself goes to out0
  };
  void add_side(const Probe<Real>& probe, Side side, Into into);
  void add_tiles(Real shift, Into into);
  void add_leaf(const LeafPart<Real>& part, int from, int to, Real near, Real beyond, Real shift, Into into);

  const Nodes<Real>& nodes_;
  std::vector<Real> sums_;  // 6 rows
  std::vector<const Real*> rows_;
  std::vector<Real> u_, e_, c_;
};

}  // namespace tandem::replay::tree

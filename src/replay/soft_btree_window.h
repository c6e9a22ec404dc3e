// Reads with a kernel that ends: K(u) = 1 - u^2 within tau of the query, 0 beyond (Epanechnikov).
//
// An inner node holds moments of each child's live entries, x_i = w_i [v_i ; 1], seen from both of its edges:
//   M0 = sum x_i    A1, A2 = sum m x_i, sum m^2 x_i, m = (k_i - lo) / tau    B1, B2 alike, m = (hi - k_i) / tau
// For a child within the window whose far edge is t = 1 - (its distance / tau) >= 0 from the window's,
//   sum K x = sum (t + m) (2 - t - m) x = t (2 - t) M0 + 2 (1 - t) M1 - M2,
// where nothing large is subtracted, however near the edge it lies. A read meets O(B) children a level on the way to
// each edge of the window. A child wider than the window is never within one: its A and B are 0.
#pragma once

#include <cmath>
#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {

template <class Real>
class Window {
 public:
  explicit Window(const Nodes<Real>& nodes) : nodes_(nodes), sums_(static_cast<std::size_t>(3 * nodes.row)) {}

  struct Except {  // an entry left out
    Real key;
    EntryId id;
  };
  // Sums over the entries within tau of the query; false if there is no mass.
  bool gather(const Node* root, Real query, const Except* except = nullptr) {
    std::fill(sums_.begin(), sums_.end(), Real(0));
    query_ = query;
    visit(root, except);
    return value()[nodes_.width] > 0;
  }
  // sum w K [v ; 1], sum w u [v ; 1], sum w u^2 [v ; 1], u = (query - k) / tau.
  const Real* value() const { return sums_.data(); }
  const Real* slope() const { return sums_.data() + nodes_.row; }
  const Real* square() const { return sums_.data() + 2 * nodes_.row; }

  // sum w K below `node`, of `query`; and the entry where `left` of it is used up (false: the mass is less).
  double mass(const Node* node, Real query) const;
  bool pick(const Node* node, Real query, double& left, EntryId& id) const;

 private:
  enum class Reach { kNone, kPart, kAll };
  Reach reach(const Inner<Real>* n, int j, Real query) const;
  double child_mass(const Inner<Real>* n, int j, Real query) const;
  void visit(const Node* node, const Except* except);

  const Nodes<Real>& nodes_;
  Real query_ = 0;
  std::vector<Real> sums_;  // 3 rows
};

}  // namespace tandem::replay::tree

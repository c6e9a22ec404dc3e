// The usual read in one piece, compiled for each instruction set: with a kernel that does not end, on a way down where
// no step waits and no run of equal keys spans several children. What Probe and Gather do in all cases.
#pragma once

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {

inline constexpr int kLevelsMost = 16;  // inner nodes on a way down: 6^16 is beyond all ids

// A query on its way.
template <class Real>
struct QuickRead {
  Real query, before, after;  // the nearest live keys met so far; infinite: none
  const Node* node;           // where it has come to; null: it lies between two children
  bool usual;                 // false: it is none of ours
  // What it has met: the rows of the children before or after it (`sides` < 0, > 0), their masses, and the keys that
  // they are seen from.
  int tiles;
  static constexpr int kMost = 2 * kLevelsMost, kPad = 64 / sizeof(Real);  // whole vectors are read
  const Real *rows[kMost], *masses[kMost];
  alignas(64) Real anchors[kMost + kPad], sides[kMost + kPad];
};

template <class Real>
struct QuickTotal {
  Real z;        // sum w_i K_i, but for a factor of e^{-nearest/tau}
  Real nearest;  // infinite: there is no live entry
};

// The steps, each of which asks for what the next looks at: down to the node above the leaves; to a leaf; into it.
// Once a step has left `usual` false, the others must not be taken.
void quick_descend(const Nodes<float>& nodes, const Node* root, float query, QuickRead<float>& read);
void quick_descend(const Nodes<double>& nodes, const Node* root, double query, QuickRead<double>& read);
void quick_descend_rest(const Nodes<float>& nodes, QuickRead<float>& read);
void quick_descend_rest(const Nodes<double>& nodes, QuickRead<double>& read);
// values [value_stride] = sum w_i K_i v_i alike; what follows the value's width is anything.
QuickTotal<float> quick_total(const Nodes<float>& nodes, const QuickRead<float>& read, float* values);
QuickTotal<double> quick_total(const Nodes<double>& nodes, const QuickRead<double>& read, double* values);

}  // namespace tandem::replay::tree

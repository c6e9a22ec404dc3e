// The usual draw, compiled for each instruction set: with a kernel that does not end, on a way down where no run of
// equal keys spans several children. (Steps that wait are of no account: they change values, and no masses.)
#pragma once

#include "replay/soft_btree_nodes.h"
#include "replay/soft_btree_quick.h"

namespace tandem::replay::tree {

// A draw on its way: down to where its query belongs, and from what was met there down to an entry.
template <class Real>
struct QuickDraw {
  // The children [0, before) and [from, size) of a node lie to either side of the query; those between lead on.
  struct Way {
    const Inner<Real>* node;
    int before, from;
  };
  Real query, before, after;  // nearest live keys
  Real beyond_before, beyond_after, shift;
  double uniform;    // what is left of it within the last choice
  const Node* node;  // where it has come to (null: between two children), then whose children or entries are next
  int at, end;       // of them; end < 0: all
  bool right;        // they lie after the query
  bool usual;        // false: it is none of ours
  int ways_count;
  Way ways[kLevelsMost];
};

// The steps, each of which asks for what the next looks at: down to the node above the leaves; to a leaf; the first
// choice; and one further down as often as it takes. Those that choose say whether `id` has been drawn. Once a step
// down has left `usual` false, the others must not be taken.
#define TD_QUICK_DRAW_OF(Real)                                                                            \
  void quick_draw_descend(const Nodes<Real>& nodes, const Node* root, Real query, QuickDraw<Real>& draw); \
  void quick_draw_descend_rest(const Nodes<Real>& nodes, QuickDraw<Real>& draw);                          \
  bool quick_draw_choose(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id);                   \
  bool quick_draw_below(const Nodes<Real>& nodes, QuickDraw<Real>& draw, EntryId& id);
TD_QUICK_DRAW_OF(float)
TD_QUICK_DRAW_OF(double)
#undef TD_QUICK_DRAW_OF

}  // namespace tandem::replay::tree

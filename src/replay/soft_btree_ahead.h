// How a sorted batch comes to the leaves it is for, and what is asked of memory before it gets there.
//
// A batch of thousands comes to leaves that are not in a cache, one after the other. A leaf's lines take longer to come
// than it takes to change it, so they are asked for some leaves ahead, evenly: many at once hold up the processor.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {

// The items that belong to child `child` of a node: [begin, end).
template <class Real>
struct Share {
  int child;
  const Item<Real>*begin, *end;
};
template <class Real>
struct Shares {
  int count = 0;
  std::array<Share<Real>, kInnerMost> all;

  const Share<Real>* begin() const { return all.data(); }
  const Share<Real>* end() const { return all.data() + count; }
  const Share<Real>& operator[](int s) const { return all[s]; }
  const Share<Real>& last() const { return all[count - 1]; }
};

// Splits sorted items among the children of a node.
template <class Real>
void divide(const Inner<Real>* n, const Item<Real>* begin, const Item<Real>* end, Shares<Real>& shares) {
  shares.count = 0;
  while (begin != end) {
    const int j = Nodes<Real>::child_of(n, begin->key, begin->id);
    const Item<Real>* stop = end;
    if (end - begin > 1 && j + 1 < n->size) {
      stop = std::partition_point(begin + 1, end, [n, j](const Item<Real>& item) {
        return before(item.key, item.id, n->first_keys[j + 1], n->first_ids[j + 1]);
      });
    }
    shares.all[shares.count++] = {j, begin, stop};
    begin = stop;
  }
}

// Goes before a change of sorted items, from left to right. What it looks at has not been changed yet: a node above
// leaves changes only when the batch gets there. The node then has one owner, and is what is looked at from there on:
// another, which a snapshot shares, may be let go any time.
template <class Real>
class Ahead {
 public:
  using N = Nodes<Real>;
  // `adds`: to leaves, most of which are only written to.
  Ahead(const N& nodes, const Node* root, const Item<Real>* begin, const Item<Real>* end, bool adds)
      : nodes_(nodes), adds_(adds) {
    if (root->level == 1) {
      stops_.push_back({N::inner(root), begin, end});
    } else if (!root->leaf()) {
      list(N::inner(root), begin, end);
    }
    for (std::size_t s = 0; s < std::min(kStopsAhead, stops_.size()); ++s) ask_for_head(s);
    for (std::size_t leaf = 0; leaf < kHeadsAhead; ++leaf) ask_for_leaf();
    for (std::size_t leaf = 0; leaf < kValuesAhead; ++leaf) ask_for_values();
  }

  // The shares of the node above leaves that comes next; `n` is that node, of one owner.
  const Shares<Real>& next(const Inner<Real>* n) {
    stops_[arrived_].node = n;
    return ring_[arrived_++ % kRing];
  }
  // A leaf is about to be changed.
  void advance() {
    ask_for_leaf();
    ask_for_values();
  }

 private:
  static constexpr std::size_t kStopsAhead = 3, kHeadsAhead = 8, kValuesAhead = 4, kRing = 16;
  static_assert(kHeadsAhead < kRing);  // each of a node of its own, and the one at hand

  // A node above leaves, and what is for it.
  struct Stop {
    const Inner<Real>* node;
    const Item<Real>*begin, *end;
  };
  struct Next {
    const Leaf<Real>* leaf;
    const Item<Real>*begin, *end;
    bool adds;  // there is no need of what it has
  };

  // The head of one more leaf; with the first of a node the node's sums, and another node's head.
  void ask_for_leaf() {
    if (divided_ == 0 || asked_ == ring_[(divided_ - 1) % kRing].count) {
      if (divided_ == stops_.size()) return;
      const Stop& stop = stops_[divided_];
      Shares<Real>& shares = ring_[divided_++ % kRing];
      divide(stop.node, stop.begin, stop.end, shares);
      if (divided_ + kStopsAhead - 1 < stops_.size()) ask_for_head(divided_ + kStopsAhead - 1);
      nodes_.prefetch_sums(stop.node, shares[0].child, shares.last().child);
      asked_ = 0;
    }
    const Share<Real>& share = ring_[(divided_ - 1) % kRing][asked_++];
    const Inner<Real>* const node = stops_[divided_ - 1].node;
    const Leaf<Real>* leaf = N::leaf(node->children[share.child]);
    const bool adds = adds_ && nodes_.may_add(node, share.child, share.begin, share.end);
    N::prefetch_bytes(leaf, adds ? 1 : sizeof(Leaf<Real>));
    leaves_[heads_++ % kRing] = {leaf, share.begin, share.end, adds};
  }
  // Of a leaf whose head is there.
  void ask_for_values() {
    if (values_ == heads_) return;
    const Next& next = leaves_[values_++ % kRing];
    const int size = next.leaf->size;
    const auto rows = static_cast<std::size_t>(size + (next.end - next.begin));
    if (next.adds && rows <= kLeafMost) {
      __builtin_prefetch(&next.leaf->keys[size], 1);
      __builtin_prefetch(&next.leaf->weights[size], 1);
      __builtin_prefetch(&next.leaf->ids[size], 1);
      N::prefetch_bytes(nodes_.value(next.leaf, size), sizeof(Real) * (rows - size) * nodes_.value_stride);
    } else {
      if (next.adds) N::prefetch_bytes(next.leaf, sizeof(Leaf<Real>));
      N::prefetch_bytes(next.leaf->values(),
                        sizeof(Real) * std::min<std::size_t>(rows, kLeafMost) * nodes_.value_stride);
    }
    for (const Item<Real>* item = next.begin; item != next.end; ++item) {
      if (item->value != nullptr) N::prefetch_bytes(item->value, sizeof(Real) * nodes_.width);
    }
  }

  void list(const Inner<Real>* n, const Item<Real>* begin, const Item<Real>* end) {
    Shares<Real> shares;
    divide(n, begin, end, shares);
    for (const Share<Real>& share : shares) {
      const auto* child = N::inner(n->children[share.child]);
      if (n->level == 2) {
        stops_.push_back({child, share.begin, share.end});
      } else {
        list(child, share.begin, share.end);
      }
    }
  }
  void ask_for_head(std::size_t stop) const { N::prefetch_bytes(stops_[stop].node, sizeof(Inner<Real>)); }

  const N& nodes_;
  const bool adds_;
  std::vector<Stop> stops_;
  std::array<Shares<Real>, kRing> ring_;  // of stop s: s % kRing
  std::array<Next, kRing> leaves_;
  std::size_t arrived_ = 0, divided_ = 0, heads_ = 0, values_ = 0;
  int asked_ = 0;  // leaves of the last divided
};

}  // namespace tandem::replay::tree

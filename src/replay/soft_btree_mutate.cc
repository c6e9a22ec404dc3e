// Insertion and removal of sorted batches (a single entry is a batch of one).
#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <vector>

#include "base/check.h"
#include "replay/soft_btree_ahead.h"
#include "replay/soft_btree_nodes.h"

namespace tandem::replay::tree {
namespace {

// Into how many nodes `total` slots go.
int pieces_of(std::int64_t total, int most, int fill) {
  if (total <= most) return 1;
  return total <= 2 * most ? 2 : static_cast<int>((total + fill - 1) / fill);
}

// The shares of a node's items. Those of a single item are asked for from memory; a batch has been ahead.
template <class Real>
void shares_of(const Nodes<Real>& nodes, const Inner<Real>* n, const Item<Real>* begin, const Item<Real>* end,
               bool adds, Ahead<Real>* ahead, Shares<Real>& shares) {
  if (n->level == 1 && ahead != nullptr) {
    shares = ahead->next(n);
    return;
  }
  divide(n, begin, end, shares);
  if (ahead != nullptr || n->level > 2) return;
  for (const Share<Real>& share : shares) {
    if (n->level == 1 && adds && nodes.may_add(n, share.child, share.begin, share.end)) {
      nodes.prefetch_bytes(n->children[share.child], sizeof(Leaf<Real>));
    } else {
      nodes.prefetch_head(n->children[share.child], n->level - 1);
    }
  }
  if (n->level == 1) nodes.prefetch_sums(n, shares[0].child, shares.last().child);
}

template <class Real>
class Insertion {
 public:
  using N = Nodes<Real>;
  Insertion(const N& nodes, Ahead<Real>* ahead) : nodes_(nodes), ahead_(ahead) {}

  // Puts items [begin, end) below `node`; nodes that had to be made beside it, to its right, are appended to `made`.
  void below(Node*& node, const Item<Real>* begin, const Item<Real>* end, std::vector<Node*>& made) {
    if (node->leaf()) {
      into_leaf(node, begin, end, made);
    } else {
      into_inner(node, begin, end, made);
    }
  }

  // Inner nodes over `children` (all of one level), evenly filled, their sums made.
  void parents_of(const std::vector<Node*>& children, std::vector<Node*>& made) {
    const std::int64_t total = static_cast<std::int64_t>(children.size());
    const int pieces = pieces_of(total, kInnerMost, kInnerFill);
    for (int p = 0; p < pieces; ++p) {
      auto* n = N::inner(nodes_.make(children[0]->level + 1));
      const std::int64_t from = total * p / pieces, to = total * (p + 1) / pieces;
      n->size = static_cast<std::uint16_t>(to - from);
      for (int j = 0; j < n->size; ++j) {
        n->children[j] = children[from + j];
        nodes_.summarise(n, j);
      }
      nodes_.refresh(n);
      made.push_back(n);
    }
  }

 private:
  static bool has_room(const Node* leaf, const Share<Real>& share) {
    return leaf->size + (share.end - share.begin) <= kLeafMost;
  }

  void into_leaf(Node*& node, const Item<Real>* begin, const Item<Real>* end, std::vector<Node*>& made) {
    auto* n = N::leaf(node);
    const std::int64_t total = n->size + (end - begin);
    if (total <= kLeafMost) {
      for (; begin != end; ++begin) nodes_.set_entry(n, n->size++, *begin);
      return;
    }
    const int pieces = pieces_of(total, kLeafMost, kLeafFill);
    const auto order = N::order_of(n);
    int next = 0;
    for (int p = 0; p < pieces; ++p) {
      auto* piece = N::leaf(nodes_.make(0));
      piece->size = static_cast<std::uint16_t>(total * (p + 1) / pieces - total * p / pieces);
      for (int i = 0; i < piece->size; ++i) {
        const int at = next < n->size ? order[next] : 0;
        if (begin == end || (next < n->size && before(n->keys[at], n->ids[at], begin->key, begin->id))) {
          nodes_.move_slots(piece, i, n, at, 1);
          ++next;
        } else {
          nodes_.set_entry(piece, i, *begin++);
        }
      }
      if (p == 0) {
        node = piece;
      } else {
        made.push_back(piece);
      }
    }
    N::free_shell(n);
  }

  void into_inner(Node*& node, const Item<Real>* begin, const Item<Real>* end, std::vector<Node*>& made) {
    auto* n = N::inner(node);
    std::vector<Node*> beside;  // of all children, in order; of share s: up to ends[s]
    std::array<std::size_t, kInnerMost> ends;
    Shares<Real> shares;
    shares_of(nodes_, n, begin, end, /*adds=*/true, ahead_, shares);
    // What a batch changes most of has its sums made while those of its children are at hand.
    const bool at_once = ahead_ != nullptr && n->level == 2 && 2 * shares.count >= n->size;
    if (at_once) nodes_.repair(n);
    unsigned summed = 0;  // bit j: what the node holds of child j is right
    for (int s = 0; s < shares.count; ++s) {
      const int j = shares[s].child;
      if (n->level == 1 && ahead_ != nullptr) ahead_->advance();
      nodes_.unshare(n->children[j]);
      nodes_.push(n, j);
      if (n->level == 1 && has_room(n->children[j], shares[s]) &&
          nodes_.can_add(n, j, shares[s].begin, shares[s].end)) {
        nodes_.add(n, j, shares[s].begin, shares[s].end);
        summed |= 1u << j;
      } else {
        below(n->children[j], shares[s].begin, shares[s].end, beside);
      }
      ends[s] = beside.size();
      if (at_once) nodes_.summarise(n, j);
    }
    if (at_once && beside.empty()) {
      nodes_.refresh(n, shares[0].child, shares.last().child);
      return;
    }
    if (n->level > 1) {
      for (int s = 0; s < shares.count; ++s) nodes_.put_off(n, shares[s].child);
      if (beside.empty()) return;
      nodes_.repair(n);
    } else if (beside.empty()) {
      for (const Share<Real>& share : shares) {
        if ((summed >> share.child & 1) == 0) nodes_.summarise(n, share.child);
      }
      nodes_.refresh(n, shares[0].child, shares.last().child);
      return;
    }
    // More children than before: they go to as many nodes as it takes, those untouched with their sums.
    const std::int64_t total = n->size + static_cast<std::int64_t>(beside.size());
    const std::int64_t pieces = pieces_of(total, kInnerMost, kInnerFill);
    std::int64_t at = 0, piece_index = 0;
    Inner<Real>* piece = nullptr;
    const auto slot = [&] {
      if (piece == nullptr) piece = N::inner(nodes_.make(n->level));
      ++at;
      return piece->size++;
    };
    const auto close_if_full = [&] {
      if (at != total * (piece_index + 1) / pieces) return;
      nodes_.refresh(piece);
      if (piece_index++ == 0) {
        node = piece;
      } else {
        made.push_back(piece);
      }
      piece = nullptr;
    };
    int share = 0;
    std::size_t next_beside = 0;
    for (int j = 0; j < n->size; ++j) {
      const bool touched = share < shares.count && shares[share].child == j;
      const int own = slot();
      nodes_.move_slots(piece, own, n, j, 1);
      if (touched && (summed >> j & 1) == 0) nodes_.summarise(piece, own);
      close_if_full();
      for (; touched && next_beside < ends[share]; ++next_beside) {
        const int next = slot();
        piece->children[next] = beside[next_beside];
        nodes_.summarise(piece, next);
        close_if_full();
      }
      share += touched;
    }
    N::free_shell(n);
  }

  const N& nodes_;
  Ahead<Real>* const ahead_;  // null: for a single item
};

template <class Real>
class Removal {
 public:
  using N = Nodes<Real>;
  Removal(const N& nodes, Ahead<Real>* ahead) : nodes_(nodes), ahead_(ahead) {}

  void below(Node* node, const Item<Real>* begin, const Item<Real>* end) {
    if (node->leaf()) {
      from_leaf(N::leaf(node), begin, end);
      return;
    }
    auto* n = N::inner(node);
    bool thin = false;
    Shares<Real> shares;
    shares_of(nodes_, n, begin, end, /*adds=*/false, ahead_, shares);
    for (int s = 0; s < shares.count; ++s) {
      const int j = shares[s].child;
      if (n->level == 1 && ahead_ != nullptr) ahead_->advance();
      nodes_.unshare(n->children[j]);
      nodes_.push(n, j);
      below(n->children[j], shares[s].begin, shares[s].end);
      thin |= n->children[j]->size < n->children[j]->least();
      if (n->level > 1) {
        nodes_.put_off(n, j);
      } else if (n->children[j]->size > 0) {
        nodes_.summarise(n, j);
      }
    }
    if (thin) {
      nodes_.repair(n);
      mend(n);
    } else if (n->level == 1) {
      nodes_.refresh(n, shares[0].child, shares.last().child);
    }
  }

 private:
  void from_leaf(Leaf<Real>* n, const Item<Real>* begin, const Item<Real>* end) {
    for (; begin != end; ++begin) {
      const int at = N::place_of(n, begin->id);
      TD_DCHECK(at < n->size);
      take_out(n, at);
    }
  }
  // The last entry fills its place.
  void take_out(Leaf<Real>* n, int at) {
    if (at != --n->size) nodes_.move_slots(n, at, n, n->size, 1);
    n->weights[n->size] = 0;
  }

  // Removes empty children and joins or evens out thin ones; makes all running sums.
  void mend(Inner<Real>* n) {
    for (int j = 0; j < n->size;) {
      Node* child = n->children[j];
      if (child->size == 0) {
        N::free_shell(child);
        close(n, j);
      } else if (child->size >= child->least() || n->size == 1) {
        ++j;
      } else {
        if (j + 1 == n->size || (j > 0 && n->children[j - 1]->size < n->children[j + 1]->size)) --j;
        if (n->children[j]->size == 0 || n->children[j + 1]->size == 0) {
          const int empty = n->children[j]->size == 0 ? j : j + 1;
          N::free_shell(n->children[empty]);
          close(n, empty);
        } else {
          even_out(n, j);
        }
      }
    }
    if (n->size > 0) nodes_.refresh(n);
  }

  void close(Inner<Real>* n, int j) {
    nodes_.move_slots(n, j, n, j + 1, n->size - j - 1);
    --n->size;
  }

  // Children j and j + 1 become one, or two of the same size.
  void even_out(Inner<Real>* n, int j) {
    nodes_.unshare(n->children[j]);
    nodes_.unshare(n->children[j + 1]);
    nodes_.push(n, j);
    nodes_.push(n, j + 1);
    Node *a = n->children[j], *b = n->children[j + 1];
    const int total = a->size + b->size;
    const bool one = total <= a->most();
    const int keep = one ? total : total / 2, from_b = keep - a->size;
    if (a->leaf() && from_b >= 0) {
      move_ends(N::leaf(b), N::leaf(a), from_b, /*first=*/true);
    } else if (a->leaf()) {
      move_ends(N::leaf(a), N::leaf(b), -from_b, /*first=*/false);
    } else if (from_b >= 0) {
      nodes_.move_slots(a, a->size, b, 0, from_b);
      nodes_.move_slots(b, 0, b, from_b, b->size - from_b);
    } else {
      nodes_.move_slots(b, -from_b, b, 0, b->size);
      nodes_.move_slots(b, 0, a, keep, -from_b);
    }
    a->size = static_cast<std::uint16_t>(keep);
    b->size = static_cast<std::uint16_t>(total - keep);
    for (int side = 0; side < 2; ++side) {
      Node* child = n->children[j + side];
      if (child->size == 0) continue;
      if (!child->leaf()) mend(N::inner(child));
      nodes_.summarise(n, j + side);
    }
    if (b->size == 0) {
      N::free_shell(b);
      close(n, j + 1);
    }
  }

  // The first or last entries of a leaf go to another.
  void move_ends(Leaf<Real>* from, Leaf<Real>* to, int count, bool first) {
    const auto order = N::order_of(from);
    const auto begin = order.begin() + (first ? 0 : from->size - count);
    std::vector<int> places(begin, begin + count);
    for (const int at : places) nodes_.move_slots(to, to->size++, from, at, 1);
    std::sort(places.begin(), places.end(), std::greater<>());  // so that none of them fills another's place
    for (const int at : places) take_out(from, at);
  }

  const N& nodes_;
  Ahead<Real>* const ahead_;  // null: for a single item
};

}  // namespace

template <class Real>
void insert_sorted(const Nodes<Real>& nodes, Node*& root, const Item<Real>* items, std::int64_t count) {
  if (count == 0) return;
  nodes.unshare(root);
  std::optional<Ahead<Real>> ahead;
  if (count > 1) ahead.emplace(nodes, root, items, items + count, /*adds=*/true);
  Insertion<Real> insertion(nodes, ahead ? &*ahead : nullptr);
  std::vector<Node*> beside;
  insertion.below(root, items, items + count, beside);
  if (beside.empty()) return;
  std::vector<Node*> level = {root};
  level.insert(level.end(), beside.begin(), beside.end());
  while (level.size() > 1) {
    std::vector<Node*> parents;
    insertion.parents_of(level, parents);
    level = std::move(parents);
  }
  root = level[0];
}

template <class Real>
void erase_sorted(const Nodes<Real>& nodes, Node*& root, const Item<Real>* items, std::int64_t count) {
  if (count == 0) return;
  nodes.unshare(root);
  std::optional<Ahead<Real>> ahead;
  if (count > 1) ahead.emplace(nodes, root, items, items + count, /*adds=*/false);
  Removal<Real> removal(nodes, ahead ? &*ahead : nullptr);
  removal.below(root, items, items + count);
  while (!root->leaf() && root->size <= 1) {
    Node* old = root;
    if (old->size == 1) {
      nodes.unshare(Nodes<Real>::inner(old)->children[0]);
      nodes.push(Nodes<Real>::inner(old), 0);
    }
    root = old->size == 1 ? Nodes<Real>::inner(old)->children[0] : nodes.make(0);
    Nodes<Real>::free_shell(old);
  }
}

template <class Real>
void update_entry(const Nodes<Real>& nodes, Node*& root, const Item<Real>& item) {
  nodes.unshare(root);
  if (root->leaf()) {
    auto* n = Nodes<Real>::leaf(root);
    const int at = Nodes<Real>::place_of(n, item.id);
    n->weights[at] = item.weight;
    if (item.value != nullptr) std::copy_n(item.value, nodes.width, nodes.value(n, at));
    return;
  }
  auto* n = Nodes<Real>::inner(root);
  const int j = Nodes<Real>::child_of(n, item.key, item.id);
  nodes.unshare(n->children[j]);
  nodes.push(n, j);
  update_entry(nodes, n->children[j], item);
  if (n->level > 1) {
    nodes.put_off(n, j);
    return;
  }
  nodes.summarise(n, j);
  nodes.refresh(n, j, j);
}

#define TD_INSTANTIATE(Real)                                                                      \
  template void insert_sorted<Real>(const Nodes<Real>&, Node*&, const Item<Real>*, std::int64_t); \
  template void erase_sorted<Real>(const Nodes<Real>&, Node*&, const Item<Real>*, std::int64_t);  \
  template void update_entry<Real>(const Nodes<Real>&, Node*&, const Item<Real>&);
TD_INSTANTIATE(float)
TD_INSTANTIATE(double)
#undef TD_INSTANTIATE

}  // namespace tandem::replay::tree

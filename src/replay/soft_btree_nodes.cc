#include "replay/soft_btree_nodes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

namespace tandem::replay::tree {

template <class Real>
std::size_t Nodes<Real>::bytes(int level) const {
  const std::size_t slots = level == 0 ? kLeafMost : (window ? 1 : 4) * kInnerMost;
  std::size_t numbers = slots * static_cast<std::size_t>(level == 0 ? value_stride : stride);
  if (level > 0) numbers += static_cast<std::size_t>(masses());
  const std::size_t all = (level == 0 ? sizeof(LeafT) : sizeof(InnerT)) + sizeof(Real) * numbers;
  return (all + 63) / 64 * 64;
}

template <class Real>
Node* Nodes<Real>::make(int level) const {
  void* memory = pool_->take(level == 0);
  Node* node;
  if (level == 0) {
    node = new (memory) LeafT;
    std::fill_n(leaf(node)->values(), kLeafMost * value_stride, Real(0));
  } else {
    auto* made = new (memory) InnerT;
    if (stepping) start_steps(made);
    node = made;
  }
  node->pool = pool_.get();
  node->level = static_cast<std::uint8_t>(level);
  return node;
}

template <class Real>
void Nodes<Real>::free_shell(Node* node) {
  if (!node->leaf() && inner(node)->steps != nullptr) ::operator delete(inner(node)->steps, kNodeAlignment);
  node->pool->give_back(node, node->leaf());
}

template <class Real>
void Nodes<Real>::drop(Node* node) {
  if (node->owners.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (!node->leaf()) {
    for (int j = 0; j < node->size; ++j) drop(inner(node)->children[j]);
  }
  free_shell(node);
}

template <class Real>
Node* Nodes<Real>::share(Node* node) const {
  node->owners.fetch_add(1, std::memory_order_relaxed);
  return node;
}

template <class Real>
void Nodes<Real>::unshare(Node*& node) const {
  // Acquire: what readers of a dropped snapshot read here, they read before it is changed.
  if (node->owners.load(std::memory_order_acquire) == 1) return;
  Node* copy = make(node->level);
  copy->size = node->size;
  move_slots(copy, 0, node, 0, node->size);
  if (!node->leaf()) {
    inner(copy)->some_dead = inner(node)->some_dead;
    if (!window) std::copy_n(left_to(inner(node), 0), 2 * kInnerMost * stride, left_to(inner(copy), 0));
    std::copy_n(inner(node)->sums(), masses(), inner(copy)->sums());
    for (int j = 0; j < node->size; ++j) share(inner(node)->children[j]);
  }
  drop(node);
  node = copy;
}

template <class Real>
void Nodes<Real>::move_slots(Node* to, int to_at, const Node* from, int from_at, int count) const {
  if (count <= 0) return;
  const auto move = [&](auto* target, const auto* source, int stride_each = 1) {
    std::memmove(target + to_at * stride_each, source + from_at * stride_each, sizeof(*target) * count * stride_each);
  };
  if (to->leaf()) {
    LeafT* t = leaf(to);
    const LeafT* f = leaf(from);
    move(t->keys, f->keys);
    move(t->weights, f->weights);
    move(t->ids, f->ids);
    move(t->values(), f->values(), value_stride);
  } else {
    InnerT* t = inner(to);
    const InnerT* f = inner(from);
    move(t->children, f->children);
    move(t->first_keys, f->first_keys);
    move(t->first_ids, f->first_ids);
    move(t->hi, f->hi);
    move(t->lo, f->lo);
    move(left(t, 0), left(f, 0), stride);
    if (!window) move(right(t, 0), right(f, 0), stride);
    for (int part = 0; part < masses(); part += mass_stride) move(t->sums() + part, f->sums() + part, 2);
    if (f->pending != 0 || t->steps != nullptr) move_steps(t, to_at, f, from_at, count);
  }
}

template <class Real>
void Nodes<Real>::set_entry(LeafT* n, int at, const Item<Real>& item) const {
  n->keys[at] = item.key;
  n->ids[at] = item.id;
  n->weights[at] = item.weight;
  std::copy_n(item.value, width, value(n, at));
}

template <class Real>
int Nodes<Real>::child_of(const InnerT* n, Real key, EntryId id) {
  int j = 0;
  for (int c = 1; c < n->size; ++c) j += n->first_keys[c] <= key;
  while (j > 0 && n->first_keys[j] == key && n->first_ids[j] > id) --j;
  return j;
}

template <class Real>
int Nodes<Real>::place_of(const LeafT* n, EntryId id) {
  return static_cast<int>(std::find(n->ids, n->ids + n->size, id) - n->ids);
}

template <class Real>
auto Nodes<Real>::order_of(const LeafT* n) -> Order {
  Order order;
  for (int i = 0; i < n->size; ++i) {
    const Real key = n->keys[i];
    const EntryId id = n->ids[i];
    int rank = 0;  // (No branches: all of a leaf takes less than sorting it.)
    for (int c = 0; c < n->size; ++c) rank += (n->keys[c] < key) | ((n->keys[c] == key) & (n->ids[c] < id));
    order[rank] = i;
  }
  return order;
}

template <class Real>
void Nodes<Real>::summarise(InnerT* parent, int j) const {
  if (parent->children[j]->leaf()) {
    summarise_leaf(parent, j);
  } else {
    summarise_inner(parent, j);
  }
  if (window) summarise_window(parent, j);
  if (parent->steps != nullptr) summarise_steps(parent, j);
}

template <class Real>
void Nodes<Real>::summarise_inner(InnerT* parent, int j) const {
  const InnerT* c = inner(parent->children[j]);
  const int last = c->size - 1;
  parent->first_keys[j] = c->first_keys[0];
  parent->first_ids[j] = c->first_ids[0];
  parent->lo[j] = c->lo[0];
  parent->hi[j] = c->hi[last];
  if (window) return;
  std::copy_n(left_to(c, last), stride, left(parent, j));
  std::copy_n(right_from(c, 0), stride, right(parent, j));
  for (int part = 0; part < masses(); part += mass_stride) {
    left_mass(parent, j)[part] = left_to_mass(c, last)[part];
    right_mass(parent, j)[part] = right_from_mass(c, 0)[part];
  }
}

template <class Real>
void Nodes<Real>::summarise_leaf(InnerT* parent, int j) const {
  const LeafT* c = leaf(parent->children[j]);
  const rows::Range<Real> range = rows::range(c->keys, c->weights, c->size);
  EntryId id = c->ids[range.first];
  for (int i = range.first + 1; range.several && i < c->size; ++i) {
    if (c->keys[i] == c->keys[range.first]) id = std::min(id, c->ids[i]);
  }
  parent->first_keys[j] = c->keys[range.first];
  parent->first_ids[j] = id;
  parent->lo[j] = range.lo;
  parent->hi[j] = range.hi;
  if (window) return;
  if (range.lo <= range.hi) {
    rows::edges(edges_of(parent, j), c->keys, c->weights, c->values(), c->size);
    return;
  }
  std::fill_n(left(parent, j), stride, Real(0));
  std::fill_n(right(parent, j), stride, Real(0));
  for (int part = 0; part < masses(); part += mass_stride) left_mass(parent, j)[part] = right_mass(parent, j)[part] = 0;
}

template <class Real>
rows::Edges<Real> Nodes<Real>::edges_of(InnerT* parent, int j) const {
  return {
      parent->lo[j],        parent->hi[j],         tau,        width, row, moments, left(parent, j), right(parent, j),
      left_mass(parent, j), right_mass(parent, j), mass_stride};
}

template <class Real>
void Nodes<Real>::add(InnerT* parent, int j, const Item<Real>* begin, const Item<Real>* end) const {
  LeafT* n = leaf(parent->children[j]);
  if (before(begin->key, begin->id, parent->first_keys[j], parent->first_ids[j])) parent->first_ids[j] = begin->id;
  const rows::Edges<Real> edges = edges_of(parent, j);
  for (const Item<Real>* item = begin; item != end; ++item) {
    const int at = n->size++;
    n->keys[at] = item->key;
    n->ids[at] = item->id;
    n->weights[at] = item->weight;
    rows::add_to_edges(edges, item->key, item->weight, item->value, value(n, at));
  }
}

template <class Real>
void Nodes<Real>::refresh(InnerT* n, int first, int last) const {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int size = n->size;
  // Others than the changed ones are as they were.
  const int begin = n->some_dead ? 0 : first, end = n->some_dead ? size : last + 1;
  n->some_dead = false;
  for (int j = begin; j < end; ++j) n->some_dead |= !live(n, j);
  if (n->some_dead) {
    for (int j = 0; j < size; ++j) {
      if (!live(n, j)) n->hi[j] = j > 0 ? n->hi[j - 1] : -kInfinity;
    }
    for (int j = size - 1; j >= 0; --j) {
      if (!live(n, j)) n->lo[j] = j + 1 < size ? n->lo[j + 1] : kInfinity;
    }
  }
  if (window) return;
  const Real* of_children[2] = {};
  Real* running[2] = {};
  if (!mass_in_row) {
    of_children[0] = left_mass(n, 0);
    of_children[1] = right_mass(n, 0);
    running[0] = left_to_mass(n, 0);
    running[1] = right_from_mass(n, 0);
  }
  rows::scan(rows::Scan<Real>{n->hi, left(n, 0), left_to(n, 0), of_children[0], running[0], mass_stride, size, first, 1,
                              row, moments, tau});
  rows::scan(rows::Scan<Real>{n->lo, right(n, 0), right_from(n, 0), of_children[1], running[1], mass_stride, size, last,
                              -1, row, moments, tau});
}

template <class Real>
void Nodes<Real>::repair(Node* node) const {
  if (node->level < 2 || inner(node)->stale == 0) return;
  InnerT* n = inner(node);
  const unsigned stale = n->stale;
  n->stale = 0;
  for (unsigned left = stale; left != 0; left &= left - 1) {
    const int j = std::countr_zero(left);
    if (n->children[j]->size == 0) continue;  // about to be taken out
    repair(n->children[j]);
    summarise(n, j);
  }
  refresh(n, std::countr_zero(stale), std::bit_width(stale) - 1);
}

template <class Real>
void Nodes<Real>::refresh_all(Node*& node) const {
  if (node->leaf()) return;
  unshare(node);
  if (stepping && inner(node)->steps == nullptr) start_steps(inner(node));
  inner(node)->stale = 0;
  for (int j = 0; j < node->size; ++j) {
    refresh_all(inner(node)->children[j]);
    summarise(inner(node), j);
  }
  refresh(inner(node));
}

template class Nodes<float>;
template class Nodes<double>;

}  // namespace tandem::replay::tree

// Nodes of the soft B-tree: their layout, who shares them, and the sums kept in them.
//
// Entries are ordered by (key, id) from leaf to leaf; within a leaf they lie in the order they came in, so that an
// insert touches one place and reads none of the others. An inner node holds, for each child, the child's first entry
// (for routing), the range of its live keys (of weight > 0), and its rows L and R, and running sums of those rows: one
// of them stands for all children up to, or from, a place. All of it is made from the children and never subtracted.
// A leaf's rows are added up in its own order: with an entry more they are one addition more, and the same bits.
// A row's mass, the sum of weights to its sum of values, lies behind them if that leaves the row as long as it is, and
// apart if not.
// Steps on values (sgd_values) wait above the entries they are for: see Inner.
// Sharing: a node counts the parents and roots that point at it. Only a node with one owner, all of whose ancestors
// have one too, is changed in place (unshare() on the way down); others are copied.
// Threads: counts are atomic, so that a snapshot may be dropped anywhere; the rest is the writer's.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "replay/soft_btree.h"
#include "replay/soft_btree_pool.h"
#include "replay/soft_btree_rows.h"

namespace tandem::replay::tree {

inline constexpr int kLeafMost = 32, kLeafLeast = 12;   // entries (the root may have fewer)
inline constexpr int kInnerMost = 16, kInnerLeast = 6;  // children (the root: at least 2)
inline constexpr std::size_t kPrefetchMost = 8192;      // bytes asked for ahead at once
inline constexpr int kLeafFill = 24, kInnerFill = 12;   // when many are made at once

inline constexpr std::align_val_t kNodeAlignment{64};
inline constexpr int kProfilesMost = 4;
inline constexpr double kWindowWidth = 2.001;  // of tau: all within a window are this near, however that is rounded

static_assert(kInnerMost == 16 && kInnerMost <= rows::kScanMost && kLeafMost == rows::kEdgeMost &&
              kLeafMost % 16 == 0);  // bits; whole vectors

struct Node {
  NodePool* pool;  // that it comes from
  std::atomic<std::uint32_t> owners{1};
  std::uint16_t size = 0;
  std::uint8_t level = 0;  // 0: a leaf

  bool leaf() const { return level == 0; }
  int most() const { return leaf() ? kLeafMost : kInnerMost; }
  int least() const { return leaf() ? kLeafLeast : kInnerLeast; }
};

// Variable-sized: value rows or sums follow the struct.
template <class Real>
struct alignas(64) Leaf : Node {
  alignas(64) Real keys[kLeafMost] = {};  // whole lines, of which an insert writes one each
  Real weights[kLeafMost] = {};           // 0 behind the last entry
  EntryId ids[kLeafMost] = {};

  Real* values() { return reinterpret_cast<Real*>(this + 1); }
  const Real* values() const { return reinterpret_cast<const Real*>(this + 1); }
};

// What inner nodes hold beside their sums once values are stepped. A step changes the values below a child along the
// profiles that the child's rows weigh them by, with a = (hi - k) / tau, b = (k - lo) / tau of the child's live keys:
//   v_i += w_i sum_r F_r(i) tag_r    F = (e^-a, e^-b), or with moments (e^-a, a e^-a, e^-b, b e^-b)
// so by their inner products over the entries, G_rs = sum_i w_i^2 F_r F_s (in double: squares of floats may not be
// floats), the rows are made right at once, and the entries when a writer comes by (push). A reader adds what waits
// above the rows and entries it meets (carry).
template <class Real>
struct alignas(64) Inner : Node {
  bool some_dead = true;      // a child may have no live keys
  std::uint16_t pending = 0;  // bit j: a tag waits for child j
  std::uint16_t stale = 0;    // bit j: below child j are changes that its sums, and all running sums, do not know of
  double* steps = nullptr;    // products [kInnerMost, R, R], then tags [kInnerMost, R, row] of Real; none at first
  Node* children[kInnerMost] = {};
  Real first_keys[kInnerMost] = {};
  EntryId first_ids[kInnerMost] = {};
  // The last live key of the children up to this one (-infinity: none), the first of those from this one (infinity).
  // So for a child with live keys they are its own.
  Real hi[kInnerMost] = {}, lo[kInnerMost] = {};

  Real* sums() { return reinterpret_cast<Real*>(this + 1); }  // masses, where they are apart, then rows
  const Real* sums() const { return reinterpret_cast<const Real*>(this + 1); }
};

template <class Real>
struct Item {
  Real key;
  EntryId id;
  Real weight;
  const Real* value;  // [D]
};

// Tags that wait for all entries of a node, whose live keys are in [lo, hi]. Null: none do.
template <class Real>
struct Waiting {
  Real hi, lo;
  const Real* tags;  // [R, row]
};

template <class Real>
bool before(Real key_a, EntryId id_a, Real key_b, EntryId id_b) {
  return key_a < key_b || (key_a == key_b && id_a < id_b);
}

// A changed entry changes the sums of all nodes above it. Those over leaves are made again at once, while the leaf is
// at hand; those further up have few nodes, which many changes meet, and wait for repair(): before a snapshot, or
// anything else that looks at sums; or, in a batch that meets most of a node's children, for the last of those. What
// comes out is the same, bit for bit. No tag waits for a child while it is stale.
//
// Everything about nodes that depends on the tree's widths and temperature.
template <class Real>
class Nodes {
 public:
  Nodes(const SoftBTreeOptions<Real>& options)
      : width(options.value_width),
        value_stride(rows::lanes<Real>(width)),
        moments(options.kernel == SoftKernel::kMatern32),
        window(options.kernel == SoftKernel::kEpanechnikov),
        mass_in_row(window || rows::lanes<Real>(width + 1) == rows::lanes<Real>(width)),
        row(rows::lanes<Real>(mass_in_row ? width + 1 : width)),
        mass_stride(mass_in_row ? row : 4 * kInnerMost),
        stride(window    ? 5 * row
               : moments ? 2 * row
                         : row),
        profiles(moments ? 4 : 2),
        tau(options.tau),
        pool_(std::make_shared<NodePool>(bytes(0), bytes(1))) {}

  using LeafT = Leaf<Real>;
  using InnerT = Inner<Real>;
  static LeafT* leaf(Node* n) { return static_cast<LeafT*>(n); }
  static InnerT* inner(Node* n) { return static_cast<InnerT*>(n); }
  static const LeafT* leaf(const Node* n) { return static_cast<const LeafT*>(n); }
  static const InnerT* inner(const Node* n) { return static_cast<const InnerT*>(n); }

  Node* make(int level) const;
  std::int64_t made() const { return pool_->taken(); }
  static void drop(Node* node);        // one owner fewer
  static void free_shell(Node* node);  // a node whose children have moved elsewhere
  Node* share(Node* node) const;       // one owner more
  void unshare(Node*& node) const;     // afterwards `node` has one owner

  // Rows of an inner node: of child j, and of the children up to j and from j.
  Real* left(InnerT* n, int j) const { return rows_of(n) + j * stride; }
  Real* right(InnerT* n, int j) const { return rows_of(n) + (kInnerMost + j) * stride; }
  Real* left_to(InnerT* n, int j) const { return rows_of(n) + (2 * kInnerMost + j) * stride; }
  Real* right_from(InnerT* n, int j) const { return rows_of(n) + (3 * kInnerMost + j) * stride; }
  const Real* left(const InnerT* n, int j) const { return left(const_cast<InnerT*>(n), j); }
  const Real* right(const InnerT* n, int j) const { return right(const_cast<InnerT*>(n), j); }
  const Real* left_to(const InnerT* n, int j) const { return left_to(const_cast<InnerT*>(n), j); }
  const Real* right_from(const InnerT* n, int j) const { return right_from(const_cast<InnerT*>(n), j); }
  // Their masses, and mass_stride on those of their moments. Apart, those of left and right rows take turns.
  Real* left_mass(InnerT* n, int j) const { return mass_in_row ? left(n, j) + width : n->sums() + 2 * j; }
  Real* right_mass(InnerT* n, int j) const { return mass_in_row ? right(n, j) + width : n->sums() + 2 * j + 1; }
  Real* left_to_mass(InnerT* n, int j) const {
    return mass_in_row ? left_to(n, j) + width : n->sums() + 2 * (kInnerMost + j);
  }
  Real* right_from_mass(InnerT* n, int j) const {
    return mass_in_row ? right_from(n, j) + width : n->sums() + 2 * (kInnerMost + j) + 1;
  }
  const Real* left_mass(const InnerT* n, int j) const { return left_mass(const_cast<InnerT*>(n), j); }
  const Real* right_mass(const InnerT* n, int j) const { return right_mass(const_cast<InnerT*>(n), j); }
  const Real* left_to_mass(const InnerT* n, int j) const { return left_to_mass(const_cast<InnerT*>(n), j); }
  const Real* right_from_mass(const InnerT* n, int j) const { return right_from_mass(const_cast<InnerT*>(n), j); }
  bool live(const InnerT* n, int j) const { return *left_mass(n, j) > 0; }

  Real* value(LeafT* n, int i) const { return n->values() + i * value_stride; }
  const Real* value(const LeafT* n, int i) const { return n->values() + i * value_stride; }

  // What `parent` holds of its child j, made from the child.
  void summarise(InnerT* parent, int j) const;
  // Whether sorted items that go to leaf j, which has room, can be added to what `parent` holds of it: their keys must
  // be between those it is seen from. Then adds them to both.
  bool can_add(const InnerT* parent, int j, const Item<Real>* begin, const Item<Real>* end) const {
    return may_add(parent, j, begin, end) && live(parent, j);
  }
  // Says so at once, and is hardly ever wrong.
  bool may_add(const InnerT* parent, int j, const Item<Real>* begin, const Item<Real>* end) const {
    return !window && parent->steps == nullptr && begin->key >= parent->lo[j] && (end - 1)->key <= parent->hi[j];
  }
  void add(InnerT* parent, int j, const Item<Real>* begin, const Item<Real>* end) const;
  // The running sums, after children first..last changed.
  void refresh(InnerT* n, int first, int last) const;
  void refresh(InnerT* n) const { refresh(n, 0, n->size - 1); }
  // Puts that off: child j has changed below. `n` has one owner until repair(), which is before anyone may share it.
  void put_off(InnerT* n, int j) const {
    const InnerT* child = inner(n->children[j]);
    n->first_keys[j] = child->first_keys[0];
    n->first_ids[j] = child->first_ids[0];
    n->stale = static_cast<std::uint16_t>(n->stale | 1u << j);
  }
  // Makes what was put off below.
  void repair(Node* node) const;
  // All sums below, for a new temperature.
  void refresh_all(Node*& node) const;

  // Steps on values. `tags` are [profiles, row], zero from `width` on.
  bool waits(const InnerT* n, int j) const { return (n->pending >> j & 1) != 0; }
  void start_steps(InnerT* n) const;
  // The values below child j, by its rows and its tag; running sums are the caller's.
  void step(InnerT* n, int j, const Real* tags) const;
  // Hands the tag of child j, which is unshared, on to what is below it.
  void push(InnerT* n, int j) const;
  // What waits for child j in all: its own tag and what waits for the node `n`. False: nothing does.
  bool carry(const InnerT* n, int j, const Waiting<Real>& above, Real* tags) const;
  // The value of an entry with what waits for it: the leaf's own where nothing does, else made in `scratch`.
  const Real* value_with_steps(const Node* root, Real key, EntryId id, std::vector<Real>& scratch) const;
  // Adds what waits to the value of entry i of the leaf; to all of them, [size, value_stride].
  void step_value(const LeafT* n, int i, const Waiting<Real>& waiting, Real* value) const;
  void step_values(const LeafT* n, const Waiting<Real>& waiting, Real* values) const;
  // out [row] += sum_r c[r] tags [count, row]: values only.
  void add_tags(const Real* tags, const double* c, int count, Real* out) const;
  // How the row of children [from, to), seen from `anchor`, changes with what waits for `n`: the coefficients of its
  // tags, [1 or, with moments, 2; R].
  void add_waiting(const InnerT* n, int from, int to, bool right, Real anchor, const Waiting<Real>& waiting,
                   double* coefficients) const;
  // F(i) of a key.
  void profile(Real key, const Waiting<Real>& edges, Real* f) const;
  // Nothing waits any more: on the way to an entry, or anywhere.
  void settle(Node*& root, Real key, EntryId id) const;
  void settle_all(Node*& root) const;

  // The child that an entry belongs to, and the place of one that is in a leaf.
  static int child_of(const InnerT* n, Real key, EntryId id);
  static int place_of(const LeafT* n, EntryId id);
  // The places of a leaf's entries, sorted by (key, id).
  using Order = std::array<int, kLeafMost>;
  static Order order_of(const LeafT* n);

  // Copies slots (overlap allowed); sums of children move along, running sums do not.
  void move_slots(Node* to, int to_at, const Node* from, int from_at, int count) const;

  // Asks memory for what refresh(n, first, last) and summarise() of those children will want.
  [[gnu::always_inline]] void prefetch_sums(const InnerT* n, int first, int last) const {
    prefetch_bytes(left(n, first), sizeof(Real) * (n->size - first) * stride);
    if (window) return;
    prefetch_bytes(n->sums(), sizeof(Real) * masses());
    prefetch_bytes(right(n, 0), sizeof(Real) * (last + 1) * stride);
    const int f = std::max(0, first - 1);
    prefetch_bytes(left_to(n, f), sizeof(Real) * (n->size - f) * stride);
    prefetch_bytes(right_from(n, 0), sizeof(Real) * std::min<int>(last + 2, n->size) * stride);
  }
  // A leaf, or of an inner node what leads further down.
  [[gnu::always_inline]] void prefetch_head(const Node* node, int level) const {
    prefetch_bytes(node, level == 0 ? sizeof(LeafT) + sizeof(Real) * kLeafFill * value_stride : sizeof(InnerT));
  }
  // (Inlined by force: a function that only prefetches has no effect, says the compiler, and calls of it are dropped.)
  [[gnu::always_inline]] static void prefetch_bytes(const void* from, std::size_t count) {
    const char* at = static_cast<const char*>(from);
    for (const char* end = at + std::min(count, kPrefetchMost); at < end; at += 64) __builtin_prefetch(at);
  }

  // Or, without `values`, only what masses are made of.
  [[gnu::always_inline]] void prefetch_leaf(const Node* node, bool values) const {
    prefetch_bytes(node, sizeof(LeafT) - sizeof(LeafT::ids));  // those are not needed
    if (values) prefetch_bytes(leaf(node)->values(), sizeof(Real) * kLeafFill * value_stride);
  }
  [[gnu::always_inline]] void prefetch_row(const Real* x) const {
    prefetch_bytes(x, sizeof(Real) * stride);
    __builtin_prefetch(reinterpret_cast<const char*>(x + stride) - 1);
  }
  [[gnu::always_inline]] void prefetch_mass(const Real* mass) const {
    __builtin_prefetch(mass);
    if (moments) __builtin_prefetch(mass + mass_stride);
  }
  // Of the left or right rows of children [from, to).
  [[gnu::always_inline]] void prefetch_masses(const InnerT* n, int from, int to, bool of_right) const {
    if (mass_in_row) {
      for (int j = from; j < to; ++j) prefetch_mass(of_right ? right_mass(n, j) : left_mass(n, j));
      return;
    }
    for (int part = 0; part < masses(); part += mass_stride) {
      prefetch_bytes(n->sums() + part, sizeof(Real) * 2 * kInnerMost);
    }
  }

  void set_entry(LeafT* n, int at, const Item<Real>& item) const;

  int width, value_stride;
  bool moments;
  bool window;  // the kernel ends: rows are moments (soft_btree_window.h), and there are no right ones or running sums
  bool mass_in_row;
  int row, mass_stride;
  int stride;
  int profiles;  // R
  Real tau;
  bool stepping = false;  // inner nodes hold what steps need

 private:
  std::size_t bytes(int level) const;  // whole lines
  int masses() const { return mass_in_row ? 0 : moments ? 2 * mass_stride : mass_stride; }
  Real* rows_of(InnerT* n) const { return n->sums() + masses(); }
  double* product(InnerT* n, int j) const { return n->steps + j * profiles * profiles; }
  const double* product(const InnerT* n, int j) const { return n->steps + j * profiles * profiles; }
  Real* tag(InnerT* n, int j) const {
    return reinterpret_cast<Real*>(n->steps + kInnerMost * profiles * profiles) + j * profiles * row;
  }
  const Real* tag(const InnerT* n, int j) const { return tag(const_cast<InnerT*>(n), j); }
  void move_steps(InnerT* to, int to_at, const InnerT* from, int from_at, int count) const;
  // Of an inner child; of a leaf. The others come after them.
  void summarise_inner(InnerT* parent, int j) const;
  void summarise_leaf(InnerT* parent, int j) const;
  void summarise_steps(InnerT* parent, int j) const;
  void summarise_window(InnerT* parent, int j) const;
  rows::Edges<Real> edges_of(InnerT* parent, int j) const;

  std::shared_ptr<NodePool> pool_;  // outlives all nodes, whichever version they are of
};

// Puts sorted entries below `root`, an unshared-on-demand tree; takes them out. Each touched node is made anew once.
template <class Real>
void insert_sorted(const Nodes<Real>& nodes, Node*& root, const Item<Real>* items, std::int64_t count);
template <class Real>
void erase_sorted(const Nodes<Real>& nodes, Node*& root, const Item<Real>* items, std::int64_t count);
// Sets the weight, and the value unless null, of the entry (item.key, item.id).
template <class Real>
void update_entry(const Nodes<Real>& nodes, Node*& root, const Item<Real>& item);

// A leaf and a place in it.
template <class Real>
struct Found {
  const Leaf<Real>* leaf;
  int at;
};
// Of an entry that is there.
template <class Real>
Found<Real> find_entry(const Node* root, Real key, EntryId id) {
  while (!root->leaf()) {
    const auto* n = Nodes<Real>::inner(root);
    root = n->children[Nodes<Real>::child_of(n, key, id)];
  }
  const auto* leaf = Nodes<Real>::leaf(root);
  return {leaf, Nodes<Real>::place_of(leaf, id)};
}

}  // namespace tandem::replay::tree

// The state behind SoftBTree: the current version's root and tables, and what only the writer needs.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "replay/soft_btree_order.h"
#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_state.h"

namespace tandem::replay {

template <class Real>
struct SoftBTree<Real>::Impl {
  explicit Impl(const SoftBTreeOptions<Real>& options) : options(options), nodes(options), root(nodes.make(0)) {}

  Status check_there(const char* call, EntryId id) const;
  Status check_distinct(const char* call, std::span<const EntryId> ids) const;  // and there
  Status check_room(std::size_t more) const;
  // Nothing waits for the entry that is found.
  tree::Found<Real> find(EntryId id) {
    if (stepped) nodes.settle(root.node, keys[id], id);
    return tree::find_entry<Real>(root.node, keys[id], id);
  }

  // Arguments have been checked.
  void insert(std::span<const Real> keys_in, std::span<const Real> values, std::span<const Real> weights,
              std::span<EntryId> ids);
  void erase(std::span<const EntryId> ids);
  void set_keys(std::span<const EntryId> ids, std::span<const Real> keys_in);
  void update(const tree::Item<Real>& item);
  void set_tau(Real tau);
  std::optional<EntryId> lightest();
  SoftBTreeSnapshot<Real> snapshot();
  Status step_values(Real query, std::span<const Real> d_read, Real rate, const tree::Probe<Real>& probe, Real z);
  Status step_window(Real query, std::span<const Real> d_read, Real rate);
  // Every step has reached its entries, and sums are made of those alone: the state is what is saved. A new version if
  // any waited, as sums are rounded otherwise.
  void settle();

  SoftBTreeOptions<Real> options;
  tree::Nodes<Real> nodes;
  tree::Root<Real> root;
  tree::KeyTable<Real> keys;
  std::int64_t size = 0;
  std::uint64_t version = 0;
  bool stepped = false;  // steps may wait, and sums have grown by them

  std::vector<EntryId> free_ids;  // the last is given out next
  InsertionOrder order;
  std::optional<WeightHeap<Real>> by_weight;  // made when first asked for
  std::vector<Real> kept;                     // a value that is on its way in
  std::vector<Real> looked_at;                // what entry() gave, where steps wait for it

 private:
  void sort_items();
  std::vector<tree::Item<Real>> items_, sorted_;  // scratch
};

}  // namespace tandem::replay

#include "replay/soft_btree_writer.h"

#include <algorithm>

namespace tandem::replay {

using tree::Item;

template <class Real>
Status SoftBTree<Real>::Impl::check_there(const char* call, EntryId id) const {
  if (keys.has(id)) return ok_status();
  return not_found("{}: no entry {}", call, id);
}

template <class Real>
Status SoftBTree<Real>::Impl::check_distinct(const char* call, std::span<const EntryId> ids) const {
  for (const EntryId id : ids) TD_TRY(check_there(call, id));
  if (ids.size() < 2) return ok_status();
  std::vector<EntryId> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return ok_status();
  return invalid_argument("{}: entry {} is named twice", call, *twice);
}

template <class Real>
Status SoftBTree<Real>::Impl::check_room(std::size_t more) const {
  const std::size_t new_ids = more > free_ids.size() ? more - free_ids.size() : 0;
  if (new_ids < std::numeric_limits<EntryId>::max() - static_cast<std::size_t>(keys.end())) return ok_status();
  return resource_exhausted("insert: {} more entries than ids are left for; erase some", new_ids);
}

template <class Real>
void SoftBTree<Real>::Impl::sort_items() {
  if (items_.size() < 2) return;
  std::sort(items_.begin(), items_.end(),
            [](const Item<Real>& a, const Item<Real>& b) { return tree::before(a.key, a.id, b.key, b.id); });
}

template <class Real>
void SoftBTree<Real>::Impl::insert(std::span<const Real> keys_in, std::span<const Real> values,
                                   std::span<const Real> weights, std::span<EntryId> ids) {
  if (keys_in.empty()) return;
  items_.clear();
  for (std::size_t j = 0; j < keys_in.size(); ++j) {
    EntryId id = keys.end();
    if (!free_ids.empty()) {
      id = free_ids.back();
      free_ids.pop_back();
    }
    ids[j] = id;
    const Real key = keys_in[j] + Real(0);  // one zero only
    const Real weight = weights.empty() ? Real(1) : weights[j] + Real(0);
    keys.set(id, key);
    order.append(id);
    if (by_weight) by_weight->add(id, weight, order.number(id));
    items_.push_back({key, id, weight, values.data() + j * nodes.width});
  }
  sort_items();
  tree::insert_sorted(nodes, root.node, items_.data(), static_cast<std::int64_t>(items_.size()));
  size += static_cast<std::int64_t>(keys_in.size());
  ++version;
}

template <class Real>
void SoftBTree<Real>::Impl::erase(std::span<const EntryId> ids) {
  if (ids.empty()) return;
  items_.clear();
  for (const EntryId id : ids) items_.push_back({keys[id], id, 0, nullptr});
  sort_items();
  tree::erase_sorted(nodes, root.node, items_.data(), static_cast<std::int64_t>(items_.size()));
  for (const EntryId id : ids) {
    keys.remove(id);
    free_ids.push_back(id);
    order.remove(id);
    if (by_weight) by_weight->remove(id);
  }
  size -= static_cast<std::int64_t>(ids.size());
  ++version;
}

template <class Real>
void SoftBTree<Real>::Impl::set_keys(std::span<const EntryId> ids, std::span<const Real> keys_in) {
  if (ids.empty()) return;
  std::vector<Item<Real>> moved;
  std::vector<Real> values(ids.size() * nodes.width);
  items_.clear();
  for (std::size_t j = 0; j < ids.size(); ++j) {
    const auto found = find(ids[j]);
    Real* value = values.data() + j * nodes.width;
    std::copy_n(nodes.value(found.leaf, found.at), nodes.width, value);
    items_.push_back({keys[ids[j]], ids[j], 0, nullptr});
    moved.push_back({keys_in[j] + Real(0), ids[j], found.leaf->weights[found.at], value});
  }
  sort_items();
  tree::erase_sorted(nodes, root.node, items_.data(), static_cast<std::int64_t>(items_.size()));
  items_ = std::move(moved);
  sort_items();
  tree::insert_sorted(nodes, root.node, items_.data(), static_cast<std::int64_t>(items_.size()));
  for (std::size_t j = 0; j < ids.size(); ++j) keys.set(ids[j], keys_in[j] + Real(0));
  ++version;
}

template <class Real>
void SoftBTree<Real>::Impl::update(const Item<Real>& item) {
  tree::update_entry(nodes, root.node, item);
  if (by_weight) by_weight->set_weight(item.id, item.weight);
  ++version;
}

template <class Real>
void SoftBTree<Real>::Impl::set_tau(Real tau) {
  settle();
  options.tau = nodes.tau = tau;
  nodes.refresh_all(root.node);
  ++version;
}

template <class Real>
void SoftBTree<Real>::Impl::settle() {
  if (!stepped) return;
  nodes.settle_all(root.node);
  nodes.refresh_all(root.node);
  stepped = false;
  ++version;
}

template <class Real>
std::optional<EntryId> SoftBTree<Real>::Impl::lightest() {
  if (!by_weight) {
    by_weight.emplace();
    for (EntryId id = 0; id < keys.end(); ++id) {
      if (!keys.has(id)) continue;
      const auto found = tree::find_entry<Real>(root.node, keys[id], id);
      by_weight->add(id, found.leaf->weights[found.at], order.number(id));
    }
  }
  return by_weight->top();
}

template <class Real>
SoftBTreeSnapshot<Real> SoftBTree<Real>::Impl::snapshot() {
  using Version = typename SoftBTreeSnapshot<Real>::Impl;
  SoftBTreeSnapshot<Real> snapshot;
  snapshot.impl_ = std::make_shared<const Version>(nodes, nodes.share(root.node), keys, size, version);
  return snapshot;
}

template struct SoftBTree<float>::Impl;
template struct SoftBTree<double>::Impl;

}  // namespace tandem::replay

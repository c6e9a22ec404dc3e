#include "replay/soft_btree_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <type_traits>

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

namespace {

// An unsigned number of the same order as the key.
template <class Real>
auto ordered(Real key) {
  using Bits = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;
  const Bits bits = std::bit_cast<Bits>(key), sign = Bits{1} << (8 * sizeof(Real) - 1);
  return (bits & sign) != 0 ? ~bits : bits | sign;
}

// Places of the items in the order of their keys, equal ones as they were: by digits, the last first.
template <class Real>
std::vector<std::uint32_t> order_of(const std::vector<Item<Real>>& items) {
  constexpr int kDigit = 11;
  struct Seat {
    decltype(ordered(Real())) key;
    std::uint32_t at;
  };
  std::vector<Seat> seats(items.size()), next(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) seats[i] = {ordered(items[i].key), static_cast<std::uint32_t>(i)};
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Real)); shift += kDigit) {
    std::array<std::uint32_t, 1 << kDigit> to = {};
    const auto digit = [shift](const Seat& seat) { return seat.key >> shift & ((1 << kDigit) - 1); };
    for (const Seat& seat : seats) ++to[digit(seat)];
    std::exclusive_scan(to.begin(), to.end(), to.begin(), 0u);
    for (const Seat& seat : seats) next[to[digit(seat)]++] = seat;
    std::swap(seats, next);
  }
  std::vector<std::uint32_t> order(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) order[i] = seats[i].at;
  return order;
}

constexpr std::size_t kDigitsFrom = 512;  // fewer are compared

}  // namespace

template <class Real>
void SoftBTree<Real>::Impl::sort_items() {
  const auto less = [](const Item<Real>& a, const Item<Real>& b) { return tree::before(a.key, a.id, b.key, b.id); };
  if (items_.size() < 2) return;
  if (items_.size() < kDigitsFrom) {
    std::sort(items_.begin(), items_.end(), less);
    return;
  }
  sorted_.clear();
  for (const std::uint32_t at : order_of(items_)) sorted_.push_back(items_[at]);
  std::swap(items_, sorted_);
  for (auto first = items_.begin(); first != items_.end();) {
    const auto last = std::find_if(first, items_.end(), [&](const Item<Real>& item) { return item.key != first->key; });
    if (last - first > 1) std::sort(first, last, less);
    first = last;
  }
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
  nodes.repair(root.node);
  SoftBTreeSnapshot<Real> snapshot;
  snapshot.impl_ = std::make_shared<const Version>(nodes, nodes.share(root.node), keys, size, version);
  return snapshot;
}

template struct SoftBTree<float>::Impl;
template struct SoftBTree<double>::Impl;

}  // namespace tandem::replay

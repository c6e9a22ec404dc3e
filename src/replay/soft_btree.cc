// The writer's side: arguments, ids, versions; the tree itself is changed in soft_btree_mutate.cc.
#include "replay/soft_btree.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "replay/soft_btree_writer.h"

namespace tandem::replay {

using tree::Item;

namespace {

template <class Real>
Status check_weight(const char* call, Real weight) {
  if (std::isfinite(weight) && weight >= 0) return ok_status();
  return invalid_argument("{}: a weight of {}; weights are finite and not negative", call, weight);
}

template <class Real>
Status check_finite(const char* call, const char* what, std::span<const Real> x) {
  for (const Real value : x) {
    if (!std::isfinite(value)) return invalid_argument("{}: a {} is {}, not finite", call, what, value);
  }
  return ok_status();
}

template <class Real>
Status check_tau(const char* call, Real tau) {
  if (std::isfinite(tau) && tau > 0) return ok_status();
  return invalid_argument("{}: tau is {}, must be positive and finite", call, tau);
}

}  // namespace

template <class Real>
Result<SoftBTree<Real>> SoftBTree<Real>::create(const SoftBTreeOptions<Real>& options) {
  if (options.value_width < 1 || options.value_width > kSoftWidthMax) {
    return invalid_argument("SoftBTree: value_width is {}; 1 to {} are supported", options.value_width, kSoftWidthMax);
  }
  TD_TRY(check_tau("SoftBTree", options.tau));
  return SoftBTree(std::make_unique<Impl>(options));
}

template <class Real>
SoftBTree<Real>::SoftBTree(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
template <class Real>
SoftBTree<Real>::SoftBTree(SoftBTree&&) noexcept = default;
template <class Real>
SoftBTree<Real>& SoftBTree<Real>::operator=(SoftBTree&&) noexcept = default;
template <class Real>
SoftBTree<Real>::~SoftBTree() = default;

template <class Real>
std::int64_t SoftBTree<Real>::size() const {
  return impl_->size;
}
template <class Real>
EntryId SoftBTree<Real>::ids_end() const {
  return impl_->keys.end();
}
template <class Real>
std::uint64_t SoftBTree<Real>::version() const {
  return impl_->version;
}
template <class Real>
const SoftBTreeOptions<Real>& SoftBTree<Real>::options() const {
  return impl_->options;
}
template <class Real>
std::int64_t SoftBTree<Real>::nodes_made() const {
  return impl_->nodes.made();
}
template <class Real>
std::optional<EntryId> SoftBTree<Real>::oldest() const {
  return impl_->order.oldest();
}

template <class Real>
std::optional<EntryId> SoftBTree<Real>::lightest() const {
  return impl_->lightest();
}

template <class Real>
auto SoftBTree<Real>::entry(EntryId id) const -> Result<Entry> {
  TD_TRY(impl_->check_there("entry", id));
  const auto& nodes = impl_->nodes;
  const Real key = impl_->keys[id];
  const auto found = tree::find_entry<Real>(impl_->root.node, key, id);
  const Real* value = nodes.value_with_steps(impl_->root.node, key, id, impl_->looked_at);
  return Entry{key, found.leaf->weights[found.at], {value, static_cast<std::size_t>(nodes.width)}};
}

template <class Real>
Result<EntryId> SoftBTree<Real>::insert(Real key, std::span<const Real> value, Real weight) {
  EntryId id = 0;
  impl_->kept.assign(value.begin(), value.end());  // it may be an entry's, which move
  TD_TRY(insert_batch({&key, 1}, impl_->kept, {&weight, 1}, {&id, 1}));
  return id;
}

template <class Real>
Status SoftBTree<Real>::erase(EntryId id) {
  return erase_batch({&id, 1});
}

template <class Real>
Status SoftBTree<Real>::set_key(EntryId id, Real key) {
  return set_keys({&id, 1}, {&key, 1});
}

template <class Real>
Status SoftBTree<Real>::set_value(EntryId id, std::span<const Real> value) {
  TD_TRY(check_count("set_value", "value", value.size(), options().value_width));
  TD_TRY(check_finite("set_value", "value", value));
  TD_TRY(impl_->check_there("set_value", id));
  const std::vector<Real> kept(value.begin(), value.end());  // it may be an entry's
  const auto found = impl_->find(id);
  impl_->update({impl_->keys[id], id, found.leaf->weights[found.at], kept.data()});
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::set_weight(EntryId id, Real weight) {
  TD_TRY(check_weight("set_weight", weight));
  TD_TRY(impl_->check_there("set_weight", id));
  impl_->update({impl_->keys[id], id, weight, nullptr});
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::insert_batch(std::span<const Real> keys, std::span<const Real> values,
                                     std::span<const Real> weights, std::span<EntryId> ids) {
  const std::size_t m = keys.size();
  TD_TRY(check_count("insert", "value", values.size(), m * options().value_width));
  if (!weights.empty()) TD_TRY(check_count("insert", "weights", weights.size(), m));
  TD_TRY(check_count("insert", "ids", ids.size(), m));
  TD_TRY(check_finite("insert", "key", keys));
  TD_TRY(check_finite("insert", "value", values));
  for (const Real weight : weights) TD_TRY(check_weight("insert", weight));
  TD_TRY(impl_->check_room(m));
  impl_->insert(keys, values, weights, ids);
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::erase_batch(std::span<const EntryId> ids) {
  TD_TRY(impl_->check_distinct("erase", ids));
  impl_->erase(ids);
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::set_keys(std::span<const EntryId> ids, std::span<const Real> keys) {
  TD_TRY(check_count("set_keys", "keys", keys.size(), ids.size()));
  TD_TRY(check_finite("set_keys", "key", keys));
  TD_TRY(impl_->check_distinct("set_keys", ids));
  impl_->set_keys(ids, keys);
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::set_tau(Real tau) {
  TD_TRY(check_tau("set_tau", tau));
  impl_->set_tau(tau);
  return ok_status();
}

template <class Real>
SoftBTreeSnapshot<Real> SoftBTree<Real>::snapshot() {
  return impl_->snapshot();
}

template class SoftBTree<float>;
template class SoftBTree<double>;

}  // namespace tandem::replay

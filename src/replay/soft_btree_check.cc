// What must hold of a tree, recomputed from its entries.
#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "replay/soft_btree_writer.h"

namespace tandem::replay {
namespace {

using tree::Node;
using tree::Nodes;

template <class Real>
class Checker {
 public:
  Checker(const Nodes<Real>& nodes, const tree::KeyTable<Real>& keys) : nodes_(nodes), keys_(keys) {}

  // Entries below `node`, appended in order.
  void visit(const Node* node, bool root, const tree::Waiting<Real>& above = {0, 0, nullptr}) {
    TD_CHECK(node->size <= node->most(), node->size);
    if (!root) TD_CHECK(node->size >= node->least(), node->size, node->level);
    if (root && !node->leaf()) TD_CHECK(node->size >= 2, node->size);
    TD_CHECK(node->owners.load() >= 1);
    if (node->leaf()) {
      const auto* n = Nodes<Real>::leaf(node);
      const Real* values = n->values();
      if (above.tags != nullptr) {
        std::vector<Real>& stepped = stepped_.emplace_back(values, values + n->size * nodes_.value_stride);
        nodes_.step_values(n, above, stepped.data());
        values = stepped.data();
      }
      for (int i = n->size; i < tree::kLeafMost; ++i) TD_CHECK(n->weights[i] == 0, i, n->weights[i]);
      const auto order = Nodes<Real>::order_of(n);
      for (int t = 0; t < n->size; ++t) {
        const int i = order[t];
        TD_CHECK(keys_.has(n->ids[i]) && keys_[n->ids[i]] == n->keys[i], n->ids[i], n->keys[i]);
        TD_CHECK(std::isfinite(n->weights[i]) && n->weights[i] >= 0, n->weights[i]);
        if (!entries_.empty()) {
          TD_CHECK(tree::before(entries_.back().key, entries_.back().id, n->keys[i], n->ids[i]), n->keys[i]);
        }
        entries_.push_back({n->keys[i], n->ids[i], n->weights[i], values + i * nodes_.value_stride});
        for (int k = nodes_.width; k < nodes_.value_stride; ++k) TD_CHECK(entries_.back().value[k] == 0, k);
      }
      return;
    }
    const auto* n = Nodes<Real>::inner(node);
    TD_CHECK(n->stale == 0, n->stale);
    const std::size_t begin = entries_.size();
    std::vector<std::size_t> bounds = {begin};
    std::vector<Real> waiting(static_cast<std::size_t>(nodes_.profiles * nodes_.row));
    TD_CHECK((n->steps != nullptr) == nodes_.stepping);
    for (int j = 0; j < n->size; ++j) {
      TD_CHECK(n->children[j]->level + 1 == n->level, j);
      const bool waits = nodes_.carry(n, j, above, waiting.data());
      visit(n->children[j], false, {n->hi[j], n->lo[j], waits ? waiting.data() : nullptr});
      TD_CHECK(entries_[bounds.back()].key == n->first_keys[j] && entries_[bounds.back()].id == n->first_ids[j], j);
      bounds.push_back(entries_.size());
    }
    for (int j = 0; j < n->size; ++j) {
      if (nodes_.window) {
        check_moments(n, j, bounds[j], bounds[j + 1]);
        continue;
      }
      check_sums(above, n, {j, j + 1}, bounds[j], bounds[j + 1], {nodes_.left(n, j), nodes_.left_mass(n, j)}, true);
      check_sums(above, n, {j, j + 1}, bounds[j], bounds[j + 1], {nodes_.right(n, j), nodes_.right_mass(n, j)}, false);
      check_sums(above, n, {0, j + 1}, begin, bounds[j + 1], {nodes_.left_to(n, j), nodes_.left_to_mass(n, j)}, true,
                 n->hi[j]);
      check_sums(above, n, {j, n->size}, bounds[j], entries_.size(),
                 {nodes_.right_from(n, j), nodes_.right_from_mass(n, j)}, false, n->lo[j]);
    }
  }
  std::size_t count() const { return entries_.size(); }

 private:
  struct Kept {
    const Real *row, *mass;
  };
  // A row (and its moments), with what waits for the node, against the entries [begin, end), seen from their last or
  // first live key.
  void check_sums(const tree::Waiting<Real>& above, const tree::Inner<Real>* n, std::pair<int, int> children,
                  std::size_t begin, std::size_t end, const Kept& kept, bool from_last,
                  std::optional<Real> anchor_kept = {}) {
    double anchor = from_last ? -INFINITY : INFINITY;
    for (std::size_t i = begin; i < end; ++i) {
      const double key = entries_[i].key;
      if (entries_[i].weight > 0) anchor = from_last ? std::max(anchor, key) : std::min(anchor, key);
    }
    if (anchor_kept) TD_CHECK(*anchor_kept == static_cast<Real>(anchor), *anchor_kept, anchor);
    const int row_width = nodes_.width + 1, parts = nodes_.moments ? 2 : 1;
    std::vector<double> sum(parts * row_width), scale(parts * row_width), size(parts * row_width, 1.0);
    for (std::size_t i = begin; i < end; ++i) {
      const auto& entry = entries_[i];
      if (entry.weight == 0) continue;
      const double u = std::abs(anchor - entry.key) / nodes_.tau;
      for (int part = 0; part < parts; ++part) {
        const double c = entry.weight * std::exp(-u) * (part == 0 ? 1 : u);
        if (!(c > 0)) continue;
        for (int k = 0; k <= nodes_.width; ++k) {
          const double x = k < nodes_.width ? entry.value[k] : 1.0;
          sum[part * row_width + k] += c * x;
          scale[part * row_width + k] += c * std::abs(x) * (1 + u);
          size[part * row_width + k] += entry.weight * std::abs(x) * (1 + u);
        }
      }
    }
    std::vector<Real> row(parts * row_width);
    for (int part = 0; part < parts; ++part) {
      std::copy_n(kept.row + part * nodes_.row, nodes_.width, row.begin() + part * row_width);
      row[part * row_width + nodes_.width] = kept.mass[part * nodes_.mass_stride];
    }
    if (above.tags != nullptr && sum[nodes_.width] > 0) {
      double changes[2 * tree::kProfilesMost] = {};
      nodes_.add_waiting(n, children.first, children.second, !from_last, static_cast<Real>(anchor), above, changes);
      for (int part = 0; part < parts; ++part) {
        for (int r = 0; r < nodes_.profiles; ++r) {
          for (int k = 0; k < nodes_.width; ++k) {
            Real& out = row[part * row_width + k];
            out = static_cast<Real>(out + changes[part * nodes_.profiles + r] * above.tags[r * nodes_.row + k]);
          }
        }
      }
    }
    const double tolerance = 400 * std::numeric_limits<Real>::epsilon();
    for (int k = 0; k < parts * row_width; ++k) {
      const double underflow = 100 * std::numeric_limits<Real>::min() * size[k];  // of e^-u, before it is multiplied
      TD_CHECK(std::abs(row[k] - sum[k]) <= tolerance * scale[k] + underflow, k, row[k], sum[k]);
    }
  }

  // Moments of child j against the entries [begin, end).
  void check_moments(const tree::Inner<Real>* n, int j, std::size_t begin, std::size_t end) {
    Real lo = INFINITY, hi = -INFINITY;
    for (std::size_t i = begin; i < end; ++i) {
      if (entries_[i].weight == 0) continue;
      lo = std::min(lo, entries_[i].key);
      hi = std::max(hi, entries_[i].key);
    }
    TD_CHECK(nodes_.live(n, j) == (lo <= hi), j);
    if (lo <= hi) TD_CHECK(n->lo[j] == lo && n->hi[j] == hi, n->lo[j], n->hi[j], lo, hi);
    const double width = (double(hi) - double(lo)) / double(nodes_.tau);
    for (int part = 0; part < 5; ++part) {
      if (part > 0 && !(width <= 2)) continue;
      for (int k = 0; k <= nodes_.width; ++k) {
        double sum = 0, scale = 0;
        for (std::size_t i = begin; i < end; ++i) {
          if (entries_[i].weight == 0) continue;
          const double from_lo = (double(entries_[i].key) - double(lo)) / double(nodes_.tau);
          const double m = part < 3 ? from_lo : (double(hi) - double(entries_[i].key)) / double(nodes_.tau);
          const double x = double(entries_[i].weight) * (k < nodes_.width ? double(entries_[i].value[k]) : 1.0);
          sum += x * (part == 0 ? 1 : part % 2 == 1 ? m : m * m);
          scale += std::abs(x) * (part == 0 ? 1 : 4);
        }
        const double have = nodes_.left(n, j)[part * nodes_.row + k];
        TD_CHECK(std::abs(have - sum) <= 100 * std::numeric_limits<Real>::epsilon() * scale, part, k, have, sum);
      }
    }
  }

  const Nodes<Real>& nodes_;
  const tree::KeyTable<Real>& keys_;
  std::vector<tree::Item<Real>> entries_;
  std::deque<std::vector<Real>> stepped_;  // values of leaves that something waits for
};

}  // namespace

template <class Real>
void SoftBTree<Real>::check_invariants() const {
  impl_->nodes.repair(impl_->root.node);
  Checker<Real> checker(impl_->nodes, impl_->keys);
  checker.visit(impl_->root.node, true);
  TD_CHECK(static_cast<std::int64_t>(checker.count()) == impl_->size, checker.count(), impl_->size);
  std::int64_t there = 0;
  for (EntryId id = 0; id < impl_->keys.end(); ++id) there += impl_->keys.has(id);
  TD_CHECK(there == impl_->size, there, impl_->size);
  TD_CHECK(impl_->free_ids.size() + there == impl_->keys.end());
}

template void SoftBTree<float>::check_invariants() const;
template void SoftBTree<double>::check_invariants() const;

}  // namespace tandem::replay

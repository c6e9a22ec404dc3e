// Reading a version of the tree.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "base/check.h"
#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_quick.h"
#include "replay/soft_btree_state.h"
#include "replay/soft_btree_window.h"

namespace tandem::replay {

using tree::Gather;
using tree::Probe;
using tree::QuickRead;
using tree::Window;

template <class Real>
std::int64_t SoftBTreeSnapshot<Real>::size() const {
  return impl_->size;
}
template <class Real>
EntryId SoftBTreeSnapshot<Real>::ids_end() const {
  return impl_->keys.end();
}
template <class Real>
std::uint64_t SoftBTreeSnapshot<Real>::version() const {
  return impl_->version;
}
template <class Real>
int SoftBTreeSnapshot<Real>::value_width() const {
  return impl_->nodes.width;
}
template <class Real>
Real SoftBTreeSnapshot<Real>::tau() const {
  return impl_->nodes.tau;
}

template <class Real>
Status SoftBTreeSnapshot<Real>::Impl::check_queries(const char* call, std::span<const Real> queries) const {
  for (std::size_t j = 0; j < queries.size(); ++j) {
    if (!std::isfinite(queries[j])) return invalid_argument("{}: query {} is not finite", call, j);
  }
  if (!queries.empty() && !live()) {
    return make_status(StatusCode::kNotFound, "{}: the tree holds no entry of positive weight", call);
  }
  return ok_status();
}

template <class Real>
bool SoftBTreeSnapshot<Real>::Impl::live() const {
  if (!root.node->leaf()) {
    const auto* n = tree::Nodes<Real>::inner(root.node);
    if (nodes.window) {
      for (int j = 0; j < n->size; ++j) {
        if (nodes.live(n, j)) return true;
      }
      return false;
    }
    return *nodes.left_to_mass(n, n->size - 1) > 0;
  }
  const auto* n = tree::Nodes<Real>::leaf(root.node);
  for (int i = 0; i < n->size; ++i) {
    if (n->weights[i] > 0) return true;
  }
  return false;
}

namespace {

Status out_of_reach(const char* call, std::size_t query) {
  return not_found("{}: no entry is within tau of query {}; raise tau", call, query);
}

template <class Real>
void write_read(const tree::Nodes<Real>& nodes, const Real* total, Real* read) {
  for (int k = 0; k < nodes.width; ++k) read[k] = total[k] / total[nodes.width];
}

// Several queries are on their way at once, each some steps further than the one behind it: what a step looks at comes
// from memory while the others take theirs.
constexpr std::size_t kReadsAhead = 8, kRestAfter = 3;

// Reads with a kernel that does not end.
template <class Real>
class Reader {
 public:
  Reader(const tree::Nodes<Real>& nodes, const tree::Node* root, std::span<const Real> queries, std::span<Real> reads,
         std::span<Real> log_z)
      : nodes_(nodes),
        root_(root),
        queries_(queries),
        reads_(reads),
        log_z_(log_z),
        far_values_(nodes.value_stride > 64 ? nodes.value_stride : 0),
        values_(far_values_.empty() ? near_values_.data() : far_values_.data()) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void read() {
    const std::size_t m = queries_.size();
    for (std::size_t t = 0; t < m + kReadsAhead - 1; ++t) {
      if (t < m) descend(t);
      if (t >= kRestAfter && t - kRestAfter < m) descend_rest(t - kRestAfter);
      if (t >= kReadsAhead - 1) answer(t - (kReadsAhead - 1));
    }
  }

 private:
  void descend(std::size_t j) {
    tree::quick_descend(nodes_, root_, queries_[j], quick(j));
    if (!quick(j).usual) probe(j).descend(nodes_, root_, queries_[j]);
  }
  void descend_rest(std::size_t j) {
    if (quick(j).usual) {
      tree::quick_descend_rest(nodes_, quick(j));
      if (quick(j).usual) return;
      probe(j).descend(nodes_, root_, queries_[j]);
    }
    probe(j).descend_rest(nodes_);
  }
  void answer(std::size_t j) {
    if (quick(j).usual) {
      const auto total = tree::quick_total(nodes_, quick(j), values_);
      write(j, values_, total.z, total.nearest);
      return;
    }
    Gather<Real> gather(nodes_);
    probe(j).arrive();
    gather.add_total(probe(j));
    write(j, gather.total(), gather.total()[nodes_.width], probe(j).nearest);
  }
  void write(std::size_t j, const Real* values, Real z, Real nearest) {
    const std::size_t width = static_cast<std::size_t>(nodes_.width);
    for (std::size_t k = 0; k < width; ++k) reads_[j * width + k] = values[k] / z;
    if (log_z_.empty()) return;
    log_z_[j] = static_cast<Real>(std::log(static_cast<double>(z)) -
                                  static_cast<double>(nearest) / static_cast<double>(nodes_.tau));
  }

  QuickRead<Real>& quick(std::size_t j) { return quick_[j % kReadsAhead]; }
  Probe<Real>& probe(std::size_t j) {
    if (probes_ == nullptr) probes_ = std::make_unique<Probe<Real>[]>(std::min(kReadsAhead, queries_.size()));
    return probes_[j % kReadsAhead];
  }

  const tree::Nodes<Real>& nodes_;
  const tree::Node* root_;
  const std::span<const Real> queries_;
  const std::span<Real> reads_, log_z_;
  std::array<QuickRead<Real>, kReadsAhead> quick_;
  std::unique_ptr<Probe<Real>[]> probes_;  // of queries that are not usual; none at first
  alignas(64) std::array<Real, 64> near_values_;
  std::vector<Real> far_values_;
  Real* values_;
};

}  // namespace

template <class Real>
Status SoftBTreeSnapshot<Real>::read(std::span<const Real> queries, std::span<Real> reads,
                                     std::span<Real> log_z) const {
  const auto& nodes = impl_->nodes;
  TD_TRY(check_count("read", "reads", reads.size(), queries.size() * nodes.width));
  if (!log_z.empty()) TD_TRY(check_count("read", "log_z", log_z.size(), queries.size()));
  TD_TRY(impl_->check_queries("read", queries));
  if (nodes.window) {
    Window<Real> window(nodes);
    for (std::size_t j = 0; j < queries.size(); ++j) {
      if (!window.gather(impl_->root.node, queries[j])) return out_of_reach("read", j);
      write_read(nodes, window.value(), reads.data() + j * nodes.width);
      if (!log_z.empty()) log_z[j] = static_cast<Real>(std::log(static_cast<double>(window.value()[nodes.width])));
    }
    return ok_status();
  }
  Reader<Real>(nodes, impl_->root.node, queries, reads, log_z).read();
  return ok_status();
}

template <class Real>
Status SoftBTreeSnapshot<Real>::read_without(std::span<const Real> queries, std::span<const EntryId> except,
                                             std::span<Real> reads) const {
  const auto& nodes = impl_->nodes;
  TD_TRY(check_count("read_without", "except", except.size(), queries.size()));
  TD_TRY(check_count("read_without", "reads", reads.size(), queries.size() * nodes.width));
  TD_TRY(impl_->check_queries("read_without", queries));
  if (nodes.window) {
    Window<Real> window(nodes);
    for (std::size_t j = 0; j < queries.size(); ++j) {
      if (!impl_->keys.has(except[j])) return not_found("read_without: no entry {}", except[j]);
      const typename Window<Real>::Except left_out = {impl_->keys[except[j]], except[j]};
      if (!window.gather(impl_->root.node, queries[j], &left_out)) return out_of_reach("read_without", j);
      write_read(nodes, window.value(), reads.data() + j * nodes.width);
    }
    return ok_status();
  }
  Probe<Real> probe;
  const auto locate = [&](std::size_t j) {
    probe.locate_without(nodes, impl_->root.node, queries[j], impl_->keys[except[j]], except[j]);
  };
  for (std::size_t j = 0; j < queries.size(); ++j) {
    if (!impl_->keys.has(except[j])) return not_found("read_without: no entry {}", except[j]);
    locate(j);
    if (!probe.found()) return not_found("read_without: nothing is left without entry {}", except[j]);
  }
  Gather<Real> gather(nodes);
  for (std::size_t j = 0; j < queries.size(); ++j) {
    locate(j);
    gather.add_total(probe);
    write_read(nodes, gather.total(), reads.data() + j * nodes.width);
  }
  return ok_status();
}

template <class Real>
Status SoftBTreeSnapshot<Real>::log_prob(std::span<const Real> queries, std::span<const EntryId> ids,
                                         std::span<Real> log_probs) const {
  const auto& nodes = impl_->nodes;
  TD_TRY(check_count("log_prob", "ids", ids.size(), queries.size()));
  TD_TRY(check_count("log_prob", "log_probs", log_probs.size(), queries.size()));
  TD_TRY(impl_->check_queries("log_prob", queries));
  for (const EntryId id : ids) {
    if (!impl_->keys.has(id)) return not_found("log_prob: no entry {}", id);
  }
  if (nodes.window) {
    const Window<Real> window(nodes);
    for (std::size_t j = 0; j < queries.size(); ++j) {
      const double z = window.mass(impl_->root.node, queries[j]);
      if (!(z > 0)) return out_of_reach("log_prob", j);
      const auto found = tree::find_entry<Real>(impl_->root.node, impl_->keys[ids[j]], ids[j]);
      const double w = found.leaf->weights[found.at];
      const double u = static_cast<double>((queries[j] - found.leaf->keys[found.at]) / nodes.tau);
      log_probs[j] = static_cast<Real>(std::log(w) + std::log(std::max(0.0, (1 - u) * (1 + u))) - std::log(z));
    }
    return ok_status();
  }
  Probe<Real> probe;
  Gather<Real> gather(nodes);
  for (std::size_t j = 0; j < queries.size(); ++j) {
    probe.locate(nodes, impl_->root.node, queries[j]);
    gather.add_total(probe);
    const Real key = impl_->keys[ids[j]];
    const auto found = tree::find_entry<Real>(impl_->root.node, key, ids[j]);
    const double tau = nodes.tau, distance = std::abs(static_cast<double>(queries[j]) - static_cast<double>(key));
    const double shape = nodes.moments ? std::log1p(distance / tau) : 0;
    log_probs[j] = static_cast<Real>(shape - (distance - probe.distance()) / tau +
                                     std::log(static_cast<double>(found.leaf->weights[found.at])) -
                                     std::log(static_cast<double>(gather.total()[nodes.width])));
  }
  return ok_status();
}

#define TD_INSTANTIATE(Real)                                                                                          \
  template std::int64_t SoftBTreeSnapshot<Real>::size() const;                                                        \
  template EntryId SoftBTreeSnapshot<Real>::ids_end() const;                                                          \
  template std::uint64_t SoftBTreeSnapshot<Real>::version() const;                                                    \
  template int SoftBTreeSnapshot<Real>::value_width() const;                                                          \
  template Real SoftBTreeSnapshot<Real>::tau() const;                                                                 \
  template Status SoftBTreeSnapshot<Real>::Impl::check_queries(const char*, std::span<const Real>) const;             \
  template bool SoftBTreeSnapshot<Real>::Impl::live() const;                                                          \
  template Status SoftBTreeSnapshot<Real>::read(std::span<const Real>, std::span<Real>, std::span<Real>) const;       \
  template Status SoftBTreeSnapshot<Real>::read_without(std::span<const Real>, std::span<const EntryId>,              \
                                                        std::span<Real>) const;                                       \
  template Status SoftBTreeSnapshot<Real>::log_prob(std::span<const Real>, std::span<const EntryId>, std::span<Real>) \
      const;
TD_INSTANTIATE(float)
TD_INSTANTIATE(double)
#undef TD_INSTANTIATE

}  // namespace tandem::replay

// Reading a version of the tree.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_state.h"
#include "replay/soft_btree_window.h"

namespace tandem::replay {

using tree::Gather;
using tree::Probe;
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
    return nodes.left_to(n, n->size - 1)[nodes.width] > 0;
  }
  const auto* n = tree::Nodes<Real>::leaf(root.node);
  for (int i = 0; i < n->size; ++i) {
    if (n->weights[i] > 0) return true;
  }
  return false;
}

namespace {

constexpr std::size_t kReadsAhead = 8;

Status out_of_reach(const char* call, std::size_t query) {
  return not_found("{}: no entry is within tau of query {}; raise tau", call, query);
}

template <class Real>
double log_normaliser(const tree::Nodes<Real>& nodes, const Probe<Real>& probe, Real z) {
  return std::log(static_cast<double>(z)) - static_cast<double>(probe.nearest) / static_cast<double>(nodes.tau);
}

template <class Real>
void write_read(const tree::Nodes<Real>& nodes, const Real* total, Real* read) {
  for (int k = 0; k < nodes.width; ++k) read[k] = total[k] / total[nodes.width];
}

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
  // Several queries go down before the first is answered: their leaves come from memory meanwhile.
  Probe<Real> single;
  std::vector<Probe<Real>> several(queries.size() > 1 ? std::min(kReadsAhead, queries.size()) : 0);
  Probe<Real>* const probes = several.empty() ? &single : several.data();
  Gather<Real> gather(nodes);
  for (std::size_t first = 0; first < queries.size(); first += kReadsAhead) {
    const std::size_t count = std::min(kReadsAhead, queries.size() - first);
    for (std::size_t j = 0; j < count; ++j) probes[j].descend(nodes, impl_->root.node, queries[first + j]);
    for (std::size_t j = 0; j < count; ++j) probes[j].descend_rest(nodes);
    for (std::size_t j = 0; j < count; ++j) {
      probes[j].arrive();
      gather.add_total(probes[j]);
      const Real* total = gather.total();
      write_read(nodes, total, reads.data() + (first + j) * nodes.width);
      if (!log_z.empty()) log_z[first + j] = static_cast<Real>(log_normaliser(nodes, probes[j], total[nodes.width]));
    }
  }
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
    log_probs[j] = static_cast<Real>(shape - (distance - static_cast<double>(probe.nearest)) / tau +
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

// One step of gradient descent on the values of all entries, for one query.
//
// dr/dv_i = p_i, so the step adds -rate p_i d_read to v_i. Seen from the query, p_i is a profile of a child's edge for
// all entries of a child that lies to one side of it: one tag for each such child of the nodes on the way to the query,
// and the entries of a leaf only where it ends.
#include <algorithm>
#include <cmath>
#include <vector>

#include "replay/soft_btree_window.h"
#include "replay/soft_btree_writer.h"

namespace tandem::replay {
namespace {

using tree::Node;
using tree::Nodes;

template <class Real>
class ValueStep {
 public:
  using N = Nodes<Real>;
  // direction [row]: -rate d_read / Z, then zeros.
  ValueStep(const N& nodes, Real query, double nearest, const Real* direction)
      : nodes_(nodes),
        query_(query),
        nearest_(nearest),
        tau_(nodes.tau),
        direction_(direction),
        tags_(static_cast<std::size_t>(nodes.profiles * nodes.row)) {}

  // `node` has one owner, and nothing waits for it.
  void below(Node* node) {
    if (node->leaf()) {
      at_leaf(N::leaf(node));
      return;
    }
    auto* n = N::inner(node);
    for (int j = 0; j < n->size; ++j) {
      if (!nodes_.live(n, j)) continue;
      const double hi = n->hi[j], lo = n->lo[j];
      if (hi <= query_) {  // at the edge itself, too: of many entries with this very key, none is met
        tag(n, j, query_ - hi, 0);
      } else if (lo >= query_) {
        tag(n, j, lo - query_, nodes_.profiles / 2);
      } else {
        nodes_.unshare(n->children[j]);
        nodes_.push(n, j);
        below(n->children[j]);
        nodes_.summarise(n, j);
      }
    }
    nodes_.refresh(n);
  }

 private:
  // K of all below child j, whose nearer edge is `distance` away: e^-u, or (1 + u + a) e^-u e^-a seen from that edge.
  void tag(tree::Inner<Real>* n, int j, double distance, int first) {
    const double e = std::exp((nearest_ - distance) / tau_);
    if (static_cast<Real>(e) == 0) return;
    std::fill(tags_.begin(), tags_.end(), Real(0));
    Real* out = tags_.data() + first * nodes_.row;
    const auto c0 = static_cast<Real>(nodes_.moments ? e * (1 + distance / tau_) : e), c1 = static_cast<Real>(e);
    for (int k = 0; k < nodes_.width; ++k) {
      out[k] = c0 * direction_[k];
      if (nodes_.moments) out[nodes_.row + k] = c1 * direction_[k];
    }
    nodes_.step(n, j, tags_.data());
  }
  void at_leaf(tree::Leaf<Real>* n) {
    for (int i = 0; i < n->size; ++i) {
      if (n->weights[i] == 0) continue;
      const double distance = std::abs(query_ - double(n->keys[i])), e = std::exp((nearest_ - distance) / tau_);
      const double p = n->weights[i] * (nodes_.moments && e > 0 ? e * (1 + distance / tau_) : e);
      Real* v = nodes_.value(n, i);
      for (int k = 0; k < nodes_.width; ++k) v[k] = static_cast<Real>(v[k] + p * double(direction_[k]));
    }
  }

  const N& nodes_;
  const double query_, nearest_, tau_;
  const Real* direction_;
  std::vector<Real> tags_;
};

// With a kernel that ends: each entry in reach.
template <class Real>
class WindowStep {
 public:
  using N = Nodes<Real>;
  // direction [D]: -rate d_read / Z.
  WindowStep(const N& nodes, Real query, const double* direction)
      : nodes_(nodes), query_(query), direction_(direction) {}

  void below(Node* node) {
    if (node->leaf()) {
      auto* n = N::leaf(node);
      for (int i = 0; i < n->size; ++i) {
        const double u = (query_ - n->keys[i]) / nodes_.tau, p = double(n->weights[i]) * ((1 - u) * (1 + u));
        if (!(std::abs(u) < 1)) continue;
        Real* v = nodes_.value(n, i);
        for (int k = 0; k < nodes_.width; ++k) v[k] = static_cast<Real>(v[k] + p * direction_[k]);
      }
      return;
    }
    auto* n = N::inner(node);
    for (int j = 0; j < n->size; ++j) {
      if (!nodes_.live(n, j)) continue;
      if ((query_ - n->hi[j]) / nodes_.tau >= 1 || (n->lo[j] - query_) / nodes_.tau >= 1) continue;
      nodes_.unshare(n->children[j]);
      below(n->children[j]);
      nodes_.summarise(n, j);
    }
    nodes_.refresh(n);
  }

 private:
  const N& nodes_;
  const Real query_;
  const double* direction_;
};

Status not_finite() { return invalid_argument("sgd_values: the step is not finite; lower the rate"); }

}  // namespace

template <class Real>
Status SoftBTree<Real>::Impl::step_values(Real query, std::span<const Real> d_read, Real rate,
                                          const tree::Probe<Real>& probe, Real z) {
  std::vector<Real> direction(nodes.row);
  for (int k = 0; k < nodes.width; ++k) {
    direction[k] = static_cast<Real>(-double(rate) * double(d_read[k]) / double(z));
    if (!std::isfinite(direction[k])) return not_finite();
  }
  if (!nodes.stepping) {  // from now on
    nodes.stepping = true;
    nodes.refresh_all(root.node);
  }
  nodes.unshare(root.node);
  ValueStep<Real>(nodes, query, probe.distance(), direction.data()).below(root.node);
  stepped = true;
  ++version;
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::Impl::step_window(Real query, std::span<const Real> d_read, Real rate) {
  const double z = tree::Window<Real>(nodes).mass(root.node, query);
  if (!(z > 0)) return not_found("sgd_values: no entry is within tau of the query; raise tau");
  std::vector<double> direction(d_read.size());
  for (std::size_t k = 0; k < direction.size(); ++k) {
    direction[k] = -double(rate) * double(d_read[k]) / z;
    if (!std::isfinite(direction[k])) return not_finite();
  }
  nodes.unshare(root.node);
  WindowStep<Real>(nodes, query, direction.data()).below(root.node);
  ++version;
  return ok_status();
}

template <class Real>
Status SoftBTree<Real>::sgd_values(Real query, std::span<const Real> d_read, Real rate) {
  const int width = impl_->nodes.width;
  TD_TRY(check_count("sgd_values", "d_read", d_read.size(), static_cast<std::size_t>(width)));
  if (!std::isfinite(query) || !std::isfinite(rate))
    return invalid_argument("sgd_values: the query or rate is not finite");
  for (const Real g : d_read) {
    if (!std::isfinite(g)) return invalid_argument("sgd_values: d_read has {}, not finite", g);
    if (!std::isfinite(rate * g)) return not_finite();
  }
  impl_->nodes.repair(impl_->root.node);
  if (impl_->nodes.window) return impl_->step_window(query, d_read, rate);
  tree::Probe<Real> probe;
  probe.locate(impl_->nodes, impl_->root.node, query);
  if (!probe.found()) {
    return make_status(StatusCode::kNotFound, "sgd_values: the tree holds no entry of positive weight");
  }
  tree::Gather<Real> gather(impl_->nodes);
  gather.add_total(probe);
  return impl_->step_values(query, d_read, rate, probe, gather.total()[width]);
}

#define TD_INSTANTIATE(Real)                                                                                      \
  template Status SoftBTree<Real>::Impl::step_values(Real, std::span<const Real>, Real, const tree::Probe<Real>&, \
                                                     Real);                                                       \
  template Status SoftBTree<Real>::Impl::step_window(Real, std::span<const Real>, Real);                          \
  template Status SoftBTree<Real>::sgd_values(Real, std::span<const Real>, Real);
TD_INSTANTIATE(float)
TD_INSTANTIATE(double)
#undef TD_INSTANTIATE

}  // namespace tandem::replay

// Gradients with a kernel that ends. Both directions are the same sums: a query's over entries gives its own gradient
// and tau's; an entry's over queries, whose gamma_q = [g_q ; h_q - <g_q, r_q>] / Z_q are then the values of a tree of
// their own, gives the entry's. K = 1 - u^2, u = (q - k) / tau, so -dK/dq = dK/dk = 2 u / tau and dK/dtau = 2 u^2 /
// tau.
#include <algorithm>
#include <numeric>
#include <vector>

#include "replay/soft_btree_state.h"
#include "replay/soft_btree_window.h"

namespace tandem::replay {
namespace {

using tree::Node;
using tree::Nodes;
using tree::Window;

template <class Real>
class EntryGradients {
 public:
  EntryGradients(const Nodes<Real>& nodes, const SoftBTreeGradients<Real>& out, std::span<const Real> queries,
                 const std::vector<double>& gammas)
      : nodes_(nodes),
        out_(out),
        of_queries_({nodes.width + 1, static_cast<double>(nodes.tau), SoftKernel::kEpanechnikov}),
        root_(of_queries_.make(0)),
        window_(of_queries_) {
    std::vector<tree::Item<double>> items(queries.size());
    for (std::size_t j = 0; j < queries.size(); ++j) {
      items[j] = {static_cast<double>(queries[j]) + 0.0, static_cast<EntryId>(j), 1.0,
                  gammas.data() + j * (nodes.width + 1)};
    }
    std::sort(items.begin(), items.end(),
              [](const auto& a, const auto& b) { return tree::before(a.key, a.id, b.key, b.id); });
    tree::insert_sorted(of_queries_, root_.node, items.data(), static_cast<std::int64_t>(items.size()));
  }

  void visit(const Node* node) {
    if (!node->leaf()) {
      for (int j = 0; j < node->size; ++j) visit(Nodes<Real>::inner(node)->children[j]);
      return;
    }
    const auto* n = Nodes<Real>::leaf(node);
    for (int i = 0; i < n->size; ++i) {
      if (window_.gather(root_.node, static_cast<double>(n->keys[i]))) entry(n, i);
    }
  }

 private:
  void entry(const tree::Leaf<Real>* n, int at) {
    const int width = nodes_.width;
    const EntryId id = n->ids[at];
    const Real* v = nodes_.value(n, at);
    const double w = n->weights[at];
    const double *by_value = window_.value(), *by_slope = window_.slope();  // its u is (k - q) / tau
    double d_weight = by_value[width], d_key = -by_slope[width];
    for (int k = 0; k < width; ++k) {
      d_weight += double(v[k]) * by_value[k];
      d_key -= double(v[k]) * by_slope[k];
      if (!out_.values.empty()) {
        out_.values[static_cast<std::size_t>(id) * width + k] += static_cast<Real>(w * by_value[k]);
      }
    }
    if (!out_.weights.empty()) out_.weights[id] += static_cast<Real>(d_weight);
    if (!out_.keys.empty()) out_.keys[id] += static_cast<Real>(2 * w * d_key / double(nodes_.tau));
  }

  const Nodes<Real>& nodes_;
  const SoftBTreeGradients<Real>& out_;
  const Nodes<double> of_queries_;
  tree::Root<double> root_;
  Window<double> window_;
};

}  // namespace

template <class Real>
Status SoftBTreeSnapshot<Real>::Impl::backward_window(std::span<const Real> queries, std::span<const Real> d_reads,
                                                      std::span<const Real> d_log_z,
                                                      const SoftBTreeGradients<Real>& gradients) const {
  const std::size_t m = queries.size(), width = static_cast<std::size_t>(nodes.width);
  const double tau = nodes.tau;
  std::vector<double> gammas(m * (width + 1)), d_queries(m);
  double d_tau = 0;
  Window<Real> window(nodes);
  for (std::size_t j = 0; j < m; ++j) {
    if (!window.gather(root.node, queries[j])) {
      return not_found("backward: no entry is within tau of query {}; raise tau", j);
    }
    const Real* const value = window.value();
    const double z = value[width];
    double* const gamma = gammas.data() + j * (width + 1);
    double dot_read = 0;
    for (std::size_t k = 0; k < width; ++k) {
      const double g = d_reads[j * width + k];
      gamma[k] = g / z;
      dot_read += g * (double(value[k]) / z);
    }
    gamma[width] = ((d_log_z.empty() ? 0.0 : double(d_log_z[j])) - dot_read) / z;
    double slope = 0, square = 0;
    for (std::size_t k = 0; k <= width; ++k) {
      slope += gamma[k] * double(window.slope()[k]);
      square += gamma[k] * double(window.square()[k]);
    }
    d_queries[j] = -2 * slope / tau;
    d_tau += 2 * square / tau;
  }
  if (!gradients.queries.empty()) {
    for (std::size_t j = 0; j < m; ++j) gradients.queries[j] += static_cast<Real>(d_queries[j]);
  }
  if (gradients.tau != nullptr) *gradients.tau += static_cast<Real>(d_tau);
  if (gradients.keys.empty() && gradients.values.empty() && gradients.weights.empty()) return ok_status();
  EntryGradients<Real>(nodes, gradients, queries, gammas).visit(root.node);
  return ok_status();
}

template Status SoftBTreeSnapshot<float>::Impl::backward_window(std::span<const float>, std::span<const float>,
                                                                std::span<const float>,
                                                                const SoftBTreeGradients<float>&) const;
template Status SoftBTreeSnapshot<double>::Impl::backward_window(std::span<const double>, std::span<const double>,
                                                                 std::span<const double>,
                                                                 const SoftBTreeGradients<double>&) const;

}  // namespace tandem::replay

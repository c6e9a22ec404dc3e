// One step of gradient descent on the values of all entries, for one query.
//
// dr/dv_i = p_i, so the step adds -rate p_i d_read to v_i. Where p_i is 0 in double (hundreds of tau away) nothing
// would change, and whole nodes are left out.
#include <algorithm>
#include <cmath>
#include <vector>

#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_writer.h"

namespace tandem::replay {
namespace {

using tree::Node;
using tree::Nodes;

template <class Real>
class ValueStep {
 public:
  using N = Nodes<Real>;
  // direction [D]: -rate d_read / Z.
  ValueStep(const N& nodes, Real query, double nearest, const double* direction)
      : nodes_(nodes), query_(query), nearest_(nearest), tau_(nodes.tau), direction_(direction) {}

  void below(Node* node) {
    if (node->leaf()) {
      auto* n = N::leaf(node);
      for (int i = 0; i < n->size; ++i) {
        if (n->weights[i] == 0) continue;
        const double p = n->weights[i] * kernel(std::abs(query_ - double(n->keys[i])));
        Real* v = nodes_.value(n, i);
        for (int k = 0; k < nodes_.width; ++k) v[k] = static_cast<Real>(v[k] + p * direction_[k]);
      }
      return;
    }
    auto* n = N::inner(node);
    int first = n->size, last = 0;
    for (int j = 0; j < n->size; ++j) {
      if (!nodes_.live(n, j)) continue;
      const double away = std::max({0.0, query_ - double(n->hi[j]), double(n->lo[j]) - query_});
      if (kernel(away) == 0) continue;
      nodes_.unshare(n->children[j]);
      below(n->children[j]);
      nodes_.summarise(n, j);
      first = std::min(first, j);
      last = j;
    }
    if (first <= last) nodes_.refresh(n, first, last);
  }

 private:
  // K up to the factor that Z has been divided by; 0 is 0 for all greater distances too.
  double kernel(double distance) const {
    const double e = std::exp((nearest_ - distance) / tau_);
    return nodes_.moments && e > 0 ? e * (1 + distance / tau_) : e;
  }

  const N& nodes_;
  const double query_, nearest_, tau_;
  const double* direction_;
};

}  // namespace

template <class Real>
Status SoftBTree<Real>::sgd_values(Real query, std::span<const Real> d_read, Real rate) {
  const int width = impl_->nodes.width;
  TD_TRY(check_count("sgd_values", "d_read", d_read.size(), static_cast<std::size_t>(width)));
  if (!std::isfinite(query) || !std::isfinite(rate))
    return invalid_argument("sgd_values: the query or rate is not finite");
  for (const Real g : d_read) {
    if (!std::isfinite(g)) return invalid_argument("sgd_values: d_read has {}, not finite", g);
  }
  tree::Probe<Real> probe;
  probe.locate(impl_->nodes, impl_->root.node, query);
  if (!probe.found()) {
    return make_status(StatusCode::kNotFound, "sgd_values: the tree holds no entry of positive weight");
  }
  tree::Gather<Real> gather(impl_->nodes);
  gather.add_total(probe);
  std::vector<double> direction(width);
  for (int k = 0; k < width; ++k) direction[k] = -double(rate) * double(d_read[k]) / double(gather.total()[width]);
  impl_->nodes.unshare(impl_->root.node);
  ValueStep<Real>(impl_->nodes, query, probe.nearest, direction.data()).below(impl_->root.node);
  ++impl_->version;
  return ok_status();
}

template Status SoftBTree<float>::sgd_values(float, std::span<const float>, float);
template Status SoftBTree<double>::sgd_values(double, std::span<const double>, double);

}  // namespace tandem::replay

// Gradients of reads: the adjoint sum, in which queries are the sources and entries ask.
//
// With gamma_q = [g_q ; h_q - <g_q, r_q>] / Z_q (g, h the gradients of r and ln Z), an entry wants sums over queries of
// e^-d gamma_q times polynomials in d, where d = (|q - k_i| - nearest_q) / tau >= 0, kept apart by side:
//   of               d/dv, d/dw: K      d/dk: -K' (sign by side)      d/dtau: -d K' less c K
//   kLaplace         1                  1                             d
//   kMatern32        1 + s + d          s + d                         (2s - c) d + d^2
// with s = nearest_q / tau, and c = s for kLaplace, s^2 / (1 + s) for kMatern32: a multiple of K sums to zero over i
// (or is ln Z's). On the way down a node has such sums over all queries beyond either of its edges, seen from that
// edge; a step of b changes d by b: polynomials move by Taylor's formula and all is multiplied by e^-b <= 1. Sorted
// queries make it one pass to each side over a node's children.
//
// All in double: the sums are over many queries, and an entry's gradient is a small difference when it has all mass.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_state.h"

namespace tandem::replay {
namespace {

using tree::Gather;
using tree::Inner;
using tree::Leaf;
using tree::Node;
using tree::Nodes;
using tree::Probe;

struct Query {
  double q, before, after;             // nearest live keys on either side
  double beyond_before, beyond_after;  // as in Probe
  double distance;                     // to the nearest live key
  double shift, removed;               // s and c
};

template <class Real>
class Backward {
 public:
  using N = Nodes<Real>;
  Backward(const N& nodes, const SoftBTreeGradients<Real>& gradients)
      : nodes_(nodes),
        out_(gradients),
        width_(nodes.width + 1),
        parts_((nodes.moments ? 2 : 1) * (gradients.tau != nullptr ? 2 : 1)),
        tag_(parts_ * width_),
        tau_(nodes.tau) {}

  void run(const Node* root, std::span<const Real> queries, std::span<const Real> d_reads,
           std::span<const Real> d_log_z) {
    std::vector<std::size_t> order(queries.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return queries[a] < queries[b]; });
    Probe<Real> probe;
    Gather<Real> gather(nodes_);
    for (const std::size_t j : order) {
      probe.locate(nodes_, root, queries[j]);
      gather.add_sides(probe);
      const double d_query =
          add_query(probe, gather, d_reads.data() + j * nodes_.width, d_log_z.empty() ? 0.0 : double(d_log_z[j]));
      if (!out_.queries.empty()) out_.queries[j] += static_cast<Real>(d_query);
    }
    if (!out_.keys.empty() || !out_.values.empty() || !out_.weights.empty() || out_.tau != nullptr) {
      const std::vector<double> nothing(tag_);
      visit(root, {0, 0, nullptr}, 0, queries_.size(), nothing.data(), nothing.data());
    }
    if (out_.tau != nullptr) *out_.tau += static_cast<Real>(d_tau_);
  }

 private:
  // Keeps gamma and the distances of a query; returns the gradient to it.
  double add_query(const Probe<Real>& probe, const Gather<Real>& gather, const Real* g, double h) {
    const int width = nodes_.width;
    const double nearest = probe.nearest, s = nodes_.moments ? nearest / tau_ : 0;
    const double removed = nodes_.moments ? s / (1 + s) * s : nearest / tau_;
    using G = Gather<Real>;
    // Sums of x_i by slope (-K') and by value (K) of each side.
    const auto slope = [&](typename G::Side side, int k) {
      const double x0 = gather.x0(side)[k];
      return nodes_.moments ? s * x0 + gather.x1(side)[k] : x0;
    };
    const auto value = [&](typename G::Side side, int k) {
      return nodes_.moments ? slope(side, k) + gather.x0(side)[k] : slope(side, k);
    };
    const double vb = value(G::kBefore, width), va = value(G::kAfter, width), t = gather.x0(G::kTie)[width];
    const double sb = slope(G::kBefore, width), sa = slope(G::kAfter, width), z = vb + va + t;
    const auto mean = [](double sum, double mass) { return mass > 0 ? sum / mass : 0; };
    // Products of masses times differences of means: nothing large is subtracted.
    double dot_read = 0, dot_slope = 0;
    for (int k = 0; k < width; ++k) {
      const double gk = g[k];
      const double tie = gather.x0(G::kTie)[k], before = value(G::kBefore, k), after = value(G::kAfter, k);
      dot_read += gk * ((before + after + tie) / z);
      const double mean_sb = mean(slope(G::kBefore, k), sb), mean_sa = mean(slope(G::kAfter, k), sa);
      double d = sa / z * (vb / z) * (mean_sa - mean(before, vb)) - sb / z * (va / z) * (mean_sb - mean(after, va)) +
                 t / z * (sa / z * (mean_sa - mean(tie, t)) - sb / z * (mean_sb - mean(tie, t)));
      if (nodes_.moments) d += own_side(gather, G::kAfter, k, z) - own_side(gather, G::kBefore, k, z);
      dot_slope += gk * d;
    }
    queries_.push_back({double(probe.query), double(probe.before), double(probe.after), double(probe.beyond_before),
                        double(probe.beyond_after), probe.distance(), s, removed});
    for (int k = 0; k < width; ++k) gammas_.push_back(g[k] / z);
    gammas_.push_back((h - dot_read) / z);
    d_tau_ += h * removed / tau_;
    return (dot_slope + h * ((sa - sb) / z)) / tau_;
  }

  // (sum slope_i v_i sum value_i - sum value_i v_i sum slope_i) / Z^2 of one side, with what cancels taken out.
  double own_side(const Gather<Real>& gather, typename Gather<Real>::Side side, int k, double z) const {
    const int width = nodes_.width;
    const double m0 = gather.x0(side)[width], m1 = gather.x1(side)[width];
    return gather.x1(side)[k] / z * (m0 / z) - gather.x0(side)[k] / z * (m1 / z);
  }

  // tag: the sums, seen from an edge; now from a place b >= 0 further away.
  void move(double* tag, double b) const {
    if (b == 0) return;
    const double f = std::exp(-b);
    const bool tau = out_.tau != nullptr;
    if (f == 0) {
      std::fill_n(tag, tag_, 0.0);
      return;
    }
    for (int k = 0; k < width_; ++k) {
      double& m0 = tag[k];
      if (!nodes_.moments) {
        if (tau) tag[width_ + k] = f * (tag[width_ + k] + b * m0);
      } else {
        if (tau) {
          double &q0 = tag[2 * width_ + k], &q1 = tag[3 * width_ + k];
          q0 = f * (q0 + b * (q1 + b * m0));
          q1 = f * (q1 + 2 * b * m0);
        }
        tag[width_ + k] = f * (tag[width_ + k] + b * m0);
      }
      m0 *= f;
    }
  }

  // Adds query j at distance a.
  void put(double* tag, std::size_t j, double a) const {
    const Query& query = queries_[j];
    const double f = std::exp(-a);
    if (f == 0) return;
    const double* gamma = gammas_.data() + j * width_;
    const double slope = 2 * query.shift - query.removed;
    const double factors[4] = {f, f * (nodes_.moments ? query.shift + a : a), f * a * (slope + a), f * (slope + 2 * a)};
    for (int part = 0; part < parts_; ++part) {
      for (int k = 0; k < width_; ++k) tag[part * width_ + k] += factors[part] * gamma[k];
    }
  }

  // tags[i]: the sums over queries after anchors[i], of all from `begin` to `end` and those in `beyond`.
  void spread_after(const double* anchors, int count, std::size_t begin, std::size_t end, const double* beyond,
                    double* tags) const {
    for (int i = count - 1; i >= 0; --i) {
      double* tag = tags + i * tag_;
      std::copy_n(i + 1 < count ? tag + tag_ : beyond, tag_, tag);
      if (i + 1 < count) move(tag, (anchors[i + 1] - anchors[i]) / tau_);
      for (; end > begin && queries_[end - 1].q > anchors[i]; --end) {
        const Query& query = queries_[end - 1];
        put(tag, end - 1, (query.beyond_before + (query.before - anchors[i])) / tau_);
      }
    }
  }
  void spread_before(const double* anchors, int count, std::size_t begin, std::size_t end, const double* beyond,
                     double* tags) const {
    for (int i = 0; i < count; ++i) {
      double* tag = tags + i * tag_;
      std::copy_n(i > 0 ? tag - tag_ : beyond, tag_, tag);
      if (i > 0) move(tag, (anchors[i] - anchors[i - 1]) / tau_);
      for (; begin < end && queries_[begin].q < anchors[i]; ++begin) {
        const Query& query = queries_[begin];
        put(tag, begin, (query.beyond_after + (anchors[i] - query.after)) / tau_);
      }
    }
  }

  // Hands the sums down. Queries [begin, end) lie within the node (all of them, for the root); `above` waits for it.
  void visit(const Node* node, const tree::Waiting<Real>& above, std::size_t begin, std::size_t end,
             const double* after, const double* before) {
    double his[tree::kLeafMost], los[tree::kLeafMost];
    int slots[tree::kLeafMost], count = 0;
    const auto order = node->leaf() ? N::order_of(N::leaf(node)) : typename N::Order();
    for (int t = 0; t < node->size; ++t) {
      const int i = node->leaf() ? order[t] : t;
      if (node->leaf()) {
        const auto* n = N::leaf(node);
        if (n->weights[i] > 0) {
          his[count] = los[count] = n->keys[i];
          slots[count++] = i;
        } else {
          absent(n, i);
        }
      } else {
        const auto* n = N::inner(node);
        if (nodes_.live(n, i)) {
          his[count] = n->hi[i];
          los[count] = n->lo[i];
          slots[count++] = i;
        } else {
          all_absent(n->children[i]);
        }
      }
    }
    std::vector<Real> waiting;
    const Real* values = nullptr;
    if (node->leaf()) {
      values = N::leaf(node)->values();
      if (above.tags != nullptr) {
        waiting.assign(values, values + node->size * nodes_.value_stride);
        nodes_.step_values(N::leaf(node), above, waiting.data());
        values = waiting.data();
      }
    } else {
      waiting.resize(nodes_.profiles * nodes_.row);
    }
    std::vector<double> after_tags(count * tag_), before_tags(count * tag_);
    spread_after(his, count, begin, end, after, after_tags.data());
    spread_before(los, count, begin, end, before, before_tags.data());
    for (int i = 0; i < count; ++i) {
      const auto first = queries_.begin() + begin, last = queries_.begin() + end;
      const auto from = std::partition_point(first, last, [&](const Query& query) { return query.q < los[i]; });
      const auto to = std::partition_point(from, last, [&](const Query& query) { return query.q <= his[i]; });
      const std::size_t b = from - queries_.begin(), e = to - queries_.begin();
      const double *a_tag = after_tags.data() + i * tag_, *b_tag = before_tags.data() + i * tag_;
      if (node->leaf()) {
        entry(N::leaf(node), slots[i], values + slots[i] * nodes_.value_stride, b, e, a_tag, b_tag);
      } else {
        const auto* n = N::inner(node);
        const int j = slots[i];
        const bool waits = nodes_.carry(n, j, above, waiting.data());
        visit(n->children[j], {n->hi[j], n->lo[j], waits ? waiting.data() : nullptr}, b, e, a_tag, b_tag);
      }
    }
  }

  // The gradients to a live entry; queries [begin, end) are at its very key.
  void entry(const Leaf<Real>* n, int at, const Real* v, std::size_t begin, std::size_t end, const double* after,
             const double* before) {
    const int width = nodes_.width;
    const EntryId id = n->ids[at];
    const double w = n->weights[at];
    double d_weight = 0, d_key = 0, d_tau = 0;
    for (int k = 0; k <= width; ++k) {
      const double x = k < width ? double(v[k]) : 1.0;
      double by_value = after[k] + before[k], by_slope = after[k] - before[k];
      if (nodes_.moments) {
        by_slope = after[width_ + k] - before[width_ + k];
        by_value += after[width_ + k] + before[width_ + k];
      }
      for (std::size_t j = begin; j < end; ++j) by_value += gammas_[j * width_ + k];
      if (out_.tau != nullptr) {
        const int part = nodes_.moments ? 2 : 1;
        d_tau += x * (after[part * width_ + k] + before[part * width_ + k]);
      }
      d_weight += x * by_value;
      d_key += x * by_slope;
      if (k < width && !out_.values.empty()) {
        out_.values[static_cast<std::size_t>(id) * width + k] += static_cast<Real>(w * by_value);
      }
    }
    if (!out_.weights.empty()) out_.weights[id] += static_cast<Real>(d_weight);
    if (!out_.keys.empty()) out_.keys[id] += static_cast<Real>(w * d_key / tau_);
    d_tau_ += w * d_tau / tau_;
  }

  // An entry of weight 0: only its weight has a gradient. It may be nearer to a query than `nearest`, so it takes no
  // part in the sums handed down, and each query is asked.
  void absent(const Leaf<Real>* n, int at) {
    if (out_.weights.empty()) return;
    const Real* v = nodes_.value(n, at);
    double d_weight = 0;
    for (std::size_t j = 0; j < queries_.size(); ++j) {
      const double* gamma = gammas_.data() + j * width_;
      const double distance = std::abs(queries_[j].q - double(n->keys[at]));
      double k_value = std::exp((queries_[j].distance - distance) / tau_);
      if (k_value == 0) continue;
      if (nodes_.moments) k_value *= 1 + distance / tau_;
      double dot = gamma[nodes_.width];
      for (int k = 0; k < nodes_.width; ++k) dot += gamma[k] * double(v[k]);
      d_weight += k_value * dot;
    }
    out_.weights[n->ids[at]] += static_cast<Real>(d_weight);
  }
  void all_absent(const Node* node) {
    for (int i = 0; i < node->size; ++i) {
      if (node->leaf()) {
        absent(N::leaf(node), i);
      } else {
        all_absent(N::inner(node)->children[i]);
      }
    }
  }

  const N& nodes_;
  const SoftBTreeGradients<Real>& out_;
  const int width_, parts_, tag_;
  const double tau_;
  std::vector<Query> queries_;  // sorted
  std::vector<double> gammas_;  // [m, width_]
  double d_tau_ = 0;
};

// Of what may be left out.
template <class Real>
Status check_optional(const char* what, std::span<Real> have, std::size_t want) {
  return have.empty() ? ok_status() : check_count("backward", what, have.size(), want);
}

}  // namespace

template <class Real>
Status SoftBTreeSnapshot<Real>::backward(std::span<const Real> queries, std::span<const Real> d_reads,
                                         std::span<const Real> d_log_z,
                                         const SoftBTreeGradients<Real>& gradients) const {
  const std::size_t m = queries.size(), width = value_width(), n = ids_end();
  TD_TRY(check_count("backward", "d_reads", d_reads.size(), m * width));
  TD_TRY(check_optional("d_log_z", d_log_z, m));
  TD_TRY(check_optional("gradients.queries", gradients.queries, m));
  TD_TRY(check_optional("gradients.keys", gradients.keys, n));
  TD_TRY(check_optional("gradients.values", gradients.values, n * width));
  TD_TRY(check_optional("gradients.weights", gradients.weights, n));
  TD_TRY(impl_->check_queries("backward", queries));
  if (m == 0) return ok_status();
  if (impl_->nodes.window) return impl_->backward_window(queries, d_reads, d_log_z, gradients);
  Backward<Real>(impl_->nodes, gradients).run(impl_->root.node, queries, d_reads, d_log_z);
  return ok_status();
}

template Status SoftBTreeSnapshot<float>::backward(std::span<const float>, std::span<const float>,
                                                   std::span<const float>, const SoftBTreeGradients<float>&) const;
template Status SoftBTreeSnapshot<double>::backward(std::span<const double>, std::span<const double>,
                                                    std::span<const double>, const SoftBTreeGradients<double>&) const;

}  // namespace tandem::replay

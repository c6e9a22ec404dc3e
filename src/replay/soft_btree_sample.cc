// Drawing entries with the probabilities of the read, by one uniform number each: a tile by its mass, then a child of
// it, down to an entry; what is left of the uniform number within the choice makes the next one.
#include <algorithm>
#include <cmath>
#include <vector>

#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_state.h"
#include "replay/soft_btree_window.h"

namespace tandem::replay {
namespace {

using tree::Inner;
using tree::Leaf;
using tree::Node;
using tree::Nodes;
using tree::Probe;

enum class Side { kBefore, kAt, kAfter };

template <class Real>
class Sampler {
 public:
  using N = Nodes<Real>;
  explicit Sampler(const N& nodes) : nodes_(nodes), tau_(nodes.tau) {}

  EntryId draw(const Node* root, Real query, double uniform) {
    probe_.locate(nodes_, root, query);
    uniform_ = uniform;
    choices_.clear();
    masses_.clear();
    for (const auto& tile : probe_.left) put_tile(tile, Side::kBefore);
    for (const auto& tile : probe_.ties) put_tile(tile, Side::kAt);
    for (const auto& tile : probe_.right) put_tile(tile, Side::kAfter);
    for (const auto& part : probe_.leaves) {
      put_entries(part.leaf, 0, part.at, Side::kBefore);
      put_entries(part.leaf, part.at, part.after, Side::kAt);
      put_entries(part.leaf, part.after, part.leaf->size, Side::kAfter);
    }
    for (;;) {
      const Choice choice = pick();
      if (choice.node->leaf()) return N::leaf(choice.node)->ids[choice.at];
      choices_.clear();
      masses_.clear();
      const auto* n = N::inner(choice.node);
      if (choice.at != choice.end) {  // a run of children
        for (int c = choice.at; c < choice.end; ++c) put_child(n, c, choice.side);
      } else {
        put_below(n->children[choice.at], choice.side);
      }
    }
  }

 private:
  // An entry of a leaf; or the children [at, end) of an inner node, or what is below the one `at`, if end is the same.
  struct Choice {
    const Node* node;
    int at, end;
    Side side;
  };

  void put(Choice choice, double mass) {
    if (!(mass > 0)) return;
    choices_.push_back(choice);
    masses_.push_back(mass);
  }
  // What a row weighs, seen from `anchor`.
  double mass(const Real* row, double anchor, Side side) const {
    if (side == Side::kAt) return row[nodes_.width];
    const double d = distance(anchor, side), f = std::exp(-d);
    if (!nodes_.moments) return f * row[nodes_.width];
    return f * ((1 + double(probe_.nearest) / tau_ + d) * row[nodes_.width] + row[nodes_.row + nodes_.width]);
  }
  double distance(double key, Side side) const {
    if (side == Side::kAt) return 0;
    return side == Side::kBefore ? (double(probe_.beyond_before) + (double(probe_.before) - key)) / tau_
                                 : (double(probe_.beyond_after) + (key - double(probe_.after))) / tau_;
  }
  void put_tile(const tree::Tile<Real>& tile, Side side) {
    const int at = side == Side::kBefore && !tile.only ? 0 : tile.child;
    const int end = side == Side::kAfter && !tile.only ? tile.node->size : tile.child + 1;
    put({tile.node, at, end, side}, mass(tile.row, tile.anchor, side));
  }
  void put_child(const Inner<Real>* n, int c, Side side) {
    if (!nodes_.live(n, c)) return;
    const bool after = side == Side::kAfter;
    put({n, c, c, side}, mass(after ? nodes_.right(n, c) : nodes_.left(n, c), after ? n->lo[c] : n->hi[c], side));
  }
  void put_entries(const Leaf<Real>* n, int from, int to, Side side) {
    for (int i = from; i < to; ++i) {
      if (n->weights[i] == 0) continue;
      const double d = distance(n->keys[i], side);
      const double shape = nodes_.moments && side != Side::kAt ? 1 + double(probe_.nearest) / tau_ + d : 1;
      put({n, i, i, side}, n->weights[i] * std::exp(-d) * shape);
    }
  }
  void put_below(const Node* node, Side side) {
    if (node->leaf()) {
      put_entries(N::leaf(node), 0, node->size, side);
    } else {
      for (int c = 0; c < node->size; ++c) put_child(N::inner(node), c, side);
    }
  }

  Choice pick() {
    double total = 0;
    for (const double m : masses_) total += m;
    double left = uniform_ * total;
    std::size_t c = 0;
    while (c + 1 < masses_.size() && left >= masses_[c]) left -= masses_[c++];
    uniform_ = std::clamp(left / masses_[c], 0.0, std::nextafter(1.0, 0.0));
    return choices_[c];
  }

  const N& nodes_;
  const double tau_;
  Probe<Real> probe_;
  double uniform_ = 0;
  std::vector<Choice> choices_;
  std::vector<double> masses_;
};

}  // namespace

template <class Real>
Status SoftBTreeSnapshot<Real>::sample(std::span<const Real> queries, std::span<const double> uniforms,
                                       std::span<EntryId> ids) const {
  if (uniforms.size() != queries.size() || ids.size() != queries.size()) {
    return invalid_argument("sample: {} queries, {} uniforms and {} ids", queries.size(), uniforms.size(), ids.size());
  }
  for (std::size_t j = 0; j < uniforms.size(); ++j) {
    if (!(uniforms[j] >= 0 && uniforms[j] < 1)) {
      return invalid_argument("sample: uniform {} is {}, not in [0, 1)", j, uniforms[j]);
    }
  }
  TD_TRY(impl_->check_queries("sample", queries));
  if (impl_->nodes.window) {
    const tree::Window<Real> window(impl_->nodes);
    for (std::size_t j = 0; j < queries.size(); ++j) {
      const double z = window.mass(impl_->root.node, queries[j]);
      if (!(z > 0)) return not_found("sample: no entry is within tau of query {}; raise tau", j);
      double target = uniforms[j] * z;
      for (double left = target; !window.pick(impl_->root.node, queries[j], left, ids[j]); left = target) {
        target *= 1 - 1e-12;  // rounded beyond the end
      }
    }
    return ok_status();
  }
  Sampler<Real> sampler(impl_->nodes);
  for (std::size_t j = 0; j < queries.size(); ++j) {
    ids[j] = sampler.draw(impl_->root.node, queries[j], uniforms[j]);
  }
  return ok_status();
}

template Status SoftBTreeSnapshot<float>::sample(std::span<const float>, std::span<const double>,
                                                 std::span<EntryId>) const;
template Status SoftBTreeSnapshot<double>::sample(std::span<const double>, std::span<const double>,
                                                  std::span<EntryId>) const;

}  // namespace tandem::replay

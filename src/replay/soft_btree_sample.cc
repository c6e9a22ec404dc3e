// Drawing entries with the probabilities of the read, by one uniform number each: a tile by its mass, then a child of
// it, down to an entry; what is left of the uniform number within the choice makes the next one.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "replay/soft_btree_probe.h"
#include "replay/soft_btree_quick_draw.h"
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

constexpr std::size_t kDrawsAhead = 16;

// Several draws take their steps in turn, each asking for what its next step looks at: what they wait for comes from
// memory at the same time.
template <class Real>
class Sampler {
 public:
  using N = Nodes<Real>;
  explicit Sampler(const N& nodes) : nodes_(nodes) {}

  // At most kDrawsAhead.
  void draw(const Node* root, std::span<const Real> queries, std::span<const double> uniforms, std::span<EntryId> ids) {
    const std::size_t count = queries.size();
    for (std::size_t j = 0; j < count; ++j) {
      quick_[j].uniform = uniforms[j];
      tree::quick_draw_descend(nodes_, root, queries[j], quick_[j]);
      if (!quick_[j].usual) start_unusual(j, root, queries[j], uniforms[j]);
    }
    for (std::size_t j = 0; j < count; ++j) {
      if (quick_[j].usual) {
        tree::quick_draw_descend_rest(nodes_, quick_[j]);
        if (quick_[j].usual) continue;
        start_unusual(j, root, queries[j], uniforms[j]);
      }
      draws_[j].probe.descend_rest(nodes_);
    }
    std::array<bool, kDrawsAhead> drawn;
    std::size_t waiting = 0;
    for (std::size_t j = 0; j < count; ++j) {
      drawn[j] = quick_[j].usual ? tree::quick_draw_choose(nodes_, quick_[j], ids[j]) : choose_met(draws_[j], ids[j]);
      waiting += drawn[j] ? 0 : 1;
    }
    while (waiting > 0) {
      for (std::size_t j = 0; j < count; ++j) {
        if (drawn[j]) continue;
        drawn[j] =
            quick_[j].usual ? tree::quick_draw_below(nodes_, quick_[j], ids[j]) : choose_below(draws_[j], ids[j]);
        waiting -= drawn[j] ? 1 : 0;
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
  struct Draw {
    Probe<Real> probe;
    double uniform;
    Choice choice;
  };

  // Neighbours in a node, each of which may be chosen: entries of a leaf, children, or one run of children as a whole.
  struct Group {
    std::size_t begin;  // its masses
    Choice first;
  };

  void start_unusual(std::size_t j, const Node* root, Real query, double uniform) {
    if (draws_.empty()) draws_ = std::vector<Draw>(kDrawsAhead);
    draws_[j].uniform = uniform;
    draws_[j].probe.descend(nodes_, root, query, /*values=*/false);
  }
  bool choose_met(Draw& draw, EntryId& id) {
    draw.probe.arrive();
    put_met(draw.probe);
    return choose(draw, id);
  }
  bool choose_below(Draw& draw, EntryId& id) {
    put_below(draw.probe, draw.choice);
    return choose(draw, id);
  }
  void put_met(const Probe<Real>& probe) {
    for (const auto& tile : probe.left) put_tile(probe, tile, Side::kBefore);
    for (const auto& tile : probe.ties) put_tile(probe, tile, Side::kAt);
    for (const auto& tile : probe.right) put_tile(probe, tile, Side::kAfter);
    for (const auto& part : probe.leaves) put_entries(probe, part.leaf);
  }
  void put_below(const Probe<Real>& probe, const Choice& choice) {
    const auto* n = N::inner(choice.node);
    if (choice.at != choice.end) {
      put_children(probe, n, choice.at, choice.end, choice.side);
      return;
    }
    const Node* child = n->children[choice.at];
    if (child->leaf()) {
      put_entries(probe, N::leaf(child));
    } else {
      put_children(probe, N::inner(child), 0, child->size, choice.side);
    }
  }
  void put_tile(const Probe<Real>& probe, const tree::Tile<Real>& tile, Side side) {
    const int at = side == Side::kBefore && !tile.only ? 0 : tile.child;
    const int end = side == Side::kAfter && !tile.only ? tile.node->size : tile.child + 1;
    const std::size_t to = add({tile.node, at, end, side}, 1);
    u_[to] = Distance(probe, side)(tile.anchor);
    put_mass(to, tile.mass);
  }
  void put_children(const Probe<Real>& probe, const Inner<Real>* n, int from, int to, Side side) {
    const bool after = side == Side::kAfter;
    const std::size_t begin = add({n, from, from, side}, to - from);
    const Distance distance(probe, side);
    const Real* const keys = after ? n->lo : n->hi;
    Real* const u = u_.data() + begin;
    for (int c = from; c < to; ++c) u[c - from] = distance(keys[c]);
    for (int c = from; c < to; ++c)
      put_mass(begin + (c - from), after ? nodes_.right_mass(n, c) : nodes_.left_mass(n, c));
  }
  void put_mass(std::size_t to, const Real* mass) {
    m0_[to] = *mass;
    m1_[to] = nodes_.moments ? mass[nodes_.mass_stride] : 0;
  }
  void put_entries(const Probe<Real>& probe, const Leaf<Real>* n) {
    if (n->size == 0) return;
    const std::size_t begin = add({n, 0, 0, Side::kAt}, n->size);
    const Distance before(probe, Side::kBefore), at(probe, Side::kAt), after(probe, Side::kAfter);
    Real* const u = u_.data() + begin;
    for (int i = 0; i < n->size; ++i) {
      const Real key = n->keys[i];
      u[i] = (key < probe.query ? before : key > probe.query ? after : at)(key);
    }
    std::copy_n(n->weights, n->size, m0_.data() + begin);
    std::fill_n(m1_.data() + begin, n->size, Real(0));
  }
  // Room for the masses of a group. K is (1 + shift + u) e^-u m0 + e^-u m1 with moments, and e^-u m0 without.
  std::size_t add(const Choice& first, int count) {
    const std::size_t begin = count_;
    groups_.push_back({begin, first});
    count_ += static_cast<std::size_t>(count);
    if (count_ + 32 / sizeof(Real) > u_.size()) {  // whole vectors are read
      for (auto* grown : {&u_, &m0_, &m1_}) grown->resize(2 * count_ + 64);
    }
    return begin;
  }
  // Of a key beyond the nearest, never below 0: of an entry without weight it is of no account.
  struct Distance {
    Distance(const Probe<Real>& probe, Side side)
        : sign(side == Side::kBefore ? -1
               : side == Side::kAt   ? 0
                                     : 1),
          near(side == Side::kBefore ? probe.before
               : side == Side::kAt   ? 0
                                     : probe.after),
          beyond(side == Side::kBefore ? probe.beyond_before
                 : side == Side::kAt   ? 0
                                       : probe.beyond_after) {}
    Real operator()(Real key) const { return beyond + std::max(Real(0), sign * (key - near)); }
    Real sign, near, beyond;
  };

  // Of what has been put. True and the id if it is an entry; else what it leads to is asked for.
  bool choose(Draw& draw, EntryId& id) {
    draw.choice = pick(draw.uniform, nodes_.moments ? draw.probe.nearest / nodes_.tau : 0);
    groups_.clear();
    count_ = 0;
    const Choice choice = draw.choice;
    if (choice.node->leaf()) {
      id = N::leaf(choice.node)->ids[choice.at];
      return true;
    }
    const auto* n = N::inner(choice.node);
    const bool after = choice.side == Side::kAfter;
    if (choice.at != choice.end) {
      nodes_.prefetch_masses(n, choice.at, choice.end, after);
    } else if (n->level == 1) {
      N::prefetch_bytes(n->children[choice.at], sizeof(Leaf<Real>));
    } else {
      const auto* child = static_cast<const Inner<Real>*>(n->children[choice.at]);
      N::prefetch_bytes(child, sizeof(Inner<Real>));
      nodes_.prefetch_masses(child, 0, tree::kInnerMost, after);
    }
    return false;
  }
  Choice pick(double& uniform, Real shift) {
    rows::weigh({u_.data(), m0_.data(), m1_.data(), static_cast<int>(count_), nodes_.moments, shift, nodes_.tau});
    double left = uniform * static_cast<double>(rows::sum(m0_.data(), static_cast<int>(count_)));
    std::size_t chosen = 0;  // the last with mass, if rounding leads beyond it
    for (std::size_t c = 0; c < count_; ++c) {
      const auto mass = static_cast<double>(m0_[c]);
      if (mass > 0) chosen = c;
      if (left < mass) break;
      left -= mass;
    }
    uniform = std::clamp(left / static_cast<double>(m0_[chosen]), 0.0, std::nextafter(1.0, 0.0));
    auto group = groups_.end() - 1;
    while (group->begin > chosen) --group;
    Choice choice = group->first;
    if (choice.at == choice.end) choice.at = choice.end = choice.at + static_cast<int>(chosen - group->begin);
    return choice;
  }

  const N& nodes_;
  std::array<tree::QuickDraw<Real>, kDrawsAhead> quick_;
  std::vector<Draw> draws_;  // those that are not usual; none at first
  std::vector<Group> groups_;
  std::vector<Real> u_, m0_, m1_;
  std::size_t count_ = 0;
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
  for (std::size_t begin = 0; begin < queries.size(); begin += kDrawsAhead) {
    const std::size_t count = std::min(kDrawsAhead, queries.size() - begin);
    sampler.draw(impl_->root.node, queries.subspan(begin, count), uniforms.subspan(begin, count),
                 ids.subspan(begin, count));
  }
  return ok_status();
}

template Status SoftBTreeSnapshot<float>::sample(std::span<const float>, std::span<const double>,
                                                 std::span<EntryId>) const;
template Status SoftBTreeSnapshot<double>::sample(std::span<const double>, std::span<const double>,
                                                  std::span<EntryId>) const;

}  // namespace tandem::replay

#include "engine/grammar/flattening.h"

#include <optional>
#include <unordered_map>
#include <utility>

namespace tandem::engine {
namespace {

// A rule this small, without calls, costs less copied than called.
constexpr std::size_t kSmallStates = 4;

class Flattener {
 public:
  Flattener(const Nfa& nfa, RuleId root) : nfa_(nfa), budget_(nfa.budget()), place_of_(nfa.states_count()) {
    count_calls(root);
    rule_of(root);
    for (std::size_t i = 0; i < graph_.rules.size() && budget_.ok(); ++i) {
      const FlatGraph::Rule& rule = graph_.rules[i];
      copies_.push_back({rule.source, rule.start, rule.end});
      while (!copies_.empty() && budget_.ok()) {
        const Copy copy = copies_.back();
        copies_.pop_back();
        copy_rule(copy);
      }
    }
  }

  FlatGraph take() && { return std::move(graph_); }

 private:
  struct Copy {
    RuleId rule;
    std::uint32_t from, to;
  };
  struct RuleFacts {
    std::size_t calls_of_it = 0, states = 0;
    bool calls = false;
  };

  std::uint32_t add_state() {
    budget_.add_state();
    graph_.edges.emplace_back();
    return static_cast<std::uint32_t>(graph_.edges.size() - 1);
  }
  void add_edge(std::uint32_t from, FlatEdge edge) {
    if (budget_.add_edges(1)) graph_.edges[from].push_back(edge);
  }
  void add_empty(std::uint32_t from, std::uint32_t to) { add_edge(from, {FlatEdge::Kind::kEmpty, {}, to, 0}); }

  // Visits the states of a rule, each once.
  template <class Visit>
  void for_each_state(RuleId rule, Visit&& visit) {
    epoch_ += 1;
    std::vector<NfaState> open = {nfa_.start(rule)};
    place_of_[open[0]].epoch = epoch_;
    while (!open.empty() && budget_.spend()) {
      const NfaState state = open.back();
      open.pop_back();
      nfa_.for_each_edge(state, [&](const NfaEdge& edge) {
        budget_.spend();
        if (place_of_[edge.to].epoch == epoch_) return;
        place_of_[edge.to].epoch = epoch_;
        open.push_back(edge.to);
      });
      visit(state);
    }
  }

  void count_calls(RuleId root) {
    facts_.resize(nfa_.rules_count());
    std::vector<bool> seen(nfa_.rules_count());
    std::vector<RuleId> open = {root};
    seen[root] = true;
    facts_[root].calls_of_it = 2;  // it is what everything begins with, and stays a rule
    while (!open.empty() && budget_.ok()) {
      const RuleId rule = open.back();
      open.pop_back();
      for_each_state(rule, [&](NfaState state) {
        facts_[rule].states += 1;
        nfa_.for_each_edge(state, [&](const NfaEdge& edge) {
          if (edge.kind != NfaEdge::Kind::kCall) return;
          facts_[rule].calls = true;
          facts_[edge.index].calls_of_it += 1;
          if (!seen[edge.index]) open.push_back(edge.index);
          seen[edge.index] = true;
        });
      });
    }
  }

  bool copied(RuleId rule) const {
    const RuleFacts& facts = facts_[rule];
    return !nfa_.kept(rule) && (facts.calls_of_it == 1 || (!facts.calls && facts.states <= kSmallStates));
  }

  std::uint32_t rule_of(RuleId source) {
    const auto [place, is_new] = rule_of_.try_emplace(source, static_cast<std::uint32_t>(graph_.rules.size()));
    if (is_new) {
      const std::uint32_t start = add_state(), end = add_state();
      graph_.rules.push_back({source, start, end});
    }
    return place->second;
  }

  void copy_rule(const Copy& copy) {
    std::vector<std::pair<NfaState, std::uint32_t>> states;
    for_each_state(copy.rule, [&](NfaState state) { states.emplace_back(state, 0); });
    for (auto& [state, place] : states) {
      place = add_state();
      place_of_[state].index = place;
    }
    if (!budget_.ok()) return;
    // States of its own at both ends: what calls the rule must not be reachable through loops at the rule's start.
    add_empty(copy.from, place_of_[nfa_.start(copy.rule)].index);
    if (const Place& end = place_of_[nfa_.end(copy.rule)]; end.epoch == epoch_) add_empty(end.index, copy.to);
    for (const auto& copied : states) {
      nfa_.for_each_edge(copied.first,
                         [&](const NfaEdge& edge) { copy_edge(edge, copied.second, place_of_[edge.to].index); });
      if (!budget_.ok()) return;
    }
  }

  void copy_edge(const NfaEdge& edge, std::uint32_t from, std::uint32_t to) {
    switch (edge.kind) {
      case NfaEdge::Kind::kEmpty: add_empty(from, to); break;
      case NfaEdge::Kind::kBytes: add_edge(from, {FlatEdge::Kind::kBytes, edge.bytes, to, 0}); break;
      case NfaEdge::Kind::kChars: copy_chars(nfa_.set(edge.index), from, to); break;
      case NfaEdge::Kind::kCall:
        if (copied(edge.index)) {
          copies_.push_back({edge.index, from, to});
        } else {
          const std::uint32_t rule = rule_of(edge.index);
          add_edge(from, {FlatEdge::Kind::kCall, {}, to, rule});
        }
        break;
    }
  }

  void copy_chars(const CodePoints& set, std::uint32_t from, std::uint32_t to) {
    for (const std::vector<ByteRange>& sequence : utf8_sequences(set)) {
      if (!budget_.spend(sequence.size())) return;
      std::uint32_t at = from;
      for (std::size_t i = 0; i < sequence.size(); ++i) {
        const std::size_t left = sequence.size() - 1 - i;
        std::uint32_t next = to;
        if (left > 0) next = rest_is_free(sequence, i + 1) ? continuation(to, left) : add_state();
        add_edge(at, {FlatEdge::Kind::kBytes, sequence[i], next, 0});
        at = next;
        if (left > 0 && rest_is_free(sequence, i + 1)) break;
      }
    }
  }

  static bool rest_is_free(const std::vector<ByteRange>& sequence, std::size_t begin) {
    for (std::size_t i = begin; i < sequence.size(); ++i)
      if (sequence[i] != ByteRange{0x80, 0xBF}) return false;
    return true;
  }

  // The state from which any `left` continuation bytes lead to `to`; one for all characters that end there.
  std::uint32_t continuation(std::uint32_t to, std::size_t left) {
    const std::uint64_t key = std::uint64_t{to} << 2 | left;
    if (const auto found = continuations_.find(key); found != continuations_.end()) return found->second;
    const std::uint32_t next = left == 1 ? to : continuation(to, left - 1);
    const std::uint32_t state = add_state();
    add_edge(state, {FlatEdge::Kind::kBytes, {0x80, 0xBF}, next, 0});
    continuations_.emplace(key, state);
    return state;
  }

  struct Place {
    std::uint64_t epoch = 0;
    std::uint32_t index = 0;
  };

  const Nfa& nfa_;
  CompileBudget& budget_;
  FlatGraph graph_;
  std::vector<RuleFacts> facts_;
  std::vector<Place> place_of_;  // of a draft's state in the copy under way
  std::uint64_t epoch_ = 0;
  std::unordered_map<RuleId, std::uint32_t> rule_of_;
  std::unordered_map<std::uint64_t, std::uint32_t> continuations_;
  std::vector<Copy> copies_;
};

}  // namespace

FlatGraph flatten(const Nfa& nfa, RuleId root) { return Flattener(nfa, root).take(); }

}  // namespace tandem::engine

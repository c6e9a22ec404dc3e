#include "engine/grammar/string_rule.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>

namespace tandem::engine {
namespace {

// A pattern's automaton over characters, without empty transitions; its states are made as they are asked for.
class CharAutomaton {
 public:
  using State = std::uint32_t;
  struct Edge {
    const CodePoints* set;
    State to;
  };
  struct StateInfo {
    std::vector<Edge> edges;
    bool final = false;
  };

  CharAutomaton(const Expression& pattern, CompileBudget& budget) : nfa_(budget) {
    start_ = nfa_.add_state();
    end_ = add_expression(nfa_, start_, pattern);
    closed_.resize(nfa_.states_count());
    seen_.resize(nfa_.states_count());
  }

  State start() const { return start_; }
  const StateInfo& at(State state) {
    if (!closed_[state]) closed_[state] = close(state);
    return *closed_[state];
  }

 private:
  StateInfo close(State from) {
    StateInfo info;
    epoch_ += 1;
    std::vector<State> open = {from};
    seen_[from] = epoch_;
    while (!open.empty() && nfa_.budget().spend()) {
      const State state = open.back();
      open.pop_back();
      if (state == end_) info.final = true;
      nfa_.for_each_edge(state, [&](const NfaEdge& edge) {
        if (edge.kind == NfaEdge::Kind::kChars) info.edges.push_back({&nfa_.set(edge.index), edge.to});
        if (edge.kind != NfaEdge::Kind::kEmpty || seen_[edge.to] == epoch_) return;
        seen_[edge.to] = epoch_;
        open.push_back(edge.to);
      });
    }
    return info;
  }

  Nfa nfa_;
  State start_ = 0, end_ = 0;
  std::vector<std::optional<StateInfo>> closed_;
  std::vector<std::uint64_t> seen_;
  std::uint64_t epoch_ = 0;
};

// All patterns and the counter at once. A place is the state of each pattern, and the characters so far, counted no
// further than they matter.
class StringProduct {
 public:
  using Place = std::vector<std::uint32_t>;

  StringProduct(const StringRange& range, CompileBudget& budget) : range_(range) {
    for (const Expression& pattern : range.patterns)
      patterns_.push_back(std::make_unique<CharAutomaton>(pattern, budget));
  }

  Place start() const {
    Place place;
    for (const auto& pattern : patterns_) place.push_back(pattern->start());
    place.push_back(0);
    return place;
  }

  bool final(const Place& place) {
    for (std::size_t i = 0; i < patterns_.size(); ++i)
      if (!patterns_[i]->at(place[i]).final) return false;
    return place.back() >= range_.length_min;
  }

  // Visits the places one character further, with the characters that lead there.
  template <class Visit>
  void for_each_next(const Place& place, Visit&& visit) {
    std::int64_t count = place.back() + std::int64_t{1};
    if (count > range_.length_max) return;
    if (range_.length_max == kUnbounded) count = std::min(count, range_.length_min);
    Place next(place.size());
    next.back() = static_cast<std::uint32_t>(count);
    const std::function<void(std::size_t, const CodePoints&)> choose = [&](std::size_t i, const CodePoints& set) {
      if (set.empty()) return;
      if (i == patterns_.size()) {
        visit(next, set);
        return;
      }
      for (const CharAutomaton::Edge& edge : patterns_[i]->at(place[i]).edges) {
        next[i] = edge.to;
        choose(i + 1, set.intersection(*edge.set));
      }
    };
    choose(0, CodePoints::all());
  }

 private:
  const StringRange& range_;
  std::vector<std::unique_ptr<CharAutomaton>> patterns_;
};

}  // namespace

void add_string(Nfa& nfa, JsonRules& rules, NfaState from, NfaState to, const StringRange& range) {
  StringProduct product(range, nfa.budget());
  std::map<StringProduct::Place, NfaState> state_of;
  std::vector<StringProduct::Place> open;
  const auto state_at = [&](const StringProduct::Place& place) {
    const auto [known, is_new] = state_of.try_emplace(place, 0);
    if (is_new) {
      known->second = nfa.add_state();
      open.push_back(place);
    }
    return known->second;
  };
  nfa.add_byte(from, state_at(product.start()), '"');
  while (!open.empty() && nfa.budget().spend()) {
    const StringProduct::Place place = open.back();
    open.pop_back();
    const NfaState state = state_of.at(place);
    if (product.final(place)) nfa.add_byte(state, to, '"');
    product.for_each_next(place, [&](const StringProduct::Place& next, const CodePoints& set) {
      if (nfa.budget().spend()) rules.add_character(state, state_at(next), set);
    });
  }
}

bool contains(const StringRange& range, std::string_view text, CompileBudget& budget) {
  StringProduct product(range, budget);
  std::vector<StringProduct::Place> places = {product.start()}, next_places;
  for (const char32_t c : characters_of(text)) {
    next_places.clear();
    for (const StringProduct::Place& place : places) {
      if (!budget.spend()) return false;
      product.for_each_next(place, [&](const StringProduct::Place& next, const CodePoints& set) {
        if (budget.spend() && set.contains(c)) next_places.push_back(next);
      });
    }
    std::ranges::sort(next_places);
    next_places.erase(std::unique(next_places.begin(), next_places.end()), next_places.end());
    places.swap(next_places);
  }
  return std::ranges::any_of(places, [&](const StringProduct::Place& place) { return product.final(place); });
}

}  // namespace tandem::engine

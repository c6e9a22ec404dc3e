#include "engine/grammar/elimination.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

namespace tandem::engine {
namespace {

constexpr std::size_t kTransitionsPerState = 10;  // so many times states_max: the bound on all transitions

class Elimination {
 public:
  Elimination(const FlatGraph& graph, CompileBudget& budget)
      : graph_(graph), budget_(budget), kernel_of_(graph.edges.size(), kNone), seen_(graph.edges.size(), 0) {
    find_nullable();
    ends_.resize(graph.edges.size());
    for (const FlatGraph::Rule& rule : graph.rules) ends_[rule.end] = true;
    for (const FlatGraph::Rule& rule : graph.rules) {
      draft_.starts.push_back(kernel(rule.start));
      draft_.sources.push_back(rule.source);
    }
    for (std::size_t i = 0; i < flat_of_.size() && budget_.ok(); ++i) close(i);
    draft_.states.resize(flat_of_.size());
  }

  DraftAutomaton take() && { return std::move(draft_); }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  // A rule is nullable if its end is reached from its start over empty transitions and calls of nullable rules. Each
  // state is reached once; a call waits, where its caller was reached, for its rule to turn out nullable.
  void find_nullable() {
    const std::size_t rules = graph_.rules.size();
    nullable_.resize(rules);
    std::vector<std::optional<std::uint32_t>> ends(graph_.edges.size());
    std::vector<std::vector<std::uint32_t>> waiting(rules);
    std::vector<bool> reached(graph_.edges.size());
    std::vector<std::uint32_t> open;
    const auto reach = [&](std::uint32_t state) {
      if (!reached[state]) open.push_back(state);
      reached[state] = true;
    };
    for (std::uint32_t rule = 0; rule < rules; ++rule) {
      ends[graph_.rules[rule].end] = rule;
      reach(graph_.rules[rule].start);
    }
    while (!open.empty() && budget_.spend()) {
      const std::uint32_t state = open.back();
      open.pop_back();
      if (ends[state] && !nullable_[*ends[state]]) {
        nullable_[*ends[state]] = true;
        for (const std::uint32_t back : waiting[*ends[state]]) reach(back);
      }
      for (const FlatEdge& edge : graph_.edges[state]) {
        if (edge.kind == FlatEdge::Kind::kEmpty) reach(edge.to);
        if (edge.kind != FlatEdge::Kind::kCall) continue;
        waiting[edge.rule].push_back(edge.to);
        if (nullable_[edge.rule]) reach(edge.to);
      }
    }
  }

  // The index of a state that something enters by reading, calling or returning.
  std::uint32_t kernel(std::uint32_t flat) {
    if (kernel_of_[flat] == kNone) {
      kernel_of_[flat] = static_cast<std::uint32_t>(flat_of_.size());
      flat_of_.push_back(flat);
    }
    return kernel_of_[flat];
  }

  void close(std::size_t index) {
    DraftAutomaton::State closed;
    epoch_ += 1;
    open_.assign(1, flat_of_[index]);
    seen_[flat_of_[index]] = epoch_;
    while (!open_.empty() && budget_.spend()) {
      const std::uint32_t state = open_.back();
      open_.pop_back();
      if (ends_[state]) closed.final = true;
      for (const FlatEdge& edge : graph_.edges[state]) {
        if (edge.kind == FlatEdge::Kind::kBytes) {
          closed.edges.push_back({kernel(edge.to), edge.bytes.low, edge.bytes.high});
          continue;
        }
        if (edge.kind == FlatEdge::Kind::kCall) {
          closed.calls.push_back({edge.rule, kernel(edge.to), false});
          if (!nullable_[edge.rule]) continue;
        }
        if (seen_[edge.to] != epoch_) open_.push_back(edge.to);
        seen_[edge.to] = epoch_;
      }
    }
    normalize(closed);
    transitions_ += closed.edges.size() + closed.calls.size();
    budget_.spend(closed.edges.size());
    if (flat_of_.size() > budget_.limits().states_max ||
        transitions_ > kTransitionsPerState * budget_.limits().states_max)
      budget_.too_many_states();
    draft_.states.push_back(std::move(closed));
  }

  // Sorts, joins ranges that lead to one state, drops what is there twice.
  static void normalize(DraftAutomaton::State& state) {
    std::ranges::sort(state.edges, {}, [](const Automaton::Edge& edge) { return std::tuple(edge.to, edge.low); });
    std::size_t kept = 0;
    for (const Automaton::Edge& edge : state.edges) {
      Automaton::Edge* last = kept > 0 ? &state.edges[kept - 1] : nullptr;
      if (last != nullptr && last->to == edge.to && edge.low <= last->high + 1) {
        last->high = std::max(last->high, edge.high);
      } else {
        state.edges[kept++] = edge;
      }
    }
    state.edges.resize(kept);
    const auto key = [](const Automaton::Call& call) { return std::tuple(call.rule, call.back); };
    std::ranges::sort(state.calls, {}, key);
    const auto same = [&](const Automaton::Call& a, const Automaton::Call& b) { return key(a) == key(b); };
    state.calls.erase(std::unique(state.calls.begin(), state.calls.end(), same), state.calls.end());
  }

  const FlatGraph& graph_;
  CompileBudget& budget_;
  DraftAutomaton draft_;
  std::vector<bool> nullable_;
  std::vector<bool> ends_;                // [flat state] a rule's end
  std::vector<std::uint32_t> kernel_of_;  // [flat state]
  std::vector<std::uint32_t> flat_of_;    // [kernel]
  std::vector<std::uint64_t> seen_;       // [flat state] in which closing
  std::uint64_t epoch_ = 0;
  std::vector<std::uint32_t> open_;
  std::size_t transitions_ = 0;
};

}  // namespace

DraftAutomaton eliminate_empty(const FlatGraph& graph, CompileBudget& budget) {
  return Elimination(graph, budget).take();
}

}  // namespace tandem::engine

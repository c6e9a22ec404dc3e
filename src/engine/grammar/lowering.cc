#include "engine/grammar/lowering.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "engine/grammar/elimination.h"
#include "engine/grammar/flattening.h"

namespace tandem::engine {
namespace {

using State = std::uint32_t;
constexpr std::uint32_t kNever = ~std::uint32_t{0};

class Finishing {
 public:
  Finishing(DraftAutomaton draft, const Nfa& nfa, int stack_max)
      : draft_(std::move(draft)), nfa_(nfa), budget_(nfa.budget()), stack_max_(stack_max) {}

  Result<Automaton> run() {
    find_needs();
    TD_TRY(budget_.status());
    if (need_[draft_.starts[0]] == kNever)
      return invalid_argument(
          "no finite text satisfies the grammar: {} cannot end (a rule or $ref that leads back to itself on every "
          "path, or a schema that allows nothing)",
          nfa_.name(draft_.sources[0]));
    cut_dead_ends();
    merge_equal_states();
    mark_tail_calls();
    find_needs();  // again: tail calls leave nothing open
    TD_TRY(budget_.status());
    if (need_[draft_.starts[0]] > static_cast<std::uint32_t>(stack_max_))
      return resource_exhausted("the grammar's shortest text nests {} rules, more than {}: flatten it",
                                need_[draft_.starts[0]], stack_max_);
    TD_TRY(find_ranks());
    Automaton automaton = pack();
    TD_TRY(budget_.status());
    return automaton;
  }

 private:
  // need_[s]: the calls open at once on the way from s to its rule's end, where that is least. Settled by rising need,
  // as shortest paths are: a state is settled by its end, by an edge to a settled state, or by a call whose rule's
  // start and whose way on are both settled.
  void find_needs() {
    const std::size_t count = draft_.states.size();
    struct Waiting {
      State state;
      std::uint32_t call;  // index + 1; 0: an edge
    };
    std::vector<std::vector<Waiting>> waiting(count);
    need_.assign(count, kNever);
    using Entry = std::pair<std::uint32_t, State>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    for (State state = 0; state < count; ++state) {
      const DraftAutomaton::State& info = draft_.states[state];
      if (!budget_.spend(1 + info.edges.size() + info.calls.size())) return;
      for (const Automaton::Edge& edge : info.edges) waiting[edge.to].push_back({state, 0});
      for (std::uint32_t i = 0; i < info.calls.size(); ++i) {
        waiting[info.calls[i].back].push_back({state, i + 1});
        waiting[draft_.starts[info.calls[i].rule]].push_back({state, i + 1});
      }
      if (info.final) queue.emplace(0, state);
    }
    while (!queue.empty()) {
      const auto [need, state] = queue.top();
      queue.pop();
      if (need_[state] != kNever) continue;
      need_[state] = need;
      if (!budget_.spend(1 + waiting[state].size())) return;
      for (const Waiting& other : waiting[state]) {
        if (need_[other.state] != kNever) continue;
        if (other.call == 0) {
          queue.emplace(need, other.state);
          continue;
        }
        const Automaton::Call& call = draft_.states[other.state].calls[other.call - 1];
        const std::uint32_t within = need_[draft_.starts[call.rule]], after = need_[call.back];
        if (within != kNever && after != kNever)
          queue.emplace(std::max(after, within + (call.tail ? 0 : 1)), other.state);
      }
    }
  }

  void cut_dead_ends() {
    for (DraftAutomaton::State& state : draft_.states) {
      std::erase_if(state.edges, [&](const Automaton::Edge& edge) { return need_[edge.to] == kNever; });
      std::erase_if(state.calls, [&](const Automaton::Call& call) {
        return need_[call.back] == kNever || need_[draft_.starts[call.rule]] == kNever;
      });
    }
  }

  // Merges states whose transitions are the same. Taken in an order in which most states come after those that they
  // lead to, so that one pass merges whole tails; passes are repeated for loops.
  void merge_equal_states() {
    constexpr int kPassesMax = 4;
    std::vector<State> same(draft_.states.size());
    for (State state = 0; state < same.size(); ++state) same[state] = state;
    for (int pass = 0; pass < kPassesMax; ++pass) {
      std::unordered_map<std::string, State> first_of;
      bool merged = false;
      for (const State state : leaves_first()) {
        DraftAutomaton::State& info = draft_.states[state];
        for (Automaton::Edge& edge : info.edges) edge.to = same[edge.to];
        for (Automaton::Call& call : info.calls) call.back = same[call.back];
        if (!budget_.spend(1 + info.edges.size() + info.calls.size())) return;
        const auto [place, is_new] = first_of.try_emplace(signature(info), state);
        same[state] = place->second;
        merged |= !is_new;
      }
      for (DraftAutomaton::State& info : draft_.states) {
        for (Automaton::Edge& edge : info.edges) edge.to = same[edge.to];
        for (Automaton::Call& call : info.calls) call.back = same[call.back];
      }
      for (State& start : draft_.starts) start = same[start];
      if (!merged) return;
    }
  }

  // All states that can be reached, those without a way on first.
  std::vector<State> leaves_first() {
    std::vector<State> order;
    std::vector<bool> seen(draft_.states.size());
    std::vector<std::pair<State, std::size_t>> path;  // and how many of its transitions were followed
    const auto enter = [&](State state) {
      if (!seen[state]) path.emplace_back(state, 0);
      seen[state] = true;
    };
    for (const State start : draft_.starts) {
      enter(start);
      while (!path.empty() && budget_.spend()) {
        auto& [state, followed] = path.back();
        const DraftAutomaton::State& info = draft_.states[state];
        if (followed < info.edges.size()) {
          enter(info.edges[followed++].to);
        } else if (followed < info.edges.size() + info.calls.size()) {
          enter(info.calls[followed++ - info.edges.size()].back);
        } else {
          order.push_back(state);
          path.pop_back();
        }
      }
    }
    return order;
  }

  static std::string signature(DraftAutomaton::State& info) {
    std::ranges::sort(info.edges, {}, [](const Automaton::Edge& e) { return std::tuple(e.low, e.high, e.to); });
    std::ranges::sort(info.calls, {}, [](const Automaton::Call& c) { return std::tuple(c.rule, c.back); });
    std::string text(1, info.final ? 'f' : 'n');
    const auto put = [&text](std::uint32_t value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
    put(static_cast<std::uint32_t>(info.edges.size()));
    for (const Automaton::Edge& edge : info.edges) {
      put(edge.low | edge.high << 8);
      put(edge.to);
    }
    for (const Automaton::Call& call : info.calls) {
      put(call.rule);
      put(call.back);
    }
    return text;
  }

  void mark_tail_calls() {
    for (DraftAutomaton::State& state : draft_.states) {
      for (Automaton::Call& call : state.calls) {
        const DraftAutomaton::State& back = draft_.states[call.back];
        call.tail = back.final && back.edges.empty() && back.calls.empty();
      }
    }
  }

  // Orders the rules along the calls that they make before reading; a cycle of these would never read anything.
  Status find_ranks() {
    const std::size_t rules = draft_.starts.size();
    rank_.assign(rules, 0);
    enum : char { kNew, kOpen, kDone };
    std::vector<char> state_of(rules, kNew);
    std::vector<std::pair<std::uint32_t, std::size_t>> path;
    auto rank = static_cast<std::uint32_t>(rules);
    for (std::uint32_t first = 0; first < rules; ++first) {
      if (state_of[first] != kNew) continue;
      path.emplace_back(first, 0);
      state_of[first] = kOpen;
      while (!path.empty() && budget_.spend()) {
        const auto [rule, followed] = path.back();
        const std::vector<Automaton::Call>& calls = draft_.states[draft_.starts[rule]].calls;
        if (followed == calls.size()) {
          state_of[rule] = kDone;
          rank_[rule] = --rank;
          path.pop_back();
          continue;
        }
        path.back().second += 1;
        const std::uint32_t callee = calls[followed].rule;
        if (state_of[callee] == kOpen)
          return invalid_argument(
              "{} refers to itself before any text (left recursion): write it as a repetition, with *, + or an array",
              nfa_.name(draft_.sources[callee]));
        if (state_of[callee] == kDone) continue;
        state_of[callee] = kOpen;
        path.emplace_back(callee, 0);
      }
    }
    return ok_status();
  }

  Automaton pack() {
    Automaton automaton;
    automaton.stack_max = stack_max_;
    std::vector<State> place(draft_.states.size(), kNever);
    std::vector<State> order;
    const auto place_of = [&](State state) {
      if (place[state] == kNever) {
        place[state] = static_cast<State>(order.size());
        order.push_back(state);
      }
      return place[state];
    };
    for (std::size_t rule = 0; rule < draft_.starts.size(); ++rule)
      automaton.rules.push_back({place_of(draft_.starts[rule]), rank_[rule]});
    automaton.start = automaton.rules[0].start;
    for (std::size_t i = 0; i < order.size() && budget_.spend(); ++i) {
      const DraftAutomaton::State& info = draft_.states[order[i]];
      automaton.states.push_back(
          {static_cast<std::uint32_t>(automaton.edges.size()), static_cast<std::uint32_t>(automaton.calls.size()),
           static_cast<std::uint16_t>(std::min<std::uint32_t>(need_[order[i]], UINT16_MAX)), info.final});
      for (const Automaton::Edge& edge : info.edges)
        automaton.edges.push_back({place_of(edge.to), edge.low, edge.high});
      for (const Automaton::Call& call : info.calls)
        automaton.calls.push_back({call.rule, place_of(call.back), call.tail});
    }
    automaton.states.push_back({static_cast<std::uint32_t>(automaton.edges.size()),
                                static_cast<std::uint32_t>(automaton.calls.size()), 0, false});
    find_classes(automaton);
    return automaton;
  }

  // Bytes between which no range begins or ends are never told apart.
  static void find_classes(Automaton& automaton) {
    std::array<int, 257> begins{};  // where some range begins, or has just ended
    for (const Automaton::Edge& edge : automaton.edges) begins[edge.low] = begins[edge.high + 1] = 1;
    int classes = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (byte > 0 && begins[byte] != 0) ++classes;
      automaton.class_of[static_cast<std::size_t>(byte)] = static_cast<std::uint8_t>(classes);
    }
    automaton.classes_count = classes + 1;
  }

  DraftAutomaton draft_;
  const Nfa& nfa_;
  CompileBudget& budget_;
  const int stack_max_;
  std::vector<std::uint32_t> need_;
  std::vector<std::uint32_t> rank_;
};

}  // namespace

Result<Automaton> compile(const Nfa& nfa, RuleId root, int stack_max) {
  CompileBudget& budget = nfa.budget();
  TD_TRY(budget.status());
  const FlatGraph graph = flatten(nfa, root);
  TD_TRY(budget.status());
  DraftAutomaton draft = eliminate_empty(graph, budget);
  TD_TRY(budget.status());
  return Finishing(std::move(draft), nfa, stack_max).run();
}

}  // namespace tandem::engine

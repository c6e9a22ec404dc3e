// Second step of lowering: no empty transitions any more. A state's transitions are those of all states that it
// reaches without reading, through empty transitions and over calls of rules that may read nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/grammar/automaton.h"
#include "engine/grammar/flattening.h"

namespace tandem::engine {

struct DraftAutomaton {
  struct State {
    std::vector<Automaton::Edge> edges;
    std::vector<Automaton::Call> calls;
    bool final = false;
  };
  std::vector<State> states;
  std::vector<std::uint32_t> starts;  // of the rules; [0] is the root
  std::vector<RuleId> sources;        // of the rules, in the Nfa
};

// Incomplete if the budget runs out: ask it.
DraftAutomaton eliminate_empty(const FlatGraph& graph, CompileBudget& budget);

}  // namespace tandem::engine

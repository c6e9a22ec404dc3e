// A compiled grammar: rules over bytes without empty transitions, made to be run.
//
// A state reads a byte range, or calls a rule and goes on at `back` when that rule has ended, or ends its own rule.
// What compile() (lowering.h) guarantees, and running relies on:
//   every state can come to its rule's end: no text that has begun well is stuck;
//   no rule calls itself before it has read a byte (rank rises along such calls), so closing a state is finite;
//   a call of a rule that may read nothing is also passed over: `back`'s transitions are among the caller's own.
// Threads: immutable; any.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tandem::engine {

struct Automaton {
  using State = std::uint32_t;

  struct Edge {
    State to = 0;
    std::uint8_t low = 0, high = 0;
    friend bool operator==(const Edge&, const Edge&) = default;
  };
  struct Call {
    std::uint32_t rule = 0;
    State back = 0;
    bool tail = false;  // nothing is left to do at `back` but to end: the caller need not be remembered
    friend bool operator==(const Call&, const Call&) = default;
  };
  struct StateInfo {
    std::uint32_t edges_begin = 0, calls_begin = 0;
    std::uint16_t need = 0;  // calls that must be open at once to come to the end from here, at the least
    bool final = false;
    friend bool operator==(const StateInfo&, const StateInfo&) = default;
  };
  struct Rule {
    State start = 0;
    std::uint32_t rank = 0;  // rises along calls made before a byte was read
    friend bool operator==(const Rule&, const Rule&) = default;
  };

  std::vector<StateInfo> states;  // and one more, which ends the last one's lists
  std::vector<Edge> edges;
  std::vector<Call> calls;
  std::vector<Rule> rules;
  State start = 0;
  int stack_max = 0;  // calls that may be open at once: what would need more is not in the language

  // Bytes that no state tells apart share a class.
  std::array<std::uint8_t, 256> class_of{};
  int classes_count = 0;

  std::span<const Edge> edges_of(State state) const {
    return std::span(edges).subspan(states[state].edges_begin,
                                    states[state + 1].edges_begin - states[state].edges_begin);
  }
  std::span<const Call> calls_of(State state) const {
    return std::span(calls).subspan(states[state].calls_begin,
                                    states[state + 1].calls_begin - states[state].calls_begin);
  }
  std::size_t states_count() const { return states.size() - 1; }

  // Compiled from the same source they are equal.
  friend bool operator==(const Automaton&, const Automaton&) = default;
};

}  // namespace tandem::engine

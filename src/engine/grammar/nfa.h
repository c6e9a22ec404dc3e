// The draft of an automaton, as front ends write it: rules, each a graph from its start to its end, over bytes,
// characters, empty transitions, and calls of rules.
//
// The functions that add something go on quietly when the budget is spent; compile() (lowering.h) then returns its
// Status. Loops whose length the source controls ask the budget themselves.
// Threads: one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/grammar/code_points.h"
#include "engine/grammar/compile_budget.h"

namespace tandem::engine {

using NfaState = std::uint32_t;
using RuleId = std::uint32_t;

struct NfaEdge {
  enum class Kind : std::uint8_t { kEmpty, kBytes, kChars, kCall };
  Kind kind = Kind::kEmpty;
  ByteRange bytes;          // kBytes
  NfaState to = 0;          // kCall: where to go on when the rule has ended
  std::uint32_t index = 0;  // kChars: of the set; kCall: the rule
  std::uint32_t next = 0;   // of the same state's edges, plus 1; 0: the last
};

class Nfa {
 public:
  explicit Nfa(CompileBudget& budget) : budget_(&budget) {}
  CompileBudget& budget() const { return *budget_; }

  // `kept`: the rule stays a rule where it could be copied into the only place that calls it, so that masks computed in
  // one call serve the others.
  RuleId add_rule(std::string name, bool kept = false);
  std::size_t rules_count() const { return rules_.size(); }
  const std::string& name(RuleId rule) const { return rules_[rule].name; }
  bool kept(RuleId rule) const { return rules_[rule].kept; }
  NfaState start(RuleId rule) const { return rules_[rule].start; }
  NfaState end(RuleId rule) const { return rules_[rule].end; }

  NfaState add_state();
  void add_empty(NfaState from, NfaState to) { add_edge(from, {NfaEdge::Kind::kEmpty, {}, to, 0, 0}); }
  void add_bytes(NfaState from, NfaState to, ByteRange bytes) {
    add_edge(from, {NfaEdge::Kind::kBytes, bytes, to, 0, 0});
  }
  void add_byte(NfaState from, NfaState to, char byte) {
    add_bytes(from, to, {static_cast<std::uint8_t>(byte), static_cast<std::uint8_t>(byte)});
  }
  void add_chars(NfaState from, NfaState to, CodePoints set);
  void add_call(NfaState from, NfaState to, RuleId rule) { add_edge(from, {NfaEdge::Kind::kCall, {}, to, rule, 0}); }

  // These return the state after what was added.
  NfaState add_literal(NfaState from, std::string_view bytes);
  NfaState add_call(NfaState from, RuleId rule);
  // One of `choices`; common beginnings are shared.
  void add_choices(NfaState from, NfaState to, std::vector<std::string> choices);

  std::size_t states_count() const { return first_.size(); }
  const CodePoints& set(std::uint32_t index) const { return sets_[index]; }
  template <class Visit>
  void for_each_edge(NfaState state, Visit&& visit) const {
    for (std::uint32_t i = first_[state]; i != 0; i = edges_[i - 1].next) visit(edges_[i - 1]);
  }

 private:
  struct Rule {
    std::string name;
    NfaState start = 0, end = 0;
    bool kept = false;
  };
  void add_edge(NfaState from, NfaEdge edge);

  CompileBudget* budget_;
  std::vector<Rule> rules_;
  std::vector<std::uint32_t> first_;  // of a state's edges, plus 1; 0: none
  std::vector<NfaEdge> edges_;
  std::vector<CodePoints> sets_;
};

}  // namespace tandem::engine

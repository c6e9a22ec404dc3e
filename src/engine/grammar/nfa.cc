#include "engine/grammar/nfa.h"

#include <algorithm>
#include <utility>

namespace tandem::engine {

RuleId Nfa::add_rule(std::string name, bool kept) {
  budget_->add_rule();
  Rule rule = {std::move(name), add_state(), 0, kept};
  rule.end = add_state();
  rules_.push_back(std::move(rule));
  return static_cast<RuleId>(rules_.size() - 1);
}

NfaState Nfa::add_state() {
  // Beyond the budget everything happens in one state: nothing grows, and nobody will use it.
  if (!budget_->add_state() && !first_.empty()) return static_cast<NfaState>(first_.size() - 1);
  first_.push_back(0);
  return static_cast<NfaState>(first_.size() - 1);
}

void Nfa::add_edge(NfaState from, NfaEdge edge) {
  if (!budget_->add_edges(1)) return;
  edge.next = first_[from];
  edges_.push_back(edge);
  first_[from] = static_cast<std::uint32_t>(edges_.size());
}

void Nfa::add_chars(NfaState from, NfaState to, CodePoints set) {
  if (set.empty() || !budget_->add_edges(set.ranges().size())) return;
  sets_.push_back(std::move(set));
  add_edge(from, {NfaEdge::Kind::kChars, {}, to, static_cast<std::uint32_t>(sets_.size() - 1), 0});
}

NfaState Nfa::add_literal(NfaState from, std::string_view bytes) {
  for (const char byte : bytes) {
    if (!budget_->ok()) break;
    const NfaState to = add_state();
    add_byte(from, to, byte);
    from = to;
  }
  return from;
}

NfaState Nfa::add_call(NfaState from, RuleId rule) {
  const NfaState to = add_state();
  add_call(from, to, rule);
  return to;
}

void Nfa::add_choices(NfaState from, NfaState to, std::vector<std::string> choices) {
  std::ranges::sort(choices);
  choices.erase(std::unique(choices.begin(), choices.end()), choices.end());
  std::vector<NfaState> path = {add_state()};  // the states of the previous choice, by length
  add_empty(from, path[0]);
  std::string_view previous;
  for (std::size_t i = 0; i < choices.size() && budget_->ok(); ++i) {
    const std::string& choice = choices[i];
    const bool goes_on = i + 1 < choices.size() && choices[i + 1].starts_with(choice);
    const auto common = static_cast<std::size_t>(std::ranges::mismatch(previous, choice).in1 - previous.begin());
    path.resize(common + 1);
    for (std::size_t at = common; at < choice.size() && budget_->ok(); ++at) {
      const bool last = at + 1 == choice.size() && !goes_on;
      path.push_back(last ? to : add_state());
      add_byte(path[at], path[at + 1], choice[at]);
    }
    if (goes_on || choice.empty()) add_empty(path.back(), to);
    previous = choice;
  }
}

}  // namespace tandem::engine

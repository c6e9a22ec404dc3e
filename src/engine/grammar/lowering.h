// From a draft (Nfa) to what runs (Automaton): rules that are called once are copied into their caller, characters
// become UTF-8 bytes, empty transitions and calls that may read nothing are passed over, what leads nowhere is cut,
// states that do the same are merged.
#pragma once

#include "base/status.h"
#include "engine/grammar/automaton.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

//   stack_max  see Automaton
// Errors: kInvalidArgument (a rule that calls itself before it has read anything; a language without a single finite
// text), kResourceExhausted (the budget).
[[nodiscard]] Result<Automaton> compile(const Nfa& nfa, RuleId root, int stack_max);

}  // namespace tandem::engine

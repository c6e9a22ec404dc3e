// JSON strings of a certain length that match patterns: the automata of the patterns and a counter of characters, run
// side by side.
// Threads: any.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/grammar/expression.h"
#include "engine/grammar/json_rules.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

struct StringRange {
  std::int64_t length_min = 0, length_max = kUnbounded;  // in characters
  std::vector<Expression> patterns;                      // of all of the string; without anchors
};

// Adds the strings in the range, quotes and all. Characters that JSON lets stand for themselves do.
void add_string(Nfa& nfa, JsonRules& rules, NfaState from, NfaState to, const StringRange& range);
// Whether the text (UTF-8) of a string is in the range.
bool contains(const StringRange& range, std::string_view text, CompileBudget& budget);

}  // namespace tandem::engine

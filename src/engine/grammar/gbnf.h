// Grammars in GBNF, the notation of llama.cpp, read into a draft:
//   # a list of things
//   root ::= ("- " item)+
//   item ::= [^\n]{1,80} "\n"
// Rules are names of letters, digits, - and _; the text is what `root` spells. Sequences, alternatives (|), groups,
// * + ? {m} {m,} {m,n}, literals, classes of characters ([a-z], [^"\\]), . for any character, comments. Escapes are
// \n \r \t \\ \" \[ \] \- \^ \xHH \uHHHH \UHHHHHHHH. A rule ends with its line, unless that is within parentheses or
// the next thing is a |. Tokens (<...>) are not supported.
// Threads: any.
#pragma once

#include <string_view>

#include "base/status.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

// Adds the grammar's rules; returns `root`.
// Errors: kInvalidArgument naming the line, or the rule that is missing; kResourceExhausted (a limit).
[[nodiscard]] Result<RuleId> add_gbnf(Nfa& nfa, std::string_view source);

}  // namespace tandem::engine

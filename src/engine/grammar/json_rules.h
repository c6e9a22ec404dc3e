// The pieces of JSON text that every schema is made of.
//
// White space, so that a model can lay its answer out but not go on with it for ever: after { [ and , and before ] and
// } one space, or a line's end and at most 40 spaces; after : one space. None elsewhere. Strings are valid UTF-8,
// control characters escaped, surrogates only in pairs. Threads: one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "engine/grammar/nfa.h"

namespace tandem::engine {

class JsonRules {
 public:
  // Borrows `nfa`.
  explicit JsonRules(Nfa& nfa) : nfa_(nfa) {}

  // Made when first asked for. Values nest as deep as the automaton's stack allows.
  RuleId space();   // what may stand within brackets and after a comma
  RuleId string();  // any string
  RuleId number();  // any number
  RuleId value();   // anything
  RuleId object();  // any object
  RuleId array();   // any array

  NfaState add_colon(NfaState from);
  NfaState add_comma(NfaState from);
  // One character of a string, from `set`, as it is or, where JSON wants that, in its shortest escape.
  void add_character(NfaState from, NfaState to, const CodePoints& set);
  // A key that is none of `names`, quotes and all.
  void add_other_key(NfaState from, NfaState to, const std::vector<std::string>& names);

 private:
  void add_any_character(NfaState from, NfaState to);
  void add_brackets(RuleId rule, char open, char close, NfaState member, NfaState after);

  Nfa& nfa_;
  std::optional<RuleId> space_, string_, number_, value_, object_, array_;
};

// The text of a value, on one line without spaces; what enum and const stand for. Whole numbers have no point.
// `value` is no deeper than callers may recurse.
std::string canonical_json(const json::value& value);

}  // namespace tandem::engine

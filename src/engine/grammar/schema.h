// JSON schemas, read into a draft. What is supported, and how it is read, is docs/structured_output.md.
//
// Each schema within the schema becomes a rule of its own, once, however often it is referred to; those still to be
// written wait in a queue, so nothing recurses.
// Threads: one.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "engine/grammar/json_rules.h"
#include "engine/grammar/nfa.h"
#include "engine/grammar/schema_facts.h"

namespace tandem::engine {

class SchemaCompiler {
 public:
  // All are borrowed.
  SchemaCompiler(Nfa& nfa, JsonRules& rules, const json::value& schema)
      : nfa_(nfa), rules_(rules), schema_(schema), reader_(schema, nfa.budget()) {}

  // The rule of the texts that the schema describes.
  // Errors: kInvalidArgument naming the keyword and where it is; kResourceExhausted (a limit).
  [[nodiscard]] Result<RuleId> compile();

 private:
  using Conjunction = std::vector<const json::value*>;  // schemas that must all hold
  struct Pending {
    Conjunction schemas;
    RuleId rule = 0;
    std::string where;
  };

  struct ObjectShape {
    struct Member {
      std::string name;
      Conjunction schemas;
      bool required = false, forbidden = false;
    };
    std::vector<Member> members;  // in the order in which they are written
    bool others = false;          // any others may follow
    Conjunction other_schemas;
  };

  Result<RuleId> rule_of(Conjunction schemas, const std::string& where);
  Status write(const Pending& pending);
  Status write_facts(NfaState from, NfaState to, SchemaFacts facts, const std::string& where);
  Status write_alternatives(NfaState from, NfaState to, SchemaFacts facts, const std::string& where);
  Status write_values(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where);
  Result<bool> satisfies(const json::value& value, const SchemaFacts& facts, const std::string& where);
  Status write_numbers(NfaState from, NfaState to, SchemaFacts& facts, const std::string& where);
  Status write_array(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where);
  Result<ObjectShape> shape_of(const SchemaFacts& facts, const std::string& where);
  Status write_object(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where);

  Nfa& nfa_;
  JsonRules& rules_;
  const json::value& schema_;
  SchemaReader reader_;
  std::map<Conjunction, RuleId> rule_of_;
  std::deque<Pending> pending_;
};

}  // namespace tandem::engine

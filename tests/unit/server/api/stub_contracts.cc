// Stands in for the grammars until they are there.
#include "engine/grammar/grammar.h"

namespace tandem::engine {

struct Grammar::Impl {};
Grammar::Grammar(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;
using Made = Result<std::shared_ptr<const Grammar>>;
Made Grammar::json_object() { return std::shared_ptr<const Grammar>(new Grammar(std::make_unique<const Impl>())); }
Made Grammar::from_gbnf(std::string_view, const GrammarLimits&) { return json_object(); }
Made Grammar::from_regex(std::string_view pattern, const GrammarLimits&) {
  if (pattern == "(") return invalid_argument("unclosed group");
  return json_object();
}
Made Grammar::from_choices(const std::vector<std::string>&, const GrammarLimits&) { return json_object(); }
Made Grammar::from_json_schema(const json::value&, const GrammarLimits&) { return json_object(); }
Made Grammar::from_alternatives(const std::vector<std::vector<GrammarPart>>&, const std::optional<std::string>&,
                                const GrammarLimits&) {
  return json_object();
}

}  // namespace tandem::engine

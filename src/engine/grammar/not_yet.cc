// Grammars are refused until their compiler is here.
#include "engine/grammar/grammar.h"

namespace tandem::engine {
namespace {

using Made = Result<std::shared_ptr<const Grammar>>;
Made refusal() { return invalid_argument("structured output is not supported yet"); }

}  // namespace

struct Grammar::Impl {};
Grammar::~Grammar() = default;
Made Grammar::from_gbnf(std::string_view, const GrammarLimits&) { return refusal(); }
Made Grammar::from_regex(std::string_view, const GrammarLimits&) { return refusal(); }
Made Grammar::from_choices(const std::vector<std::string>&, const GrammarLimits&) { return refusal(); }
Made Grammar::from_json_schema(const json::value&, const GrammarLimits&) { return refusal(); }
Made Grammar::json_object() { return refusal(); }
Made Grammar::from_alternatives(const std::vector<std::vector<GrammarPart>>&, const std::optional<std::string>&,
                                const GrammarLimits&) {
  return refusal();
}

}  // namespace tandem::engine

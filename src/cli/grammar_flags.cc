#include "cli/grammar_flags.h"

#include "base/file.h"
#include "base/json.h"

namespace tandem::cli {
namespace {

using Compiled = Result<std::shared_ptr<const engine::Grammar>>;

Compiled named(Compiled grammar, const std::string& flag) {
  return grammar.ok() ? std::move(grammar) : Compiled(grammar.status().with_context(flag));
}

}  // namespace

Result<std::shared_ptr<const engine::Grammar>> load_grammar(const GrammarFlags& flags) {
  constexpr int kJsonDepthMax = 256;  // the schema's own bound is tighter, and says so
  if (!flags.json_schema.empty()) {
    const json::value schema =
        TD_TRY(parse_json(TD_TRY(read_file(flags.json_schema)), flags.json_schema, kJsonDepthMax));
    return named(engine::Grammar::from_json_schema(schema), "--json-schema");
  }
  if (!flags.grammar.empty()) return named(engine::Grammar::from_gbnf(TD_TRY(read_file(flags.grammar))), "--grammar");
  if (flags.regex) return named(engine::Grammar::from_regex(*flags.regex), "--regex");
  if (!flags.choices.empty()) return named(engine::Grammar::from_choices(flags.choices), "--choice");
  return std::shared_ptr<const engine::Grammar>();
}

}  // namespace tandem::cli

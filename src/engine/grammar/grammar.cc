#include "engine/grammar/grammar.h"

#include <utility>

#include "engine/grammar/gbnf.h"
#include "engine/grammar/grammar_impl.h"
#include "engine/grammar/json_rules.h"
#include "engine/grammar/lowering.h"
#include "engine/grammar/regex.h"
#include "engine/grammar/schema.h"
#include "engine/grammar/state_pool.h"

namespace tandem::engine {
namespace {

// Calls open at once. JSON nests at most so deep: what reads the answer has bounds too.
constexpr int kJsonStackMax = 96;
constexpr int kGbnfStackMax = 256;

Result<std::unique_ptr<const Grammar::Impl>> finish(const Nfa& nfa, RuleId root, int stack_max) {
  auto impl = std::make_unique<Grammar::Impl>();
  impl->automaton = TD_TRY(compile(nfa, root, stack_max));
  return std::unique_ptr<const Grammar::Impl>(std::move(impl));
}

Result<NfaState> add_part(Nfa& nfa, JsonRules& rules, NfaState from, const GrammarPart& part) {
  if (part.schema) return nfa.add_call(from, TD_TRY(SchemaCompiler(nfa, rules, *part.schema).compile()));
  TD_TRY(check_utf8(part.literal, "a literal part"));
  if (part.literal.size() > nfa.budget().limits().source_bytes_max)
    return resource_exhausted("a literal part has {} bytes, more than {}: shorten it", part.literal.size(),
                              nfa.budget().limits().source_bytes_max);
  return nfa.add_literal(from, part.literal);
}

}  // namespace

Grammar::Grammar(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;

std::shared_ptr<const Grammar> Grammar::shared(std::unique_ptr<const Impl> impl) {
  return std::shared_ptr<const Grammar>(new Grammar(std::move(impl)));
}

Result<std::shared_ptr<const Grammar>> Grammar::from_gbnf(std::string_view source, const GrammarLimits& limits) {
  CompileBudget budget(limits);
  Nfa nfa(budget);
  const RuleId root = TD_TRY(add_gbnf(nfa, source));
  return shared(TD_TRY(finish(nfa, root, kGbnfStackMax)));
}

Result<std::shared_ptr<const Grammar>> Grammar::from_regex(std::string_view pattern, const GrammarLimits& limits) {
  CompileBudget budget(limits);
  Nfa nfa(budget);
  const Expression expression = TD_TRY(resolve_anchors(TD_TRY(parse_regex(pattern, limits)), /*searched=*/false));
  const RuleId root = nfa.add_rule("the pattern");
  nfa.add_empty(add_expression(nfa, nfa.start(root), expression), nfa.end(root));
  return shared(TD_TRY(finish(nfa, root, kGbnfStackMax)));
}

Result<std::shared_ptr<const Grammar>> Grammar::from_choices(const std::vector<std::string>& choices,
                                                             const GrammarLimits& limits) {
  if (choices.empty()) return invalid_argument("there are no choices: give at least one");
  if (choices.size() > limits.enum_max)
    return resource_exhausted("there are {} choices, more than {}", choices.size(), limits.enum_max);
  std::size_t bytes = 0;
  for (const std::string& choice : choices) {
    bytes += choice.size();
    if (bytes > limits.source_bytes_max)
      return resource_exhausted("the choices have more than {} bytes: shorten them", limits.source_bytes_max);
    TD_TRY(check_utf8(choice, "a choice"));
  }
  CompileBudget budget(limits);
  Nfa nfa(budget);
  const RuleId root = nfa.add_rule("the choices");
  nfa.add_choices(nfa.start(root), nfa.end(root), choices);
  return shared(TD_TRY(finish(nfa, root, kGbnfStackMax)));
}

Result<std::shared_ptr<const Grammar>> Grammar::from_json_schema(const json::value& schema,
                                                                 const GrammarLimits& limits) {
  CompileBudget budget(limits);
  Nfa nfa(budget);
  JsonRules rules(nfa);
  const RuleId root = TD_TRY(SchemaCompiler(nfa, rules, schema).compile());
  return shared(TD_TRY(finish(nfa, root, kJsonStackMax)));
}

Result<std::shared_ptr<const Grammar>> Grammar::from_alternatives(
    const std::vector<std::vector<GrammarPart>>& alternatives, const std::optional<std::string>& separator,
    const GrammarLimits& limits) {
  if (alternatives.empty()) return invalid_argument("there are no alternatives: give at least one");
  if (alternatives.size() > limits.enum_max)
    return resource_exhausted("there are {} alternatives, more than {}", alternatives.size(), limits.enum_max);
  if (separator) TD_TRY(check_utf8(*separator, "the separator"));
  CompileBudget budget(limits);
  Nfa nfa(budget);
  JsonRules rules(nfa);
  const RuleId root = nfa.add_rule("the alternatives");
  const NfaState first = nfa.add_state(), last = nfa.add_state();
  for (const std::vector<GrammarPart>& parts : alternatives) {
    NfaState at = nfa.add_state();
    nfa.add_empty(first, at);
    for (const GrammarPart& part : parts) at = TD_TRY(add_part(nfa, rules, at, part));
    nfa.add_empty(at, last);
  }
  nfa.add_empty(nfa.start(root), first);
  nfa.add_empty(last, nfa.end(root));
  if (separator) nfa.add_empty(nfa.add_literal(last, *separator), first);
  return shared(TD_TRY(finish(nfa, root, kJsonStackMax)));
}

Result<std::shared_ptr<const Grammar>> Grammar::json_object() {
  CompileBudget budget(GrammarLimits{});
  Nfa nfa(budget);
  JsonRules rules(nfa);
  const RuleId root = nfa.add_rule("an object");
  nfa.add_call(nfa.start(root), nfa.end(root), rules.object());
  return shared(TD_TRY(finish(nfa, root, kJsonStackMax)));
}

bool Grammar::matches(std::string_view text) const {
  constexpr std::size_t kPoolBytesMax = 32 << 20;
  StatePool pool(impl_->automaton);
  StatePool::Id state = pool.start();
  StatePool::Id* const kept[] = {&state};
  for (const char byte : text) {
    state = pool.step(state, static_cast<std::uint8_t>(byte));
    if (pool.bytes() > kPoolBytesMax) pool.keep_only(kept);
  }
  return pool.accepts(state);
}

}  // namespace tandem::engine

#include "engine/grammar/schema.h"

#include <algorithm>
#include <utility>

#include "model/config/shown_text.h"

namespace tandem::engine {
namespace {

using model::shown_text;

constexpr std::size_t kEitherMax = 64;  // groups of alternatives that must hold at once

// "item of the schema of 'a'", for as long as that helps.
std::string part_of(const char* part, const std::string& where) {
  constexpr std::size_t kLengthMax = 120;
  return where.size() > kLengthMax ? part + std::string(" of a schema") : fmt::format("{} of the {}", part, where);
}

}  // namespace

Result<RuleId> SchemaCompiler::compile() {
  TD_TRY(reader_.check_source());
  const RuleId root = TD_TRY(rule_of({&schema_}, "schema"));
  while (!pending_.empty()) {
    const Pending pending = std::move(pending_.front());
    pending_.pop_front();
    TD_TRY(write(pending));
    TD_TRY(nfa_.budget().status());
  }
  return root;
}

Result<RuleId> SchemaCompiler::rule_of(Conjunction schemas, const std::string& where) {
  for (const json::value*& schema : schemas) schema = TD_TRY(reader_.target_of(*schema, where));
  std::erase_if(schemas, [](const json::value* schema) { return schema->is_bool() && schema->get_bool(); });
  if (schemas.empty()) return rules_.value();
  // The same schemas in any order are one rule; properties stand in the order of the first.
  Conjunction key = schemas;
  std::ranges::sort(key);
  key.erase(std::unique(key.begin(), key.end()), key.end());
  const auto [place, is_new] = rule_of_.try_emplace(std::move(key), 0);
  if (is_new) {
    place->second = nfa_.add_rule("the " + where);
    TD_TRY(nfa_.budget().status());
    pending_.push_back({std::move(schemas), place->second, where});
  }
  return place->second;
}

Status SchemaCompiler::write(const Pending& pending) {
  SchemaFacts facts;
  for (const json::value* schema : pending.schemas) TD_TRY(reader_.add(*schema, pending.where, facts));
  return write_facts(nfa_.start(pending.rule), nfa_.end(pending.rule), std::move(facts), pending.where);
}

Status SchemaCompiler::write_facts(NfaState from, NfaState to, SchemaFacts facts, const std::string& where) {
  if (!facts.contradiction.empty()) return invalid_argument("{}: {}", where, facts.contradiction);
  if (facts.nothing) return ok_status();  // no way from `from` to `to`
  if (!facts.alternatives.empty()) return write_alternatives(from, to, std::move(facts), where);
  if (facts.values) return write_values(from, to, facts, where);
  if (facts.restricts_nothing()) {
    nfa_.add_call(from, to, rules_.value());
    return ok_status();
  }
  // Whoever lists properties and no type means an object.
  if (!facts.typed && facts.kinds_hinted != 0) facts.kinds = facts.kinds_hinted;

  if ((facts.kinds & kNullKind) != 0) nfa_.add_choices(from, to, {"null"});
  if ((facts.kinds & kBooleanKind) != 0) nfa_.add_choices(from, to, {"true", "false"});
  if ((facts.kinds & kNumberKinds) != 0) TD_TRY(write_numbers(from, to, facts, where));
  if ((facts.kinds & kStringKind) != 0) {
    const StringRange& range = facts.string;
    if (range.patterns.empty() && range.length_min == 0 && range.length_max == kUnbounded) {
      nfa_.add_call(from, to, rules_.string());
    } else {
      add_string(nfa_, rules_, from, to, range);
    }
  }
  if ((facts.kinds & kArrayKind) != 0) TD_TRY(write_array(from, to, facts, where));
  if ((facts.kinds & kObjectKind) != 0) TD_TRY(write_object(from, to, facts, where));
  return nfa_.budget().status();
}

// Takes the first group of alternatives, adds each to what else holds, and goes on with the next group.
Status SchemaCompiler::write_alternatives(NfaState from, NfaState to, SchemaFacts facts, const std::string& where) {
  if (facts.alternatives.size() > kEitherMax)
    return resource_exhausted("{}: more than {} anyOf and oneOf must hold at once: merge them", where, kEitherMax);
  const json::array& branches = *facts.alternatives.front();
  facts.alternatives.erase(facts.alternatives.begin());
  const bool alone = facts.restricts_nothing() && !facts.typed;
  Status contradiction;
  bool any = false;
  for (const json::value& branch : branches) {
    if (!nfa_.budget().spend()) return nfa_.budget().status();
    if (alone) {
      nfa_.add_call(from, to, TD_TRY(rule_of({&branch}, where)));
      any = true;
      continue;
    }
    SchemaFacts both = facts;
    TD_TRY(reader_.add(branch, where, both));
    // A branch that the rest rules out is none; if all are, the first one says why.
    if (!both.contradiction.empty()) {
      if (contradiction.ok()) contradiction = invalid_argument("{}: {}", where, both.contradiction);
      continue;
    }
    any = true;
    TD_TRY(write_facts(from, to, std::move(both), where));
  }
  return any ? ok_status() : contradiction;
}

Status SchemaCompiler::write_values(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where) {
  std::vector<std::string> texts;
  for (const json::value* value : *facts.values) {
    if (!nfa_.budget().spend()) return nfa_.budget().status();
    if (TD_TRY(satisfies(*value, facts, where))) texts.push_back(canonical_json(*value));
  }
  if (texts.empty()) return invalid_argument("{}: no value of enum or const satisfies the other keywords", where);
  nfa_.add_choices(from, to, std::move(texts));
  return ok_status();
}

Result<bool> SchemaCompiler::satisfies(const json::value& value, const SchemaFacts& facts, const std::string& where) {
  if (value.is_double() && !Decimal::from_json(value).ok())
    return invalid_argument("{}: enum and const must be finite numbers", where);
  const unsigned kind = kind_of(value);
  if ((facts.kinds & kind) == 0) return false;
  if ((kind & kNumberKinds) != 0) return facts.number.contains(TD_TRY(Decimal::from_json(value)));
  if (kind == kStringKind) {
    const std::string_view text = value.get_string();
    const bool contained = contains(facts.string, text, nfa_.budget());
    TD_TRY(nfa_.budget().status());
    return contained;
  }
  const bool says_more = kind == kArrayKind
                             ? !facts.items.empty() || facts.items_min > 0 || facts.items_max != kUnbounded
                         : kind == kObjectKind ? !facts.properties.empty() || !facts.required.empty()
                                               : false;
  if (says_more)
    return invalid_argument("{}: enum or const of arrays or objects stands beside keywords about them: leave those out",
                            where);
  return true;
}

Status SchemaCompiler::write_numbers(NfaState from, NfaState to, SchemaFacts& facts, const std::string& where) {
  NumberRange range = facts.number;
  range.whole = (facts.kinds & kFractionKind) == 0;
  if (!range.whole && !range.low && !range.high && !range.fraction_digits_max) {
    nfa_.add_call(from, to, rules_.number());
    return ok_status();
  }
  if (add_number(nfa_, from, to, range)) return ok_status();
  TD_TRY(nfa_.budget().status());
  return invalid_argument(
      "{}: no {} lies between its bounds (whole numbers have 64 bits, others at most 18 digits before the point)",
      where, range.whole ? "whole number" : "number");
}

Status SchemaCompiler::write_array(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where) {
  if (facts.items.empty() && facts.items_min == 0 && facts.items_max == kUnbounded) {
    nfa_.add_call(from, to, rules_.array());
    return ok_status();
  }
  std::int64_t prefix = 0;  // items that have schemas of their own
  for (const SchemaFacts::Items& items : facts.items)
    if (items.prefix != nullptr) prefix = std::max(prefix, std::ssize(*items.prefix));
  const auto schemas_at = [&](std::int64_t index) {
    Conjunction schemas;
    for (const SchemaFacts::Items& items : facts.items) {
      const bool named = items.prefix != nullptr && index < std::ssize(*items.prefix);
      const json::value* schema = named ? &(*items.prefix)[static_cast<std::size_t>(index)] : items.rest;
      if (schema != nullptr) schemas.push_back(schema);
    }
    return schemas;
  };

  const NfaState bracket = nfa_.add_state(), full = nfa_.add_state();
  nfa_.add_byte(from, bracket, '[');
  nfa_.add_byte(nfa_.add_call(full, rules_.space()), to, ']');
  NfaState at = nfa_.add_call(bracket, rules_.space());
  if (facts.items_min == 0) nfa_.add_byte(at, to, ']');
  const std::int64_t counted =
      facts.items_max != kUnbounded ? facts.items_max : std::max({prefix, facts.items_min, std::int64_t{1}});
  for (std::int64_t i = 0; i < counted && nfa_.budget().spend(); ++i) {
    if (i > 0) at = rules_.add_comma(at);
    at = nfa_.add_call(at, TD_TRY(rule_of(schemas_at(i), part_of("item", where))));
    if (i + 1 >= facts.items_min) nfa_.add_empty(at, full);
  }
  if (facts.items_max == kUnbounded) {
    const RuleId rest = TD_TRY(rule_of(schemas_at(counted), part_of("item", where)));
    nfa_.add_call(rules_.add_comma(at), at, rest);
  }
  return ok_status();
}

Result<SchemaCompiler::ObjectShape> SchemaCompiler::shape_of(const SchemaFacts& facts, const std::string& where) {
  ObjectShape shape;
  std::map<std::string, std::size_t> place_of;  // in shape.members
  const auto member = [&](const std::string& name) -> ObjectShape::Member& {
    const auto [place, is_new] = place_of.try_emplace(name, shape.members.size());
    if (is_new) shape.members.push_back({name, {}, false});
    return shape.members[place->second];
  };
  bool others_forbidden = false;
  for (const SchemaFacts::Properties& properties : facts.properties) {
    if (properties.named != nullptr)
      for (const auto& [key, schema] : *properties.named) member(std::string(key));
    if (properties.others == nullptr) continue;
    shape.other_schemas.push_back(properties.others);
    others_forbidden |= properties.others->is_bool() && !properties.others->get_bool();
  }
  shape.others = !others_forbidden && (!shape.other_schemas.empty() || shape.members.empty());
  for (const std::string& name : facts.required) member(name).required = true;

  for (ObjectShape::Member& each : shape.members) {
    if (!nfa_.budget().spend(1 + facts.properties.size())) return nfa_.budget().status();
    bool forbidden = false;
    for (const SchemaFacts::Properties& properties : facts.properties) {
      const json::value* schema = properties.named != nullptr ? properties.named->if_contains(each.name) : nullptr;
      if (schema == nullptr) schema = properties.others;
      if (schema == nullptr) continue;
      each.schemas.push_back(schema);
      forbidden |= schema->is_bool() && !schema->get_bool();
    }
    if (forbidden && each.required)
      return invalid_argument("{}: {} is required, and nothing is allowed there", where, shown_text(each.name));
    each.forbidden = forbidden;
  }
  return shape;
}

Status SchemaCompiler::write_object(NfaState from, NfaState to, const SchemaFacts& facts, const std::string& where) {
  ObjectShape shape = TD_TRY(shape_of(facts, where));
  if (shape.members.empty() && shape.others && shape.other_schemas.empty()) {
    nfa_.add_call(from, to, rules_.object());
    return ok_status();
  }
  // Two states run along the members: `first`, where none was written yet, and `later`, where the next one needs a
  // comma. A member that may be left out is passed by on both; after one that may not, there is no `first`.
  const NfaState brace = nfa_.add_state();
  nfa_.add_byte(from, brace, '{');
  const NfaState first = nfa_.add_call(brace, rules_.space());
  NfaState later = nfa_.add_state();  // nothing leads here before a member was written
  bool may_be_first = true;
  const auto key_state = [&] {
    const NfaState key = nfa_.add_state();
    if (may_be_first) nfa_.add_empty(first, key);
    nfa_.add_empty(rules_.add_comma(later), key);
    return key;
  };
  std::vector<std::string> names;
  for (ObjectShape::Member& member : shape.members) {
    names.push_back(member.name);
    if (member.forbidden) continue;
    const NfaState key = nfa_.add_literal(key_state(), canonical_json(json::value(member.name)));
    const RuleId rule = TD_TRY(rule_of(std::move(member.schemas), "schema of " + shown_text(member.name)));
    const NfaState written = nfa_.add_call(rules_.add_colon(key), rule);
    may_be_first &= !member.required;
    if (!member.required) nfa_.add_empty(later, written);
    later = written;
  }
  if (shape.others) {
    const NfaState key = key_state(), key_read = nfa_.add_state(), written = nfa_.add_state();
    rules_.add_other_key(key, key_read, names);
    const RuleId rule = TD_TRY(rule_of(std::move(shape.other_schemas), part_of("additional property", where)));
    nfa_.add_call(rules_.add_colon(key_read), written, rule);
    nfa_.add_empty(rules_.add_comma(written), key);
    nfa_.add_empty(later, written);
    later = written;
  }
  if (may_be_first) nfa_.add_byte(first, to, '}');
  nfa_.add_byte(nfa_.add_call(later, rules_.space()), to, '}');
  return ok_status();
}

}  // namespace tandem::engine

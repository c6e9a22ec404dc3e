#include "engine/grammar/schema_facts.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/grammar/regex.h"
#include "engine/grammar/string_formats.h"
#include "model/config/shown_text.h"

namespace tandem::engine {
namespace {

using model::shown_text;

// Keywords that say nothing about what is valid, or say it to others.
constexpr std::string_view kAnnotations[] = {
    "$schema",    "$id",           "$comment",         "$defs",           "definitions",
    "title",      "description",   "default",          "examples",        "example",
    "deprecated", "readOnly",      "writeOnly",        "contentEncoding", "$anchor",
    "id",         "contentSchema", "contentMediaType", "discriminator",   "externalDocs",
    "xml"};

bool is_annotation(std::string_view name) {
  return std::ranges::count(kAnnotations, name) > 0 || name.starts_with("x-");
}

Status wrong(std::string_view name, const std::string& where, std::string_view expected) {
  return invalid_argument("{}: '{}' must be {}", where, name, expected);
}

std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0;
    decoded += escape ? static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return decoded;
}

// One step of a JSON pointer: ~1 is /, ~0 is ~.
std::string unescaped(std::string_view token) {
  std::string plain;
  for (std::size_t i = 0; i < token.size(); ++i) {
    const bool escape = token[i] == '~' && i + 1 < token.size() && (token[i + 1] == '0' || token[i + 1] == '1');
    plain += !escape ? token[i] : token[i + 1] == '0' ? '~' : '/';
    i += escape;
  }
  return plain;
}

const json::value* child_of(const json::value& value, const std::string& token) {
  if (value.is_object()) return value.get_object().if_contains(token);
  if (!value.is_array() || token.empty() || token.size() > 6) return nullptr;
  std::size_t index = 0;
  for (const char c : token) {
    if (c < '0' || c > '9') return nullptr;
    index = index * 10 + static_cast<std::size_t>(c - '0');
  }
  return value.get_array().if_contains(index);
}

}  // namespace

unsigned kind_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return kNullKind;
    case json::kind::bool_: return kBooleanKind;
    case json::kind::int64:
    case json::kind::uint64: return kIntegerKind;
    case json::kind::double_:
      return std::floor(value.get_double()) == value.get_double() ? kIntegerKind : kFractionKind;
    case json::kind::string: return kStringKind;
    case json::kind::array: return kArrayKind;
    case json::kind::object: return kObjectKind;
  }
  return 0;
}

bool SchemaFacts::restricts_nothing() const {
  return kinds == kAllKinds && kinds_hinted == 0 && !nothing && !values && alternatives.empty();
}

Status SchemaReader::check_source() const {
  const GrammarLimits& limits = budget_.limits();
  // A schema within a schema is two brackets deeper: {"properties": {"a": {...}}}.
  const std::size_t depth_max = 2 * static_cast<std::size_t>(limits.depth_max);
  struct Open {
    const json::value* value;
    std::size_t depth;
  };
  std::vector<Open> open = {{&root_, 0}};
  std::size_t bytes = 0;
  const auto count = [&](std::size_t more) {
    bytes += more;
    if (bytes <= limits.source_bytes_max) return ok_status();
    return resource_exhausted("the schema has more than {} bytes: shorten it", limits.source_bytes_max);
  };
  const auto check_text = [&](std::string_view text) {
    TD_TRY(count(text.size()));
    return check_utf8(text, "a string of the schema");
  };
  while (!open.empty()) {
    const auto [value, depth] = open.back();
    open.pop_back();
    TD_TRY(count(1));
    if (depth > depth_max)
      return resource_exhausted("the schema nests more than {} schemas: flatten it, or use $ref", limits.depth_max);
    if (value->is_string()) TD_TRY(check_text(value->get_string()));
    if (value->is_array())
      for (const json::value& item : value->get_array()) open.push_back({&item, depth + 1});
    if (!value->is_object()) continue;
    for (const auto& [key, member] : value->get_object()) {
      TD_TRY(check_text(key));
      open.push_back({&member, depth + 1});
    }
  }
  return ok_status();
}

Result<const json::value*> SchemaReader::resolve(const json::value& reference, const std::string& where) const {
  if (!reference.is_string()) return wrong("$ref", where, "a string");
  const std::string_view text = reference.get_string();
  const auto not_found = [&](std::string_view why) {
    return invalid_argument("{}: $ref {}: {}", where, shown_text(text), why);
  };
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/'))
    return not_found("only references into the schema itself are supported, as in #/$defs/name");
  const std::string pointer = percent_decoded(text.substr(1));
  const json::value* at = &root_;
  for (std::size_t begin = 0; begin < pointer.size();) {
    std::size_t end = pointer.find('/', begin + 1);
    if (end == std::string::npos) end = pointer.size();
    at = child_of(*at, unescaped(std::string_view(pointer).substr(begin + 1, end - begin - 1)));
    if (at == nullptr) return not_found("there is nothing there");
    begin = end;
  }
  return at;
}

Result<const json::value*> SchemaReader::target_of(const json::value& schema, const std::string& where) const {
  const json::value* at = &schema;
  for (std::size_t steps = 0;; ++steps) {
    const json::object* object = at->if_object();
    const json::value* reference = object != nullptr ? object->if_contains("$ref") : nullptr;
    const bool alone = reference != nullptr && std::ranges::all_of(*object, [](const auto& member) {
                         return member.key() == "$ref" || is_annotation(member.key());
                       });
    if (!alone) return at;
    if (!budget_.spend()) return budget_.status();
    if (steps > budget_.limits().rules_max)
      return invalid_argument("{}: a chain of $ref leads back to itself: it describes nothing", where);
    at = TD_TRY(resolve(*reference, where));
  }
}

Status SchemaReader::add(const json::value& schema, const std::string& where, SchemaFacts& facts) {
  if (!budget_.spend()) return budget_.status();
  if (const bool* all = schema.if_bool()) {
    facts.nothing |= !*all;
    return ok_status();
  }
  const json::object* object = schema.if_object();
  if (object == nullptr) return invalid_argument("{}: a schema is an object, true or false", where);
  if (std::ranges::count(path_, &schema) > 0)
    return invalid_argument("{}: a $ref leads back to itself through $ref and allOf alone: it describes nothing",
                            where);
  if (path_.size() > static_cast<std::size_t>(budget_.limits().depth_max))
    return resource_exhausted("{}: $ref and allOf nest more than {} deep: flatten them", where,
                              budget_.limits().depth_max);
  path_.push_back(&schema);
  Status status;
  for (const auto& [key, value] : *object) {
    status = add_keyword(key, value, *object, where, facts);
    if (!status.ok()) break;
  }
  path_.pop_back();
  return status;
}

Status SchemaReader::add_keyword(std::string_view name, const json::value& value, const json::object& schema,
                                 const std::string& where, SchemaFacts& facts) {
  const auto hint = [&](unsigned kinds) { facts.kinds_hinted |= kinds; };
  if (is_annotation(name)) return ok_status();
  if (name == "$ref") return add(*TD_TRY(resolve(value, where)), where, facts);
  if (name == "type") return add_type(value, where, facts);
  if (name == "const") return add_values({&value}, facts);
  if (name == "enum") {
    const json::array* values = value.if_array();
    if (values == nullptr || values->empty()) return wrong(name, where, "an array with at least one value");
    if (values->size() > budget_.limits().enum_max)
      return resource_exhausted("{}: 'enum' has {} values, more than {}: use a pattern", where, values->size(),
                                budget_.limits().enum_max);
    std::vector<const json::value*> pointers;
    for (const json::value& each : *values) pointers.push_back(&each);
    return add_values(std::move(pointers), facts);
  }
  if (name == "allOf" || name == "anyOf" || name == "oneOf") {
    const json::array* members = value.if_array();
    if (members == nullptr || members->empty()) return wrong(name, where, "an array with at least one schema");
    if (name != "allOf") {
      facts.alternatives.push_back(members);
      return ok_status();
    }
    for (const json::value& member : *members) TD_TRY(add(member, where, facts));
    return ok_status();
  }
  if (name == "nullable") return value.is_bool() ? ok_status() : wrong(name, where, "true or false");  // see type

  if (name == "minLength" || name == "maxLength") {
    hint(kStringKind);
    const std::int64_t count = TD_TRY(count_of(name, value, where));
    StringRange& range = facts.string;
    (name == "minLength" ? range.length_min : range.length_max) =
        name == "minLength" ? std::max(range.length_min, count) : std::min(range.length_max, count);
    if (range.length_min > range.length_max)
      facts.contradiction = fmt::format("minLength {} is above maxLength {}", range.length_min, range.length_max);
    return ok_status();
  }
  if (name == "pattern") {
    hint(kStringKind);
    if (!value.is_string()) return wrong(name, where, "a string");
    Result<Expression> pattern = parse_regex(value.get_string(), budget_.limits());
    if (pattern.ok()) pattern = resolve_anchors(std::move(*pattern), /*searched=*/true);
    if (!pattern.ok()) return pattern.status().with_context(where);
    facts.string.patterns.push_back(std::move(*pattern));
    return ok_status();
  }
  if (name == "format") {
    if (!value.is_string()) return wrong(name, where, "a string");
    return add_format(value, schema, facts);
  }

  if (name == "minimum" || name == "maximum" || name == "exclusiveMinimum" || name == "exclusiveMaximum") {
    hint(kNumberKinds);
    return add_bound(name, value, schema, where, facts);
  }
  if (name == "multipleOf") {
    hint(kNumberKinds);
    return add_multiple(value, where, facts);
  }

  if (name == "items" || name == "prefixItems" || name == "additionalItems") {
    hint(kArrayKind);
    // The first of them that is met speaks for all.
    const auto first = std::ranges::find_if(schema, [](const auto& member) {
      return member.key() == "items" || member.key() == "prefixItems" || member.key() == "additionalItems";
    });
    return first->key() == name ? add_items(schema, where, facts) : ok_status();
  }
  if (name == "minItems" || name == "maxItems") {
    hint(kArrayKind);
    const std::int64_t count = TD_TRY(count_of(name, value, where));
    if (name == "minItems") facts.items_min = std::max(facts.items_min, count);
    if (name == "maxItems") facts.items_max = std::min(facts.items_max, count);
    if (facts.items_min > facts.items_max)
      facts.contradiction = fmt::format("minItems {} is above maxItems {}", facts.items_min, facts.items_max);
    return ok_status();
  }
  if (name == "uniqueItems" && value.is_bool() && !value.get_bool()) return ok_status();

  if (name == "properties" || name == "additionalProperties") {
    hint(kObjectKind);
    const bool both = name == "additionalProperties" && schema.contains("properties");
    return both ? ok_status() : add_properties(schema, where, facts);
  }
  if (name == "required") {
    hint(kObjectKind);
    const json::array* names = value.if_array();
    if (names == nullptr) return wrong(name, where, "an array of names");
    for (const json::value& each : *names) {
      if (!each.is_string()) return wrong(name, where, "an array of names");
      facts.required.emplace_back(each.get_string());
    }
    return ok_status();
  }
  return invalid_argument("{}: the keyword {} is not supported: leave it out, or check it after the answer", where,
                          shown_text(name));
}

Status SchemaReader::add_type(const json::value& value, const std::string& where, SchemaFacts& facts) const {
  constexpr std::pair<std::string_view, unsigned> kTypes[] = {
      {"null", kNullKind},     {"boolean", kBooleanKind}, {"integer", kIntegerKind}, {"number", kNumberKinds},
      {"string", kStringKind}, {"array", kArrayKind},     {"object", kObjectKind}};
  unsigned kinds = 0;
  const auto add_one = [&](const json::value& name) {
    if (!name.is_string()) return wrong("type", where, "a name or an array of names");
    for (const auto& [known, kind] : kTypes) {
      if (name.get_string() != known) continue;
      kinds |= kind;
      return ok_status();
    }
    return invalid_argument("{}: there is no type {}", where, shown_text(name.get_string()));
  };
  if (const json::array* names = value.if_array()) {
    if (names->empty()) return wrong("type", where, "a name or an array with at least one name");
    for (const json::value& name : *names) TD_TRY(add_one(name));
  } else {
    TD_TRY(add_one(value));
  }
  // OpenAPI's way to say that null will do.
  const json::value* nullable = path_.back()->get_object().if_contains("nullable");
  if (nullable != nullptr && nullable->is_bool() && nullable->get_bool()) kinds |= kNullKind;
  if ((facts.kinds & kinds) == 0 && facts.kinds != 0) facts.contradiction = "no type satisfies all of the schemas";
  facts.kinds &= kinds;
  facts.typed = true;
  return ok_status();
}

Status SchemaReader::add_values(std::vector<const json::value*> values, SchemaFacts& facts) const {
  if (facts.values) {
    if (!budget_.spend(facts.values->size() * values.size())) return budget_.status();
    std::erase_if(values, [&](const json::value* value) {
      return std::ranges::none_of(*facts.values, [&](const json::value* other) { return *other == *value; });
    });
    if (values.empty()) facts.contradiction = "enum and const have no value in common";
  }
  facts.values = std::move(values);
  return ok_status();
}

Status SchemaReader::add_bound(std::string_view name, const json::value& value, const json::object& schema,
                               const std::string& where, SchemaFacts& facts) const {
  const bool low = name.ends_with("inimum");
  bool exclusive = name.starts_with("exclusive");
  if (exclusive && value.is_bool()) return ok_status();  // as drafts up to 4 have it: see the bound itself
  const json::value* flag = exclusive ? nullptr : schema.if_contains(low ? "exclusiveMinimum" : "exclusiveMaximum");
  if (flag != nullptr && flag->is_bool() && flag->get_bool()) exclusive = true;
  Result<Decimal> number = Decimal::from_json(value);
  if (!number.ok()) return wrong(name, where, "a finite number");
  NumberBound bound = {std::move(*number), exclusive};
  NumberRange& range = facts.number;
  low ? range.add_low(std::move(bound)) : range.add_high(std::move(bound));
  if (!range.low || !range.high) return ok_status();
  const int order = compare(range.low->value, range.high->value);
  if (order > 0 || (order == 0 && (range.low->exclusive || range.high->exclusive)))
    facts.contradiction = fmt::format("no number is both {} {} and {} {}", range.low->exclusive ? "above" : "at least",
                                      range.low->value.to_string(), range.high->exclusive ? "below" : "at most",
                                      range.high->value.to_string());
  return ok_status();
}

// 1, 0.1, 0.01 and so on limit the digits behind the point; the digits of other multiples follow no such rule.
Status SchemaReader::add_multiple(const json::value& value, const std::string& where, SchemaFacts& facts) const {
  constexpr int kDigitsMax = 9;
  const Result<Decimal> number = Decimal::from_json(value);
  if (!number.ok() || number->negative || number->is_zero()) return wrong("multipleOf", where, "a positive number");
  const bool is_one = number->whole == "1" && number->fraction.empty();
  const auto digits = static_cast<int>(number->fraction.size());
  const bool is_power = number->whole == "0" && digits <= kDigitsMax &&
                        number->fraction.find_first_not_of('0') == number->fraction.size() - 1 &&
                        number->fraction.back() == '1';
  if (!is_one && !is_power)
    return invalid_argument("{}: 'multipleOf' {} is not supported: 1, 0.1, 0.01 and so on are", where,
                            number->to_string());
  facts.number.fraction_digits_max = std::min(facts.number.fraction_digits_max.value_or(digits), digits);
  return ok_status();
}

Status SchemaReader::add_format(const json::value& value, const json::object& schema, SchemaFacts& facts) const {
  const std::optional<std::string_view> pattern = pattern_of_format(value.get_string());
  // A pattern beside it says the same more precisely.
  if (!pattern || schema.contains("pattern")) return ok_status();
  facts.kinds_hinted |= kStringKind;
  facts.string.patterns.push_back(TD_TRY(parse_regex(*pattern, budget_.limits())));
  return ok_status();
}

Status SchemaReader::add_items(const json::object& schema, const std::string& where, SchemaFacts& facts) const {
  SchemaFacts::Items items;
  const json::value* prefix = schema.if_contains("prefixItems");
  items.rest = schema.if_contains("items");
  if (items.rest != nullptr && items.rest->is_array()) {  // as drafts before 2020-12 have it
    prefix = items.rest;
    items.rest = schema.if_contains("additionalItems");
  }
  if (prefix != nullptr) {
    items.prefix = prefix->if_array();
    if (items.prefix == nullptr) return wrong("prefixItems", where, "an array of schemas");
    if (static_cast<std::int64_t>(items.prefix->size()) > budget_.limits().repeat_max)
      return resource_exhausted("{}: 'prefixItems' has {} schemas, more than {}", where, items.prefix->size(),
                                budget_.limits().repeat_max);
  }
  facts.items.push_back(items);
  return ok_status();
}

Status SchemaReader::add_properties(const json::object& schema, const std::string& where, SchemaFacts& facts) const {
  SchemaFacts::Properties properties;
  if (const json::value* named = schema.if_contains("properties")) {
    properties.named = named->if_object();
    if (properties.named == nullptr) return wrong("properties", where, "an object of schemas");
  }
  properties.others = schema.if_contains("additionalProperties");
  facts.properties.push_back(properties);
  return ok_status();
}

Result<std::int64_t> SchemaReader::count_of(std::string_view name, const json::value& value,
                                            const std::string& where) const {
  std::int64_t count = -1;
  const double* number = value.if_double();
  if (value.is_int64()) count = value.get_int64();
  if (value.is_uint64()) count = static_cast<std::int64_t>(std::min<std::uint64_t>(value.get_uint64(), kUnbounded));
  if (number != nullptr && *number >= 0 && *number == std::floor(*number))
    count = *number < 9e18 ? static_cast<std::int64_t>(*number) : kUnbounded;
  if (count < 0) return wrong(name, where, "a whole number, 0 or more");
  if (count > budget_.limits().repeat_max)
    return resource_exhausted("{}: '{}' is above {}: lower it, or leave it out", where, name,
                              budget_.limits().repeat_max);
  return count;
}

}  // namespace tandem::engine

// What schemas say, taken together: every keyword of a list of schemas that must all hold, in one place.
//
// References are followed, allOf is taken apart; alternatives (anyOf, oneOf) are left for the caller to choose from.
// Annotations are skipped, as are extensions named x-...; any other keyword is refused by name, for ignoring it could
// change what is valid.
// Threads: any.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "engine/grammar/compile_budget.h"
#include "engine/grammar/number_range.h"
#include "engine/grammar/string_rule.h"

namespace tandem::engine {

// Kinds of JSON values, a bit each.
enum JsonKind : unsigned {
  kNullKind = 1,
  kBooleanKind = 2,
  kIntegerKind = 4,
  kFractionKind = 8,  // numbers that are not whole
  kStringKind = 16,
  kArrayKind = 32,
  kObjectKind = 64,
  kNumberKinds = kIntegerKind | kFractionKind,
  kAllKinds = 127,
};
unsigned kind_of(const json::value& value);

struct SchemaFacts {
  unsigned kinds = kAllKinds;
  unsigned kinds_hinted = 0;  // those that keywords other than type speak of
  bool typed = false;         // some schema has a type
  bool nothing = false;       // some schema is `false`
  std::string contradiction;  // bounds that exclude each other, in words; empty: none

  std::optional<std::vector<const json::value*>> values;  // enum, const

  StringRange string;
  NumberRange number;

  struct Items {
    const json::array* prefix = nullptr;
    const json::value* rest = nullptr;  // null: anything
  };
  std::vector<Items> items;
  std::int64_t items_min = 0, items_max = kUnbounded;

  struct Properties {
    const json::object* named = nullptr;
    const json::value* others = nullptr;  // additionalProperties; null: not said
  };
  std::vector<Properties> properties;
  std::vector<std::string> required;

  std::vector<const json::array*> alternatives;  // of each, one must hold too

  bool restricts_nothing() const;
};

class SchemaReader {
 public:
  // Both are borrowed.   root  what references begin at
  SchemaReader(const json::value& root, CompileBudget& budget) : root_(root), budget_(budget) {}

  // Checks what all that follows relies on: depth, size, UTF-8. Errors: kInvalidArgument, kResourceExhausted.
  [[nodiscard]] Status check_source() const;

  // Adds what `schema` says.   where  names it in errors, e.g. "schema of 'name'"
  // Errors: kInvalidArgument naming the keyword; kResourceExhausted (a limit).
  [[nodiscard]] Status add(const json::value& schema, const std::string& where, SchemaFacts& facts);

  // The schema itself, or what it refers to if a reference is all that it is.
  [[nodiscard]] Result<const json::value*> target_of(const json::value& schema, const std::string& where) const;

 private:
  Status add_keyword(std::string_view name, const json::value& value, const json::object& schema,
                     const std::string& where, SchemaFacts& facts);
  Status add_type(const json::value& value, const std::string& where, SchemaFacts& facts) const;
  Status add_values(std::vector<const json::value*> values, SchemaFacts& facts) const;
  Status add_bound(std::string_view name, const json::value& value, const json::object& schema,
                   const std::string& where, SchemaFacts& facts) const;
  Status add_multiple(const json::value& value, const std::string& where, SchemaFacts& facts) const;
  Status add_format(const json::value& value, const json::object& schema, SchemaFacts& facts) const;
  Status add_items(const json::object& schema, const std::string& where, SchemaFacts& facts) const;
  Status add_properties(const json::object& schema, const std::string& where, SchemaFacts& facts) const;
  Result<std::int64_t> count_of(std::string_view name, const json::value& value, const std::string& where) const;
  Result<const json::value*> resolve(const json::value& reference, const std::string& where) const;

  const json::value& root_;
  CompileBudget& budget_;
  std::vector<const json::value*> path_;  // schemas being added, each within the one before
};

}  // namespace tandem::engine

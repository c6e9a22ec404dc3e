#include "model/template/builtins.h"

#include <algorithm>

#include "model/template/error.h"
#include "model/template/operations.h"

namespace tandem::model::jinja {
namespace {

Builtin find_in(std::span<const BuiltinEntry> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const auto& entry) { return entry.name == name; });
  return found == table.end() ? nullptr : found->call;
}

}  // namespace

Builtin find_filter(std::string_view name) {
  for (const auto table : {text_filters(), sequence_filters(), number_filters()})
    if (const Builtin found = find_in(table, name)) return found;
  return nullptr;
}

Builtin find_method(Kind kind, std::string_view name) {
  return find_in(kind == Kind::kString ? string_methods() : container_methods(kind), name);
}

Bound::Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> parameters,
             std::size_t required)
    : function_(function) {
  const std::size_t given = arguments.positional.size();
  if (given > parameters.size())
    fail("{}() takes at most {} arguments, {} are given", function, parameters.size(), given);
  std::copy(arguments.positional.begin(), arguments.positional.end(), values_.begin());
  for (const Keyword& keyword : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), keyword.name);
    if (found == parameters.end()) fail("{}() has no parameter '{}'", function, keyword.name);
    Value& value = values_[static_cast<std::size_t>(found - parameters.begin())];
    if (!value.is_missing()) fail("{}() gets the argument '{}' twice", function, keyword.name);
    value = keyword.value;
  }
  for (std::size_t i = 0; i < required; ++i)
    if (values_[i].is_missing()) fail("{}() needs the argument '{}'", function, parameters.begin()[i]);
}

std::string_view Bound::text(std::size_t index, std::string_view otherwise) const {
  const Value value = values_[index];
  if (value.is_missing()) return otherwise;
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_string()) fail("{}() needs a string, not '{}'", function_, type_name(value));
  return value.as_string();
}

std::int64_t Bound::integer(std::size_t index, std::int64_t otherwise) const {
  return has(index) ? to_index(values_[index], "an argument") : otherwise;
}

bool Bound::truth(std::size_t index, bool otherwise) const {
  return has(index) ? jinja::truth(values_[index]) : otherwise;
}

}  // namespace tandem::model::jinja

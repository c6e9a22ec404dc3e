// The tables of what templates can call. Each returns null for a name that is not there.
//
// A filter or test gets the value it is applied to as `self`; a method, its object; a global, nothing.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <string_view>

#include "model/template/runtime.h"
#include "model/template/value.h"

namespace tandem::model::jinja {

struct BuiltinEntry {
  std::string_view name;
  Builtin call;
};

Builtin find_filter(std::string_view name);
Builtin find_test(std::string_view name);
Builtin find_global(std::string_view name);
// Methods of strings, lists, tuples, dicts and cyclers.
Builtin find_method(Kind kind, std::string_view name);

// Methods that exist in Python but change their object: naming one gives an undefined value, so only calling it fails.
bool is_refused_method(Kind kind, std::string_view name);

std::span<const BuiltinEntry> text_filters();
std::span<const BuiltinEntry> sequence_filters();
std::span<const BuiltinEntry> number_filters();
std::span<const BuiltinEntry> string_methods();
std::span<const BuiltinEntry> container_methods(Kind kind);

// The arguments of a call by parameter, as Python binds them: missing() where not given.
class Bound {
 public:
  static constexpr std::size_t kParametersMax = 6;
  // Throws TemplateError for too many, too few, or unknown arguments.
  Bound(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> parameters,
        std::size_t required = 0);

  Value operator[](std::size_t index) const { return values_[index]; }
  bool has(std::size_t index) const { return !values_[index].is_missing(); }
  // Conversions of what is given, or the default. Throw TemplateError for another type.
  std::string_view text(std::size_t index, std::string_view otherwise = {}) const;
  std::int64_t integer(std::size_t index, std::int64_t otherwise) const;
  bool truth(std::size_t index, bool otherwise) const;

 private:
  std::string_view function_;
  std::array<Value, kParametersMax> values_;
};

}  // namespace tandem::model::jinja

// Typed members of a JSON object, with errors that name the file and the field.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

// A JSON object and how to call it in messages: "tokenizer.json: model".
struct TokenizerFields {
  const json::object& object;
  std::string where;

  // Each returns the member; `otherwise` (or nullopt, or null) if it is absent or null.
  // Errors: kInvalidArgument (another type; absent, for the required_ ones).
  Result<bool> boolean(std::string_view name, bool otherwise) const;
  Result<std::optional<std::string>> string(std::string_view name) const;
  Result<std::string> required_string(std::string_view name) const;
  Result<std::int64_t> required_integer(std::string_view name) const;
  Result<const json::object*> object_or_null(std::string_view name) const;
  Result<const json::array*> array_or_null(std::string_view name) const;
  Result<const json::array*> required_array(std::string_view name) const;
  // The one character that the string member holds.
  Result<char32_t> required_character(std::string_view name) const;
};

// The object in `value`, called `where`. Errors: kInvalidArgument (not an object).
Result<TokenizerFields> json_fields(const json::value& value, std::string where);

inline std::string_view json_text(const json::string& text) { return {text.data(), text.size()}; }

}  // namespace tandem::model

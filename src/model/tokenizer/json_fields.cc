#include "model/tokenizer/json_fields.h"

#include "model/tokenizer/unicode.h"

namespace tandem::model {
namespace {

const json::value* present(const json::object& object, std::string_view name) {
  const json::value* value = find_member(object, name);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

}  // namespace

Result<bool> TokenizerFields::boolean(std::string_view name, bool otherwise) const {
  const json::value* value = present(object, name);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) return invalid_argument("{}.{} must be true or false", where, name);
  return value->get_bool();
}

Result<std::optional<std::string>> TokenizerFields::string(std::string_view name) const {
  const json::value* value = present(object, name);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return invalid_argument("{}.{} must be a string", where, name);
  return std::optional<std::string>(std::string(json_text(value->get_string())));
}

Result<std::string> TokenizerFields::required_string(std::string_view name) const {
  std::optional<std::string> text = TD_TRY(string(name));
  if (!text) return invalid_argument("{}.{} is missing", where, name);
  return std::move(*text);
}

Result<std::int64_t> TokenizerFields::required_integer(std::string_view name) const {
  const json::value* value = present(object, name);
  if (value == nullptr) return invalid_argument("{}.{} is missing", where, name);
  if (!value->is_int64()) return invalid_argument("{}.{} must be an integer in range", where, name);
  return value->get_int64();
}

Result<const json::object*> TokenizerFields::object_or_null(std::string_view name) const {
  const json::value* value = present(object, name);
  if (value == nullptr) return static_cast<const json::object*>(nullptr);
  if (!value->is_object()) return invalid_argument("{}.{} must be an object", where, name);
  return &value->get_object();
}

Result<const json::array*> TokenizerFields::array_or_null(std::string_view name) const {
  const json::value* value = present(object, name);
  if (value == nullptr) return static_cast<const json::array*>(nullptr);
  if (!value->is_array()) return invalid_argument("{}.{} must be an array", where, name);
  return &value->get_array();
}

Result<const json::array*> TokenizerFields::required_array(std::string_view name) const {
  const json::array* array = TD_TRY(array_or_null(name));
  if (array == nullptr) return invalid_argument("{}.{} is missing", where, name);
  return array;
}

Result<char32_t> TokenizerFields::required_character(std::string_view name) const {
  const std::string text = TD_TRY(required_string(name));
  const int bytes = utf8_char_bytes(text);
  if (bytes == 0 || static_cast<std::size_t>(bytes) != text.size()) {
    return invalid_argument("{}.{} must be a single character", where, name);
  }
  int length = 0;
  return utf8_decode(text.data(), length);
}

Result<TokenizerFields> json_fields(const json::value& value, std::string where) {
  if (!value.is_object()) return invalid_argument("{} must be an object", where);
  return TokenizerFields{value.get_object(), std::move(where)};
}

}  // namespace tandem::model

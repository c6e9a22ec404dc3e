#include "model/config/config_fields.h"

#include <cmath>

namespace tandem::model {
namespace {

// Integers are also accepted in the clothes of a float (4096.0), which some exporters write.
std::optional<std::int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double()) {
    const double number = value.get_double();
    if (std::abs(number) < 0x1p53 && number == std::floor(number)) return static_cast<std::int64_t>(number);
  }
  return std::nullopt;
}

std::optional<double> as_number(const json::value& value) {
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  if (value.is_double()) return value.get_double();
  return std::nullopt;
}

bool within(std::optional<std::int64_t> value, IntegerRange range) {
  return value && *value >= range.min && *value <= range.max;
}
bool within(std::optional<double> value, NumberRange range) {
  return value && std::isfinite(*value) && *value >= range.min && *value <= range.max;
}

std::string shown(const json::value& value) {
  std::string text = to_json_text(value);
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  return text;
}

std::string expected(const json::value& value, IntegerRange range) {
  return fmt::format("is {}, not an integer from {} to {}", shown(value), range.min, range.max);
}
std::string expected(const json::value& value, NumberRange range) {
  return fmt::format("is {}, not a number from {} to {}", shown(value), range.min, range.max);
}

}  // namespace

Status ConfigFields::refuse(std::string_view name, std::string_view reason) const {
  return invalid_argument("{}: {}{} {}: compare with the file its authors published", source_, path_, name, reason);
}

bool ConfigFields::has(std::string_view name) const {
  const json::value* value = find_member(object_, name);
  return value != nullptr && !value->is_null();
}

Result<std::optional<std::int64_t>> ConfigFields::optional_integer(std::string_view name, IntegerRange range,
                                                                   std::optional<std::int64_t> missing) const {
  const json::value* value = find_member(object_, name);
  if (value == nullptr) return missing;
  if (value->is_null()) return std::optional<std::int64_t>();
  const std::optional<std::int64_t> integer = as_integer(*value);
  if (!within(integer, range)) return refuse(name, expected(*value, range));
  return integer;
}

Result<std::int64_t> ConfigFields::integer(std::string_view name, IntegerRange range, std::int64_t missing) const {
  return TD_TRY(optional_integer(name, range, missing)).value_or(missing);
}

Result<std::optional<double>> ConfigFields::optional_number(std::string_view name, NumberRange range,
                                                            std::optional<double> missing) const {
  const json::value* value = find_member(object_, name);
  if (value == nullptr) return missing;
  if (value->is_null()) return std::optional<double>();
  const std::optional<double> number = as_number(*value);
  if (!within(number, range)) return refuse(name, expected(*value, range));
  return number;
}

Result<double> ConfigFields::number(std::string_view name, NumberRange range, double missing) const {
  return TD_TRY(optional_number(name, range, missing)).value_or(missing);
}

Result<bool> ConfigFields::boolean(std::string_view name, bool missing) const {
  if (!has(name)) return missing;
  const json::value& value = *find_member(object_, name);
  if (!value.is_bool()) return refuse(name, fmt::format("is {}, not true or false", shown(value)));
  return value.get_bool();
}

Result<std::string> ConfigFields::text(std::string_view name, std::string_view missing) const {
  if (!has(name)) return std::string(missing);
  const json::value& value = *find_member(object_, name);
  if (!value.is_string()) return refuse(name, fmt::format("is {}, not a string", shown(value)));
  return std::string(value.get_string());
}

Result<std::vector<double>> ConfigFields::numbers(std::string_view name, NumberRange range) const {
  std::vector<double> values;
  if (!has(name)) return values;
  const json::value& list = *find_member(object_, name);
  if (!list.is_array()) return refuse(name, fmt::format("is {}, not a list", shown(list)));
  for (const json::value& item : list.get_array()) {
    const std::optional<double> number = as_number(item);
    if (!within(number, range)) return refuse(name, "has an item that " + expected(item, range));
    values.push_back(*number);
  }
  return values;
}

Result<std::vector<std::int64_t>> ConfigFields::integers(std::string_view name, IntegerRange range) const {
  std::vector<std::int64_t> values;
  if (!has(name)) return values;
  const json::value& member = *find_member(object_, name);
  if (!member.is_array()) return std::vector{TD_TRY(integer(name, range, 0))};
  for (const json::value& item : member.get_array()) {
    const std::optional<std::int64_t> integer = as_integer(item);
    if (!within(integer, range)) return refuse(name, "has an item that " + expected(item, range));
    values.push_back(*integer);
  }
  return values;
}

Result<std::vector<std::string>> ConfigFields::texts(std::string_view name) const {
  std::vector<std::string> values;
  if (!has(name)) return values;
  const json::value& list = *find_member(object_, name);
  if (!list.is_array()) return refuse(name, fmt::format("is {}, not a list", shown(list)));
  for (const json::value& item : list.get_array()) {
    if (!item.is_string()) return refuse(name, fmt::format("has {} where a string belongs", shown(item)));
    values.emplace_back(item.get_string());
  }
  return values;
}

Result<const json::object*> ConfigFields::object(std::string_view name) const {
  if (!has(name)) return static_cast<const json::object*>(nullptr);
  const json::value& value = *find_member(object_, name);
  if (!value.is_object()) return refuse(name, fmt::format("is {}, not an object", shown(value)));
  return &value.get_object();
}

ConfigFields ConfigFields::inside(std::string_view name, const json::object& member) const {
  return ConfigFields(member, source_, path_ + std::string(name) + ".");
}

}  // namespace tandem::model

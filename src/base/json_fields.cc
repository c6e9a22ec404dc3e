#include "base/json_fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <utility>

namespace tandem {
namespace {

constexpr std::size_t kDescribeBytesMax = 48;

std::string range_text(const NumberRange& range) {
  if (range.low == NumberRange().low && range.high == NumberRange().high) return "a number";
  return range.above_low ? fmt::format("a number above {} and at most {}", range.low, range.high)
                         : fmt::format("a number from {} to {}", range.low, range.high);
}

std::string range_text(const IntegerRange& range) {
  if (range.low == IntegerRange().low && range.high == IntegerRange().high) return "an integer";
  if (range.high == IntegerRange().high) return fmt::format("an integer from {}", range.low);
  return fmt::format("an integer from {} to {}", range.low, range.high);
}

// Written so that NaN is outside.
bool contains(const NumberRange& range, double value) {
  return (range.above_low ? value > range.low : value >= range.low) && value <= range.high;
}

bool contains(const IntegerRange& range, std::int64_t value) { return value >= range.low && value <= range.high; }

IntegerRange within_int32(IntegerRange range) {
  range.low = std::max<std::int64_t>(range.low, std::numeric_limits<std::int32_t>::min());
  range.high = std::min<std::int64_t>(range.high, std::numeric_limits<std::int32_t>::max());
  return range;
}

// A decimal integer with nothing round it.
std::optional<std::int64_t> decimal_integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

void FieldError::set(std::string where, std::string what_code, std::string text) {
  if (!ok()) return;
  path = std::move(where);
  code = std::move(what_code);
  message = std::move(text);
}

JsonFields::JsonFields(const json::object& object, FieldError& error, std::string path)
    : object_(&object), error_(&error), path_(std::move(path)), read_(object.size()) {}

const json::value* JsonFields::find(std::string_view name) {
  const auto found = object_->find(json::string_view(name.data(), name.size()));
  if (found == object_->end()) return nullptr;
  read_[static_cast<std::size_t>(found - object_->begin())] = true;
  return ok() && !found->value().is_null() ? &found->value() : nullptr;
}

bool JsonFields::read_bool(std::string_view name, bool& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_bool()) return fail(name, "true or false"), false;
  target = value->get_bool();
  return true;
}

bool JsonFields::read_number(std::string_view name, const NumberRange& range, float& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  const double number = value->is_number() ? value->to_number<double>() : std::nan("");
  // As a float it may round to the end that is left out.
  if (!contains(range, number) || !contains(range, static_cast<float>(number)))
    return fail(name, range_text(range)), false;
  target = static_cast<float>(number);
  return true;
}

std::optional<std::int64_t> JsonFields::integer(std::string_view name, const IntegerRange& range) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<std::int64_t> number = json_integer(*value);
  if (number && contains(range, *number)) return number;
  fail(name, range_text(range));
  return std::nullopt;
}

bool JsonFields::read_bits(std::string_view name, std::uint64_t& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  if (const std::uint64_t* bits = value->if_uint64()) {
    target = *bits;
  } else if (const std::optional<std::int64_t> number = json_integer(*value)) {
    target = static_cast<std::uint64_t>(*number);
  } else {
    return fail(name, "an integer of 64 bits"), false;
  }
  return true;
}

bool JsonFields::read_string(std::string_view name, std::size_t bytes_max, std::string& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  const json::string* text = value->if_string();
  if (text == nullptr || text->size() > bytes_max)
    return fail(name, fmt::format("a string of at most {} bytes", bytes_max)), false;
  target.assign(text->data(), text->size());
  return true;
}

bool JsonFields::read_strings(std::string_view name, const StringBounds& bounds, std::vector<std::string>& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  const auto fits = [&](const json::value& entry) {
    const json::string* text = entry.if_string();
    return text != nullptr && text->size() <= bounds.bytes_max && (bounds.empty_allowed || !text->empty());
  };
  std::vector<std::string> strings;
  bool good = true;
  if (const json::array* many = value->if_array()) {
    good = many->size() <= bounds.count_max;
    for (std::size_t i = 0; good && i < many->size(); ++i) {
      good = fits((*many)[i]);
      if (good) strings.emplace_back((*many)[i].get_string());
    }
  } else if ((good = fits(*value))) {
    strings.emplace_back(value->get_string());
  }
  if (!good) {
    fail(name, fmt::format("a string or an array of at most {}, each of {} to {} bytes", bounds.count_max,
                           bounds.empty_allowed ? 0 : 1, bounds.bytes_max));
    return false;
  }
  target = std::move(strings);
  return true;
}

bool JsonFields::read_integers(std::string_view name, IntegerRange range, std::size_t count_max,
                               std::vector<std::int32_t>& target) {
  const json::value* value = find(name);
  if (value == nullptr) return false;
  range = within_int32(range);
  const json::array* many = value->if_array();
  if (many == nullptr || many->size() > count_max)
    return fail(name, fmt::format("an array of at most {} integers", count_max)), false;
  std::vector<std::int32_t> integers;
  integers.reserve(many->size());
  for (std::size_t i = 0; i < many->size(); ++i) {
    const std::optional<std::int64_t> number = json_integer((*many)[i]);
    if (!number || !contains(range, *number)) {
      const std::string path = fmt::format("{}[{}]", path_of(name), i);
      error_->set(path, "invalid_value",
                  fmt::format("{} is {}: give {}", path, describe_json((*many)[i]), range_text(range)));
      return false;
    }
    integers.push_back(static_cast<std::int32_t>(*number));
  }
  target = std::move(integers);
  return true;
}

bool JsonFields::read_number_map(std::string_view name, IntegerRange keys, const NumberRange& range,
                                 std::size_t count_max, std::vector<std::pair<std::int32_t, float>>& target) {
  std::optional<JsonFields> entries = object(name);
  if (!entries) return false;
  if (entries->source().size() > count_max)
    return fail(name, fmt::format("an object of at most {} entries", count_max)), false;
  keys = within_int32(keys);
  std::vector<std::pair<std::int32_t, float>> pairs;
  for (const auto& entry : entries->source()) {
    const std::string_view key(entry.key().data(), entry.key().size());
    const std::optional<std::int64_t> number = decimal_integer(key);
    float value = 0;
    if (!number || !contains(keys, *number)) {
      fail_with(name, "invalid_value",
                fmt::format("{} has the key {}: give {}", path_of(name), describe_json(json::string(entry.key())),
                            range_text(keys)));
    } else if (entries->require(key, range_text(range)) && entries->read_number(key, range, value)) {
      pairs.emplace_back(static_cast<std::int32_t>(*number), value);
    }
  }
  if (!ok()) return false;
  target = std::move(pairs);
  return true;
}

std::optional<std::size_t> JsonFields::read_choice(std::string_view name,
                                                   std::initializer_list<std::string_view> choices) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (const json::string* text = value->if_string()) {
    const std::string_view given(text->data(), text->size());
    const auto found = std::find(choices.begin(), choices.end(), given);
    if (found != choices.end()) return static_cast<std::size_t>(found - choices.begin());
  }
  fail(name, fmt::format("\"{}\"", fmt::join(choices, "\" or \"")));
  return std::nullopt;
}

const json::array* JsonFields::array(std::string_view name, std::string_view accepted) {
  const json::value* value = find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) return fail(name, accepted), nullptr;
  return &value->get_array();
}

std::optional<JsonFields> JsonFields::object(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) return fail(name, "an object"), std::nullopt;
  return JsonFields(value->get_object(), *error_, path_of(name));
}

std::optional<JsonFields> JsonFields::element(std::string_view name, std::size_t index, const json::value& value) {
  if (!ok()) return std::nullopt;
  std::string path = fmt::format("{}[{}]", path_of(name), index);
  if (!value.is_object()) {
    error_->set(path, "invalid_value", fmt::format("{} is {}: give an object", path, describe_json(value)));
    return std::nullopt;
  }
  return JsonFields(value.get_object(), *error_, std::move(path));
}

bool JsonFields::require(std::string_view name, std::string_view accepted) {
  if (has(name)) return true;
  fail_with(name, "missing_required_parameter", fmt::format("{} is missing: give {}", path_of(name), accepted));
  return false;
}

void JsonFields::fail(std::string_view name, std::string_view accepted) {
  if (!ok()) return;
  const json::value* value = find_member(*object_, name);
  fail_with(
      name, "invalid_value",
      fmt::format("{} is {}: give {}", path_of(name), value != nullptr ? describe_json(*value) : "missing", accepted));
}

void JsonFields::fail_with(std::string_view name, std::string_view code, std::string message) {
  error_->set(path_of(name), std::string(code), std::move(message));
}

std::string JsonFields::path_of(std::string_view name) const {
  if (path_.empty()) return std::string(name);
  if (name.empty()) return path_;
  return fmt::format("{}.{}", path_, name);
}

std::optional<std::string> JsonFields::first_unread() const {
  for (std::size_t i = 0; i < read_.size(); ++i)
    if (!read_[i]) return std::string((object_->begin() + static_cast<std::ptrdiff_t>(i))->key());
  return std::nullopt;
}

std::string describe_json(const json::value& value) {
  if (value.is_array()) return value.get_array().empty() ? "an empty array" : "an array";
  if (value.is_object()) return "an object";
  if (const double* number = value.if_double(); number && !std::isfinite(*number)) return "beyond all numbers";
  if (const json::string* text = value.if_string(); text && text->size() > kDescribeBytesMax) {
    std::size_t end = kDescribeBytesMax;
    while (end > 0 && (static_cast<unsigned char>((*text)[end]) & 0xC0) == 0x80) --end;  // between characters
    return to_json_text(json::string(text->subview(0, end))) + "...";
  }
  return to_json_text(value);
}

std::optional<std::int64_t> json_integer(const json::value& value) {
  if (const std::int64_t* integer = value.if_int64()) return *integer;
  const double* number = value.if_double();
  if (number == nullptr || std::nearbyint(*number) != *number || !(std::abs(*number) < 0x1p63)) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

}  // namespace tandem

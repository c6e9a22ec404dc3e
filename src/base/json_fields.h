// Reads JSON that somebody else wrote, field by field: each by its name, its kind and its range.
//
// The first thing that is wrong is kept, with the path of its field ("tools[1].function.name"), and every later read is
// skipped: a reader is a plain list of fields with one check at its end. Messages say the field, what was given and
// what is accepted. null counts as absent. What a read fills is left alone where the field is absent or wrong. Threads:
// one at a time. The object is borrowed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace tandem {

// The first thing that was found wrong.
struct FieldError {
  std::string path;  // of the field at fault
  std::string code;  // for programs: "invalid_value", "missing_required_parameter", or what fail() was given
  std::string message;

  bool ok() const { return message.empty(); }
  Status status() const { return ok() ? Status() : Status(StatusCode::kInvalidArgument, message); }
  // Keeps the first.
  void set(std::string where, std::string what_code, std::string text);
};

// Any number at all, unless bounded.
struct NumberRange {
  double low = std::numeric_limits<float>::lowest(), high = std::numeric_limits<float>::max();
  bool above_low = false;  // low itself is outside
};
struct IntegerRange {
  std::int64_t low = std::numeric_limits<std::int64_t>::min(), high = std::numeric_limits<std::int64_t>::max();
};
struct StringBounds {
  std::size_t bytes_max = 0;
  std::size_t count_max = 1;
  bool empty_allowed = true;
};

class JsonFields {
 public:
  // `path` is that of the object itself: empty for the document.
  JsonFields(const json::object& object, FieldError& error, std::string path = {});

  // The field, or null where it is absent, null, or something was wrong before.
  const json::value* find(std::string_view name);
  bool has(std::string_view name) { return find(name) != nullptr; }

  // Each says whether it filled its target.
  bool read_bool(std::string_view name, bool& target);
  bool read_number(std::string_view name, const NumberRange& range, float& target);
  template <class Integer>
  bool read_integer(std::string_view name, IntegerRange range, Integer& target) {
    static_assert(sizeof(Integer) <= sizeof(std::int64_t));
    range.low = std::max<std::int64_t>(range.low, std::numeric_limits<Integer>::min());
    range.high = std::min<std::int64_t>(range.high, std::numeric_limits<Integer>::max());
    const std::optional<std::int64_t> value = integer(name, range);
    if (value) target = static_cast<Integer>(*value);
    return value.has_value();
  }
  // Any 64 bits, signed or not.
  bool read_bits(std::string_view name, std::uint64_t& target);
  bool read_string(std::string_view name, std::size_t bytes_max, std::string& target);
  // One string, or an array of them.
  bool read_strings(std::string_view name, const StringBounds& bounds, std::vector<std::string>& target);
  bool read_integers(std::string_view name, IntegerRange range, std::size_t count_max,
                     std::vector<std::int32_t>& target);
  // {"17": -5.0}: an object whose keys are integers.
  bool read_number_map(std::string_view name, IntegerRange keys, const NumberRange& range, std::size_t count_max,
                       std::vector<std::pair<std::int32_t, float>>& target);
  // Which of `choices` the string is.
  std::optional<std::size_t> read_choice(std::string_view name, std::initializer_list<std::string_view> choices);

  //   accepted  for messages: "an array of messages"
  const json::array* array(std::string_view name, std::string_view accepted);
  std::optional<JsonFields> object(std::string_view name);
  // An element of the array `name`, which must be an object.
  std::optional<JsonFields> element(std::string_view name, std::size_t index, const json::value& value);

  // Whether a field that must be there is; `accepted` as above.
  bool require(std::string_view name, std::string_view accepted);
  // "PATH is VALUE: give ACCEPTED".
  void fail(std::string_view name, std::string_view accepted);
  // A message and a code of the caller's own.
  void fail_with(std::string_view name, std::string_view code, std::string message);

  bool ok() const { return error_->ok(); }
  FieldError& error() const { return *error_; }
  const json::object& source() const { return *object_; }
  std::string path_of(std::string_view name) const;
  // The first member that nobody asked for, or nothing.
  std::optional<std::string> first_unread() const;

 private:
  std::optional<std::int64_t> integer(std::string_view name, const IntegerRange& range);

  const json::object* object_;
  FieldError* error_;
  std::string path_;
  std::vector<bool> read_;  // by place in the object
};

// A value as messages show it: short, on one line.
std::string describe_json(const json::value& value);

// An integer as JSON writes it, be it 5, 5.0 or 5e0; nothing if it is none, or beyond 64 bits.
std::optional<std::int64_t> json_integer(const json::value& value);

}  // namespace tandem

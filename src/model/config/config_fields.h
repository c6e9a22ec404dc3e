// Typed, bounded reading of the members of a JSON object, with errors that name the file, the field and the bounds.
//
// A member may be missing, null or a value. As in transformers, a missing member takes its default, and null means
// "none" where a field can be none; where it cannot, null is as good as missing.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace tandem::model {

struct IntegerRange {
  std::int64_t min, max;
};
struct NumberRange {
  double min, max;  // inclusive; the value must be finite
};
inline constexpr NumberRange kAnyNumber{std::numeric_limits<double>::lowest(), std::numeric_limits<double>::max()};
inline constexpr NumberRange kPositiveNumber{std::numeric_limits<double>::min(), 1e30};

class ConfigFields {
 public:
  // `object` is borrowed. `source` names the file in errors; `path` what leads to the object: "rope_scaling."
  ConfigFields(const json::object& object, std::string source, std::string path = "")
      : object_(object), source_(std::move(source)), path_(std::move(path)) {}

  const std::string& source() const { return source_; }
  // Present, and not null.
  bool has(std::string_view name) const;

  Result<std::int64_t> integer(std::string_view name, IntegerRange range, std::int64_t missing) const;
  Result<std::optional<std::int64_t>> optional_integer(std::string_view name, IntegerRange range,
                                                       std::optional<std::int64_t> missing) const;
  Result<double> number(std::string_view name, NumberRange range, double missing) const;
  Result<std::optional<double>> optional_number(std::string_view name, NumberRange range,
                                                std::optional<double> missing) const;
  Result<bool> boolean(std::string_view name, bool missing) const;
  Result<std::string> text(std::string_view name, std::string_view missing) const;

  // Lists; missing and null give an empty one.
  Result<std::vector<double>> numbers(std::string_view name, NumberRange range) const;
  Result<std::vector<std::int64_t>> integers(std::string_view name, IntegerRange range) const;  // or a single integer
  Result<std::vector<std::string>> texts(std::string_view name) const;

  // The object of that name, or null where it is missing or null.
  Result<const json::object*> object(std::string_view name) const;
  ConfigFields inside(std::string_view name, const json::object& member) const;

  // "config.json: rope_scaling.factor ..." for errors.
  Status refuse(std::string_view name, std::string_view reason) const;

 private:
  const json::object& object_;
  std::string source_, path_;
};

}  // namespace tandem::model

// Filters that make numbers.
#include <cmath>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

Value absolute(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("abs", arguments, {});
  if (self.is_undefined()) fail_undefined(self);
  if (!self.is_number()) fail("abs needs a number, not '{}'", type_name(self));
  if (self.is(Kind::kFloat)) return Value::number(std::fabs(self.as_double()));
  return runtime.integer(self.as_int() < 0 ? -self.as_int() : self.as_int());
}

Value truncated(Runtime& runtime, double value) {
  if (!(std::fabs(value) < 0x1p126)) fail("a float this large has no integer in a template: {}", value);
  return runtime.integer(static_cast<Int>(value));
}

Value to_int(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  const Value otherwise = bound.has(0) ? bound[0] : Value::int64(0);
  if (self.is_undefined()) fail_undefined(self);
  if (self.is_integral()) return runtime.integer(self.as_int());
  if (self.is(Kind::kFloat)) return std::isnan(self.as_double()) ? otherwise : truncated(runtime, self.as_double());
  if (!self.is_string()) return otherwise;
  const std::int64_t base = bound.integer(1, 10);
  Int integer = 0;
  if ((base == 0 || (base >= 2 && base <= 36)) && parse_int(self.as_string(), static_cast<int>(base), integer))
    return runtime.integer(integer);
  double number = 0;
  if (!parse_float(self.as_string(), number) || !std::isfinite(number)) return otherwise;
  return truncated(runtime, number);
}

Value to_float(Runtime&, Value self, const Arguments& arguments) {
  const Bound bound("float", arguments, {"default"});
  if (self.is_undefined()) fail_undefined(self);
  if (self.is_number()) return Value::number(self.as_double());
  double number = 0;
  if (self.is_string() && parse_float(self.as_string(), number)) return Value::number(number);
  return bound.has(0) ? bound[0] : Value::number(0);
}

Value round_integer(Runtime& runtime, Int value, std::int64_t precision) {
  if (precision >= 0) return runtime.integer(value);
  if (precision < -37) return Value::int64(0);
  Int unit = 1;
  for (std::int64_t i = precision; i < 0; ++i) unit *= 10;
  Int rest = value % unit;
  if (rest < 0) rest += unit;
  const Int low = value - rest;
  const bool up = 2 * rest > unit || (2 * rest == unit && (low / unit) % 2 != 0);
  return runtime.integer(up ? low + unit : low);
}

Value round(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  const std::int64_t precision = bound.integer(0, 0);
  const std::string_view method = bound.text(1, "common");
  if (self.is_undefined()) fail_undefined(self);
  if (!self.is_number()) fail("round needs a number, not '{}'", type_name(self));
  if (method == "common") {
    if (self.is_integral()) return round_integer(runtime, self.as_int(), precision);
    return Value::number(round_to(
        self.as_double(), static_cast<int>(std::min<std::int64_t>(400, std::max<std::int64_t>(-400, precision)))));
  }
  if (method != "ceil" && method != "floor") fail("the method of round must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = self.as_double() * scale;
  if (!std::isfinite(scaled)) fail("round cannot {} this number", method);
  return Value::number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr BuiltinEntry kFilters[] = {{"abs", absolute}, {"int", to_int}, {"float", to_float}, {"round", round}};

}  // namespace

std::span<const BuiltinEntry> number_filters() { return kFilters; }

}  // namespace tandem::model::jinja

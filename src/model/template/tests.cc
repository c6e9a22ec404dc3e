// The tests behind `is`.
#include <algorithm>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

template <bool (*Predicate)(Value)>
Value plain(Runtime&, Value self, const Arguments& arguments) {
  Bound("test", arguments, {});
  return Value::boolean(Predicate(self));
}

bool is_defined(Value value) { return !value.is_undefined(); }
bool is_undefined(Value value) { return value.is_undefined(); }
bool is_none(Value value) { return value.is_none(); }
bool is_boolean(Value value) { return value.is(Kind::kBool); }
bool is_true(Value value) { return value.is(Kind::kBool) && value.as_bool(); }
bool is_false(Value value) { return value.is(Kind::kBool) && !value.as_bool(); }
bool is_integer(Value value) { return value.is(Kind::kInt); }
bool is_float(Value value) { return value.is(Kind::kFloat); }
bool is_any_number(Value value) { return value.is_number(); }
bool is_text(Value value) { return value.is_string(); }
bool is_mapping(Value value) { return value.is(Kind::kDict); }
bool is_escaped(Value value) { return value.is_markup(); }
bool is_callable(Value value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kFunction:
    case Kind::kMacro:
    case Kind::kLoop:
    case Kind::kJoiner: return true;
    default: return false;
  }
}
bool is_sequence(Value value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange: return true;
    default: return false;
  }
}

// Whether str(value) has cased characters, all of the wanted case.
template <bool (*Wanted)(char32_t), bool (*Other)(char32_t)>
Value has_case(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("test", arguments, {});
  const std::string_view text = to_text(runtime, self);
  bool some = false;
  for (std::size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, position);
    if (Other(c) || is_title(c)) return Value::boolean(false);
    some = some || Wanted(c);
  }
  return Value::boolean(some);
}

template <Comparison comparison>
Value compares(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("comparison", arguments, {"other"}, 1);
  return Value::boolean(compare(runtime, comparison, self, bound[0]));
}

// value % divisor, for odd, even and divisibleby.
bool has_remainder(Runtime& runtime, Value value, Value divisor, std::int64_t remainder) {
  return equal(runtime, arithmetic(runtime, Operator::kModulo, value, divisor), Value::int64(remainder));
}
Value is_odd(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("odd", arguments, {});
  return Value::boolean(has_remainder(runtime, self, Value::int64(2), 1));
}
Value is_even(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("even", arguments, {});
  return Value::boolean(has_remainder(runtime, self, Value::int64(2), 0));
}
Value is_divisible_by(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("divisibleby", arguments, {"num"}, 1);
  return Value::boolean(has_remainder(runtime, self, bound[0], 0));
}

Value is_same_as(Runtime& runtime, Value self, const Arguments& arguments) {
  const Value other = Bound("sameas", arguments, {"other"}, 1)[0];
  if (self.kind() != other.kind()) return Value::boolean(false);
  if (self.is_number() || self.is_string() || self.is_none()) return Value::boolean(equal(runtime, self, other));
  return Value::boolean(self.identity() == other.identity() && self.size() == other.size());
}

Value is_filter(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("filter", arguments, {});
  return Value::boolean(find_filter(to_text(runtime, self)) != nullptr);
}
Value is_test(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("test", arguments, {});
  return Value::boolean(find_test(to_text(runtime, self)) != nullptr);
}

constexpr BuiltinEntry kTests[] = {
    {"defined", plain<is_defined>},
    {"undefined", plain<is_undefined>},
    {"none", plain<is_none>},
    {"boolean", plain<is_boolean>},
    {"true", plain<is_true>},
    {"false", plain<is_false>},
    {"integer", plain<is_integer>},
    {"float", plain<is_float>},
    {"number", plain<is_any_number>},
    {"string", plain<is_text>},
    {"mapping", plain<is_mapping>},
    {"sequence", plain<is_sequence>},
    {"iterable", plain<is_iterable>},
    {"callable", plain<is_callable>},
    {"escaped", plain<is_escaped>},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisible_by},
    {"lower", has_case<is_lower, is_upper>},
    {"upper", has_case<is_upper, is_lower>},
    {"sameas", is_same_as},
    {"filter", is_filter},
    {"test", is_test},
    {"in", compares<Comparison::kIn>},
    {"eq", compares<Comparison::kEqual>},
    {"equalto", compares<Comparison::kEqual>},
    {"==", compares<Comparison::kEqual>},
    {"ne", compares<Comparison::kNotEqual>},
    {"!=", compares<Comparison::kNotEqual>},
    {"gt", compares<Comparison::kGreater>},
    {"greaterthan", compares<Comparison::kGreater>},
    {">", compares<Comparison::kGreater>},
    {"ge", compares<Comparison::kGreaterEqual>},
    {">=", compares<Comparison::kGreaterEqual>},
    {"lt", compares<Comparison::kLess>},
    {"lessthan", compares<Comparison::kLess>},
    {"<", compares<Comparison::kLess>},
    {"le", compares<Comparison::kLessEqual>},
    {"<=", compares<Comparison::kLessEqual>},
};

}  // namespace

Builtin find_test(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& test) { return test.name == name; });
  return found == std::end(kTests) ? nullptr : found->call;
}

}  // namespace tandem::model::jinja

#include "model/template/operations.h"

#include <algorithm>
#include <cmath>

#include "model/template/error.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

constexpr int kUnordered = 2;  // NaN is neither less, equal nor greater

template <class T>
int three_way(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

// Exact, also between an integer and a float that no float or integer can both hold.
int compare_numbers(Value a, Value b) {
  if (a.is_integral() && b.is_integral()) return three_way(a.as_int(), b.as_int());
  if (!a.is_integral() && !b.is_integral()) {
    const double x = a.as_double(), y = b.as_double();
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : kUnordered;
  }
  if (!a.is_integral()) {
    const int reverse = compare_numbers(b, a);
    return reverse == kUnordered ? reverse : -reverse;
  }
  const double y = b.as_double();
  if (std::isnan(y)) return kUnordered;
  if (y >= 0x1p127) return -1;
  if (y < -0x1p127) return 1;
  const Int whole = static_cast<Int>(y);  // toward zero
  if (const int order = three_way(a.as_int(), whole); order != 0) return order;
  return three_way(0.0, y - static_cast<double>(whole));
}

int compare_text(std::string_view a, std::string_view b) {
  // UTF-8 sorts as its code points do.
  return three_way(a.compare(b), 0);
}

[[noreturn]] void fail_operands(std::string_view op, Value a, Value b) {
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  fail("unsupported operand types for {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

Int floor_divide(Int a, Int b) {
  const Int quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

double float_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return rest == 0 ? std::copysign(0.0, b) : rest;
}

double float_floor_divide(double a, double b) {
  double quotient = (a - float_modulo(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

[[noreturn]] void fail_overflow() { fail("an integer grows past 128 bits, which templates cannot hold"); }

Value power(Runtime& runtime, Value a, Value b) {
  if (a.is_integral() && b.is_integral() && b.as_int() >= 0) {
    Int base = a.as_int(), exponent = b.as_int(), result = 1;
    while (exponent > 0) {
      if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      exponent >>= 1;
      if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return runtime.integer(result);
  }
  const double base = a.as_double(), exponent = b.as_double();
  if (base == 0 && exponent < 0) fail("0.0 cannot be raised to a negative power");
  const double result = std::pow(base, exponent);
  if (std::isnan(result) && !std::isnan(base) && !std::isnan(exponent))
    fail("a negative number raised to a fraction is complex, which templates cannot hold");
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) fail("the result of ** is too large");
  return Value::number(result);
}

Value number_arithmetic(Runtime& runtime, Operator op, Value a, Value b) {
  if (op == Operator::kPower) return power(runtime, a, b);
  const bool divides = op == Operator::kDivide || op == Operator::kFloorDivide || op == Operator::kModulo;
  if (divides && b.as_double() == 0) fail("division by zero");
  if (a.is_integral() && b.is_integral() && op != Operator::kDivide) {
    const Int x = a.as_int(), y = b.as_int();
    Int result = 0;
    bool overflows = false;
    switch (op) {
      case Operator::kAdd: overflows = __builtin_add_overflow(x, y, &result); break;
      case Operator::kSubtract: overflows = __builtin_sub_overflow(x, y, &result); break;
      case Operator::kMultiply: overflows = __builtin_mul_overflow(x, y, &result); break;
      case Operator::kFloorDivide:
        overflows = y == -1 && __builtin_sub_overflow(Int{0}, x, &result);
        if (y != -1) result = floor_divide(x, y);
        break;
      case Operator::kModulo: result = y == -1 ? 0 : x - floor_divide(x, y) * y; break;
      default: break;
    }
    if (overflows) fail_overflow();
    return runtime.integer(result);
  }
  const double x = a.as_double(), y = b.as_double();
  switch (op) {
    case Operator::kAdd: return Value::number(x + y);
    case Operator::kSubtract: return Value::number(x - y);
    case Operator::kMultiply: return Value::number(x * y);
    case Operator::kDivide: return Value::number(x / y);
    case Operator::kFloorDivide: return Value::number(float_floor_divide(x, y));
    default: return Value::number(float_modulo(x, y));
  }
}

Value add(Runtime& runtime, Value a, Value b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.is_markup() || b.is_markup();
    if (markup) {
      a = escape(runtime, a);
      b = escape(runtime, b);
    }
    const std::string_view left = a.as_string(), right = b.as_string();
    char* bytes = runtime.arena.make_array<char>(left.size() + right.size());
    std::copy(left.begin(), left.end(), bytes);
    std::copy(right.begin(), right.end(), bytes + left.size());
    runtime.charge_bytes(left.size() + right.size());
    const std::string_view joined(bytes, left.size() + right.size());
    return markup ? Value::markup(joined) : Value::string(joined);
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto left = a.as_items(), right = b.as_items();
    Value* items = runtime.arena.make_array<Value>(left.size() + right.size());
    std::copy(left.begin(), left.end(), items);
    std::copy(right.begin(), right.end(), items + left.size());
    runtime.charge_bytes((left.size() + right.size()) * sizeof(Value));
    const std::span<const Value> joined(items, left.size() + right.size());
    return a.is(Kind::kList) ? Value::list(joined) : Value::tuple(joined);
  }
  fail_operands("+", a, b);
}

std::string_view operator_text(Operator op) {
  static constexpr std::string_view kTexts[] = {"+", "-", "*", "/", "//", "%", "**"};
  return kTexts[static_cast<int>(op)];
}

// -1, 0, 1 or kUnordered.
int order(Runtime& runtime, Value a, Value b, std::string_view op) {
  if (a.is_number() && b.is_number()) return compare_numbers(a, b);
  if (a.is_string() && b.is_string()) return compare_text(a.as_string(), b.as_string());
  if (a.is_sequence() && a.kind() == b.kind()) {
    const Nesting nesting(runtime);
    const auto left = a.as_items(), right = b.as_items();
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      runtime.charge();
      if (!equal(runtime, left[i], right[i])) return order(runtime, left[i], right[i], op);
    }
    return three_way(left.size(), right.size());
  }
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  fail("'{}' is not supported between '{}' and '{}'", op, type_name(a), type_name(b));
}

}  // namespace

std::string_view type_name(Value value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return value.is_markup() ? "Markup" : "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kDict: return "dict";
    case Kind::kRange: return "range";
    case Kind::kDictView: return "dict view";
    case Kind::kIterator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kCycler: return "Cycler";
    case Kind::kJoiner: return "Joiner";
    case Kind::kFunction: return "builtin_function_or_method";
    case Kind::kMacro: return "Macro";
    case Kind::kLoop: return "LoopContext";
  }
  return "?";
}

void fail_undefined(Value value) {
  const auto* info = value.as<const UndefinedInfo>();
  switch (info->why) {
    case UndefinedInfo::Why::kVariable: fail("'{}' is undefined", info->name);
    case UndefinedInfo::Why::kAttribute:
    case UndefinedInfo::Why::kItem:
      fail("a value of type '{}' has no attribute or item '{}'", type_name(info->object), info->name);
    case UndefinedInfo::Why::kUnsafe:
      fail("'{}' of a value of type '{}' is not available in chat templates, which cannot change lists and dicts",
           info->name, type_name(info->object));
    case UndefinedInfo::Why::kHint: break;
  }
  fail("{}", info->name);
}

bool truth(Value value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool:
    case Kind::kInt: return value.as_int() != 0;
    case Kind::kFloat: return value.as_double() != 0;
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kDictView: return length(value) != 0;
    default: return true;
  }
}

bool equal(Runtime& runtime, Value a, Value b) {
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone: return true;
    case Kind::kString: runtime.charge_bytes(a.size()); return a.as_string() == b.as_string();
    case Kind::kList:
    case Kind::kTuple: {
      const Nesting nesting(runtime);
      const auto left = a.as_items(), right = b.as_items();
      if (left.size() != right.size()) return false;
      if (left.data() == right.data()) return true;
      for (std::size_t i = 0; i < left.size(); ++i) {
        runtime.charge();
        if (!equal(runtime, left[i], right[i])) return false;
      }
      return true;
    }
    case Kind::kDict: {
      const Nesting nesting(runtime);
      Dict &left = *a.as<Dict>(), &right = *b.as<Dict>();
      if (&left == &right) return true;
      if (left.size != right.size) return false;
      for (std::uint32_t i = 0; i < left.size; ++i) {
        const Value* other = find(runtime, right, left.keys[i]);
        if (other == nullptr || !equal(runtime, left.values[i], *other)) return false;
      }
      return true;
    }
    case Kind::kRange: {
      const Range &left = *a.as<Range>(), &right = *b.as<Range>();
      return left.size == right.size &&
             (left.size == 0 || (left.start == right.start && (left.size == 1 || left.step == right.step)));
    }
    case Kind::kDictView: {
      const DictView &left = *a.as<DictView>(), &right = *b.as<DictView>();
      if (left.what != right.what || left.what == DictView::What::kValues) return &left == &right;
      if (left.items.size() != right.items.size()) return false;
      return std::all_of(left.items.begin(), left.items.end(), [&](Value item) { return contains(runtime, b, item); });
    }
    case Kind::kFunction: {
      const Function &left = *a.as<Function>(), &right = *b.as<Function>();
      return left.call == right.call && left.self.identity() == right.self.identity();
    }
    default: return a.identity() == b.identity();
  }
}

bool less(Runtime& runtime, Value a, Value b) {
  runtime.charge();
  return order(runtime, a, b, "<") == -1;
}

bool compare(Runtime& runtime, Comparison comparison, Value a, Value b) {
  switch (comparison) {
    case Comparison::kEqual: return equal(runtime, a, b);
    case Comparison::kNotEqual: return !equal(runtime, a, b);
    case Comparison::kLess: return order(runtime, a, b, "<") == -1;
    case Comparison::kLessEqual: {
      const int result = order(runtime, a, b, "<=");
      return result == -1 || result == 0;
    }
    case Comparison::kGreater: return order(runtime, a, b, ">") == 1;
    case Comparison::kGreaterEqual: {
      const int result = order(runtime, a, b, ">=");
      return result == 1 || result == 0;
    }
    case Comparison::kIn: return contains(runtime, b, a);
    case Comparison::kNotIn: return !contains(runtime, b, a);
  }
  return false;
}

Value arithmetic(Runtime& runtime, Operator op, Value a, Value b) {
  if (a.is_number() && b.is_number()) return number_arithmetic(runtime, op, a, b);
  if (op == Operator::kAdd) return add(runtime, a, b);
  if (op == Operator::kModulo && a.is_string()) {
    if (!a.is_markup()) return percent_format(runtime, a.as_string(), b);
    fail("% on escaped text is not supported in chat templates");
  }
  if (op == Operator::kMultiply) {
    const auto repeatable = [](Value value) { return value.is_string() || value.is_sequence(); };
    if (repeatable(a) && b.is_integral()) return repeat(runtime, a, to_index(b, "a repeat count"));
    if (a.is_integral() && repeatable(b)) return repeat(runtime, b, to_index(a, "a repeat count"));
  }
  fail_operands(operator_text(op), a, b);
}

Value negate(Runtime& runtime, Value value) {
  if (value.is(Kind::kFloat)) return Value::number(-value.as_double());
  if (value.is_integral()) return runtime.integer(-value.as_int());
  if (value.is_undefined()) fail_undefined(value);
  fail("bad operand type for unary -: '{}'", type_name(value));
}

std::int64_t to_index(Value value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_integral()) fail("{} must be an integer, not '{}'", what, type_name(value));
  const Int index = value.as_int();
  if (index != static_cast<std::int64_t>(index)) fail("{} is too large", what);
  return static_cast<std::int64_t>(index);
}

int order_of_keys(Runtime& runtime, Value a, Value b) {
  const auto rank = [](Value value) { return value.is_number() ? 0 : static_cast<int>(value.kind()); };
  if (rank(a) != rank(b)) return three_way(rank(a), rank(b));
  if (a.is_number()) return compare_numbers(a, b) % kUnordered;
  if (a.is_string()) return compare_text(a.as_string(), b.as_string());
  if (a.is(Kind::kTuple)) {
    const Nesting nesting(runtime);
    const auto left = a.as_items(), right = b.as_items();
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i)
      if (const int result = order_of_keys(runtime, left[i], right[i]); result != 0) return result;
    return three_way(left.size(), right.size());
  }
  if (a.is_none() || a.is_undefined()) return 0;
  return three_way(a.identity(), b.identity());
}

}  // namespace tandem::model::jinja

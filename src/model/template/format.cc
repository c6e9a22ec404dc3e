// Python's two ways to format text: "..." % values and "...".format(...).
#include <cmath>

#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

constexpr std::int64_t kWidthMax = 1 << 20;

// How one value is laid out: what is common to both ways.
struct Spec {
  std::string fill = " ";
  char align = 0;  // '<' '>' '^' '=' or 0: the type's own
  char sign = '-';
  bool alternate = false;
  char grouping = 0;  // ',' or '_'
  std::int64_t width = 0;
  std::int64_t precision = -1;
  char type = 0;
};

std::int64_t read_number(std::string_view text, std::size_t& at) {
  std::int64_t value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + (text[at++] - '0');
    if (value > kWidthMax) exhausted("a format is wider than {} characters", kWidthMax);
  }
  return value;
}

std::string pad(std::string text, const Spec& spec, char default_align, std::size_t sign_size) {
  const auto size = static_cast<std::int64_t>(code_points_count(text));
  if (size >= spec.width) return text;
  const std::int64_t missing = spec.width - size;
  const char align = spec.align != 0 ? spec.align : default_align;
  const auto fill = [&](std::int64_t count) {
    std::string filled;
    for (std::int64_t i = 0; i < count; ++i) filled += spec.fill;
    return filled;
  };
  if (align == '<') return text + fill(missing);
  if (align == '^') return fill(missing / 2) + text + fill(missing - missing / 2);
  if (align == '=') return text.substr(0, sign_size) + fill(missing) + text.substr(sign_size);
  return fill(missing) + text;
}

void group_digits(std::string& digits, char separator, int group) {
  std::size_t end = digits.find_first_not_of("0123456789abcdefABCDEF");
  if (end == std::string::npos) end = digits.size();
  for (std::size_t at = end; at > static_cast<std::size_t>(group);) {
    at -= static_cast<std::size_t>(group);
    digits.insert(at, 1, separator);
  }
}

std::string sign_text(bool negative, char sign) { return negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : ""; }

std::string digits_in_base(Int value, int base, bool upper) {
  std::string digits;
  for (Int rest = value < 0 ? -value : value; rest > 0 || digits.empty(); rest /= base)
    digits.insert(digits.begin(), (upper ? "0123456789ABCDEF" : "0123456789abcdef")[static_cast<int>(rest % base)]);
  return digits;
}

std::string format_int(Int value, const Spec& spec) {
  const char type = spec.type == 0 || spec.type == 'n' ? 'd' : spec.type;
  const int base = type == 'd' ? 10 : type == 'o' ? 8 : type == 'b' ? 2 : 16;
  std::string digits = digits_in_base(value, base, type == 'X');
  while (spec.precision > static_cast<std::int64_t>(digits.size())) digits.insert(digits.begin(), '0');
  if (spec.grouping != 0) group_digits(digits, spec.grouping, base == 10 ? 3 : 4);
  std::string prefix = sign_text(value < 0, spec.sign);
  if (spec.alternate && base != 10) (prefix += '0') += type;
  return pad(prefix + digits, spec, '>', prefix.size());
}

std::string format_float(double value, const Spec& spec) {
  const std::string prefix = sign_text(std::signbit(value) && !std::isnan(value), spec.sign);
  const double magnitude = std::fabs(value);
  char type = spec.type;
  std::string digits;
  const bool is_upper_type = type == 'F' || type == 'E' || type == 'G';
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? (is_upper_type ? "NAN" : "nan") : (is_upper_type ? "INF" : "inf");
    if (type == '%') digits += '%';
  } else if (type == 0 && spec.precision < 0) {
    digits = float_repr(magnitude);
  } else {
    const std::int64_t precision = spec.precision < 0 ? 6 : spec.precision;
    const std::int64_t significant = precision == 0 ? 1 : precision;
    switch (type) {
      case 'f':
      case 'F': digits = fmt::format("{:.{}f}", magnitude, precision); break;
      case '%': digits = fmt::format("{:.{}f}%", magnitude * 100, precision); break;
      case 'e': digits = fmt::format("{:.{}e}", magnitude, precision); break;
      case 'E': digits = fmt::format("{:.{}E}", magnitude, precision); break;
      case 'G': digits = fmt::format("{:.{}G}", magnitude, significant); break;
      case 0:
        // As 'g', but always with a digit after the point.
        digits = fmt::format("{:.{}g}", magnitude, significant);
        if (digits.find_first_of(".e") == std::string::npos) {
          if (static_cast<std::int64_t>(digits.size()) >= significant) {
            digits = fmt::format("{:.{}e}", magnitude, significant - 1);
          } else {
            digits += ".0";
          }
        }
        break;
      default:
        digits = spec.alternate ? fmt::format("{:#.{}g}", magnitude, significant)
                                : fmt::format("{:.{}g}", magnitude, significant);
    }
    if (spec.alternate && (type == 'f' || type == 'F') && precision == 0) digits += '.';
  }
  if (spec.grouping != 0) group_digits(digits, spec.grouping, 3);
  return pad(prefix + digits, spec, '>', prefix.size());
}

std::string format_text(std::string_view text, const Spec& spec, char default_align) {
  if (spec.precision >= 0) text = text.substr(0, byte_offset(text, static_cast<std::size_t>(spec.precision)));
  return pad(std::string(text), spec, default_align, 0);
}

std::string repr_text(Runtime& runtime, Value value) {
  std::string text;
  append_repr(runtime, text, value);
  return text;
}

// ---- % ----

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, std::string_view format, Value values) : runtime_(runtime), format_(format) {
    by_name_ = values.is(Kind::kDict) ? values : Value();
    // Python takes whatever has items for a mapping, and does not mind when a mapping is not used up.
    may_have_rest_ =
        values.is(Kind::kDict) || values.is(Kind::kList) || values.is(Kind::kRange) || values.is_undefined();
    single_ = values;
    if (values.is(Kind::kTuple))
      values_ = values.as_items();
    else
      values_ = {&single_, 1};
  }

  Value run() {
    std::string out;
    for (std::size_t at = 0; at < format_.size();) {
      const std::size_t percent = std::min(format_.find('%', at), format_.size());
      out += format_.substr(at, percent - at);
      at = percent;
      if (at < format_.size()) out += one(++at);
      if (out.size() > runtime_.limits.output_bytes_max) exhausted("formatted text is too long");
    }
    if (next_ < values_.size() && !may_have_rest_) fail("not all arguments of % are used by the format");
    return runtime_.copy(out);
  }

 private:
  char current(std::size_t at) const {
    if (at >= format_.size()) fail("a format ends inside a % directive");
    return format_[at];
  }
  Value take() {
    if (next_ >= values_.size()) fail("not enough arguments for the % directives of a format");
    return values_[next_++];
  }

  std::int64_t number_or_star(std::size_t& at) {
    if (current(at) != '*') return read_number(format_, at);
    ++at;
    const std::int64_t number = to_index(take(), "a format's width");
    if (number > kWidthMax) exhausted("a format is wider than {} characters", kWidthMax);
    return number;
  }

  std::string one(std::size_t& at) {
    Spec spec;
    Value value;
    if (current(at) == '(') {
      const std::size_t close = format_.find(')', at);
      if (close == std::string_view::npos) fail("a %(name) directive is not closed");
      if (by_name_.is_missing()) fail("a %(name) directive needs a mapping on the right of %");
      const std::string_view name = format_.substr(at + 1, close - at - 1);
      const Value* found = find(runtime_, *by_name_.as<Dict>(), Value::string(name));
      if (found == nullptr) fail("the mapping on the right of % has no key '{}'", name);
      value = *found;
      at = close + 1;
    }
    bool zero = false;
    for (;; ++at) {
      const char flag = current(at);
      if (flag == '-')
        spec.align = '<';
      else if (flag == '+')
        spec.sign = '+';
      else if (flag == ' ')
        spec.sign = spec.sign == '+' ? '+' : ' ';
      else if (flag == '#')
        spec.alternate = true;
      else if (flag == '0')
        zero = true;
      else
        break;
    }
    spec.width = number_or_star(at);
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (current(at) == '.') {
      ++at;
      spec.precision = std::max<std::int64_t>(0, number_or_star(at));
    }
    while (current(at) == 'l' || current(at) == 'h' || current(at) == 'L') ++at;
    const char type = current(at++);
    if (type == '%') return "%";
    if (value.is_missing()) value = take();
    if (zero && spec.align == 0) {
      spec.fill = "0";
      spec.align = '=';
    }
    return convert(value, type, spec);
  }

  std::string convert(Value value, char type, Spec spec) {
    const auto as_text = [&](std::string_view text) {
      spec.fill = " ";
      if (spec.align == '=') spec.align = 0;
      return format_text(text, spec, '>');
    };
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    switch (spec.type) {
      case 's': return as_text(to_text(runtime_, value));
      case 'r':
      case 'a': return as_text(repr_text(runtime_, value));
      case 'c': {
        if (value.is_string() && code_points_count(value.as_string()) == 1) return as_text(value.as_string());
        std::string text;
        append_utf8(text, static_cast<char32_t>(to_index(value, "the argument of %c")));
        return as_text(text);
      }
      case 'd':
      case 'o':
      case 'x':
      case 'X': {
        if (!value.is_number() || (spec.type != 'd' && !value.is_integral()))
          fail("%{} needs a number, not '{}'", type, type_name(value));
        if (value.is_integral()) return format_int(value.as_int(), spec);
        if (!(std::fabs(value.as_double()) < 0x1p127)) fail("%d cannot write an infinite or huge number");
        return format_int(static_cast<Int>(value.as_double()), spec);
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!value.is_number()) fail("%{} needs a number, not '{}'", type, type_name(value));
        return format_float(value.as_double(), spec);
      default: fail("a format has the unknown directive %{}", type);
    }
  }

  Runtime& runtime_;
  std::string_view format_;
  Value single_, by_name_;
  std::span<const Value> values_;
  std::size_t next_ = 0;
  bool may_have_rest_;
};

// ---- str.format ----

Spec parse_spec(std::string_view text) {
  Spec spec;
  std::size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    std::size_t after_fill = 0;
    next_code_point(text, after_fill);
    if (after_fill < text.size() && is_align(text[after_fill])) {
      spec.fill = std::string(text.substr(0, after_fill));
      spec.align = text[after_fill];
      at = after_fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[at++];
    }
  }
  const auto accept = [&](std::string_view options) {
    return at < text.size() && options.find(text[at]) != std::string_view::npos ? text[at++] : '\0';
  };
  if (const char sign = accept("+- ")) spec.sign = sign;
  spec.alternate = accept("#") != 0;
  if (at < text.size() && text[at] == '0') {
    ++at;
    if (spec.align == 0) {
      spec.fill = "0";
      spec.align = '=';
    }
  }
  spec.width = read_number(text, at);
  spec.grouping = accept(",_");
  if (accept(".") != 0) spec.precision = read_number(text, at);
  spec.type = accept("bcdeEfFgGnosxX%");
  if (at != text.size()) fail("the format specifier '{}' is not valid", text);
  return spec;
}

std::string format_value(Runtime& runtime, Value value, std::string_view text) {
  if (text.empty()) return std::string(to_text(runtime, value));
  Spec spec = parse_spec(text);
  const auto refuse = [&] { fail("the format '{}' does not fit a value of type '{}'", text, type_name(value)); };
  if (value.is_string()) {
    if ((spec.type != 0 && spec.type != 's') || spec.grouping != 0 || spec.sign != '-' || spec.alternate) refuse();
    if (spec.align == '=') {
      if (spec.fill != "0") refuse();
      spec.align = '<';
    }
    return format_text(value.as_string(), spec, '<');
  }
  if (!value.is_number()) refuse();
  const bool float_type = spec.type != 0 && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.is_integral() && !float_type) {
    if (spec.type == 's' || spec.precision >= 0) refuse();
    if (spec.type == 'c') {
      std::string character;
      append_utf8(character, static_cast<char32_t>(value.as_int()));
      return format_text(character, spec, '<');
    }
    return format_int(value.as_int(), spec);
  }
  if (spec.type != 0 && !float_type && spec.type != 'n') refuse();
  if (spec.type == 'n') spec.type = 'g';
  return format_float(value.as_double(), spec);
}

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments) : runtime_(runtime), arguments_(arguments) {}

  std::string run(std::string_view format, int depth) {
    if (depth > 1) fail("a format nests fields too deeply");
    std::string out;
    for (std::size_t at = 0; at < format.size();) {
      const char c = format[at++];
      const bool doubled = at < format.size() && format[at] == c;
      if ((c == '{' || c == '}') && doubled) {
        out += c;
        ++at;
      } else if (c == '}') {
        fail("a format has a single '}}'");
      } else if (c == '{') {
        out += field(format, at, depth);
      } else {
        out += c;
      }
      if (out.size() > runtime_.limits.output_bytes_max) exhausted("formatted text is too long");
    }
    return out;
  }

 private:
  // From after "{" to after the matching "}".
  std::string field(std::string_view format, std::size_t& at, int depth) {
    const std::size_t begin = at;
    int open = 1;
    for (; at < format.size() && open > 0; ++at) open += format[at] == '{' ? 1 : format[at] == '}' ? -1 : 0;
    if (open > 0) fail("a format has a '{{' that is not closed");
    const std::string_view text = format.substr(begin, at - 1 - begin);
    const std::size_t name_end = std::min(text.find_first_of("!:"), text.size());
    Value value = lookup(text.substr(0, name_end));
    std::string_view rest = text.substr(name_end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2 || (rest.size() > 2 && rest[2] != ':')) fail("a format has a broken conversion '{}'", rest);
      if (rest[1] == 's')
        value = Value::string(to_text(runtime_, value));
      else if (rest[1] == 'r' || rest[1] == 'a')
        value = runtime_.copy(repr_text(runtime_, value));
      else
        fail("a format has the unknown conversion '{}'", rest);
      rest.remove_prefix(2);
    }
    if (rest.empty()) return format_value(runtime_, value, {});
    return format_value(runtime_, value, run(rest.substr(1), depth + 1));
  }

  Value lookup(std::string_view path) {
    const std::size_t first_end = std::min(path.find_first_of(".["), path.size());
    const std::string_view first = path.substr(0, first_end);
    Value value;
    if (first.empty() || first.find_first_not_of("0123456789") == std::string_view::npos) {
      const Numbering numbering = first.empty() ? Numbering::kAutomatic : Numbering::kManual;
      if (numbering_ != Numbering::kNone && numbering_ != numbering) fail("a format mixes {{}} and {{0}}");
      numbering_ = numbering;
      std::size_t at = 0;
      const auto index = first.empty() ? next_++ : static_cast<std::size_t>(read_number(first, at));
      if (index >= arguments_.positional.size()) fail("a format asks for argument {}, which is not given", index);
      value = arguments_.positional[index];
    } else {
      for (const Keyword& keyword : arguments_.named)
        if (keyword.name == first) value = keyword.value;
      if (value.is_missing()) fail("a format asks for argument '{}', which is not given", first);
    }
    for (std::string_view rest = path.substr(first_end); !rest.empty();) {
      if (rest[0] == '.') {
        const std::size_t end = std::min(rest.find_first_of(".[", 1), rest.size());
        value = attribute(runtime_, value, rest.substr(1, end - 1));
        rest.remove_prefix(end);
      } else {
        const std::size_t close = rest.find(']');
        if (rest[0] != '[' || close == std::string_view::npos) fail("a format has a broken field '{}'", path);
        const std::string_view key = rest.substr(1, close - 1);
        std::size_t at = 0;
        const bool is_index = !key.empty() && key.find_first_not_of("0123456789") == std::string_view::npos;
        value = subscript(runtime_, value, is_index ? Value::int64(read_number(key, at)) : Value::string(key));
        rest.remove_prefix(close + 1);
      }
      if (value.is_undefined()) fail_undefined(value);
    }
    return value;
  }

  Runtime& runtime_;
  enum class Numbering { kNone, kAutomatic, kManual };

  const Arguments& arguments_;
  std::size_t next_ = 0;
  Numbering numbering_ = Numbering::kNone;
};

}  // namespace

Value percent_format(Runtime& runtime, std::string_view format, Value values) {
  return PercentFormatter(runtime, format, values).run();
}

Value brace_format(Runtime& runtime, std::string_view format, const Arguments& arguments) {
  return runtime.copy(BraceFormatter(runtime, arguments).run(format, 0));
}

}  // namespace tandem::model::jinja

// The methods of str. Offsets in and out are in code points.
#include <algorithm>
#include <vector>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

constexpr std::size_t kNone = std::string_view::npos;

Value list_of(Runtime& runtime, const std::vector<std::string_view>& parts) {
  runtime.charge(static_cast<std::int64_t>(parts.size()));
  Value* items = runtime.arena.make_array<Value>(parts.size());
  std::transform(parts.begin(), parts.end(), items, [](std::string_view part) { return Value::string(part); });
  return Value::list({items, parts.size()});
}

void check_no_arguments(std::string_view name, const Arguments& arguments) { Bound(name, arguments, {}); }

// A method without arguments that makes a new text.
template <std::string (*Convert)(std::string_view)>
Value convert(Runtime& runtime, Value self, const Arguments& arguments) {
  check_no_arguments("method", arguments);
  return runtime.copy(Convert(self.as_string()));
}

// A method without arguments that asks something of every character; false for no characters.
template <bool (*Test)(char32_t)>
Value all_are(Runtime& runtime, Value self, const Arguments& arguments) {
  check_no_arguments("method", arguments);
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  bool all = !text.empty();
  for (std::size_t position = 0; position < text.size() && all;) all = Test(next_code_point(text, position));
  return Value::boolean(all);
}

bool is_alphanumeric(char32_t c) { return is_alphabetic(c) || is_numeric(c); }

Value is_ascii(Runtime&, Value self, const Arguments& arguments) {
  check_no_arguments("isascii", arguments);
  const std::string_view text = self.as_string();
  return Value::boolean(std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; }));
}

Value is_printable_text(Runtime& runtime, Value self, const Arguments& arguments) {
  if (self.size() == 0) return Value::boolean(true);
  return all_are<is_printable>(runtime, self, arguments);
}

Value is_identifier_text(Runtime&, Value self, const Arguments& arguments) {
  check_no_arguments("isidentifier", arguments);
  return Value::boolean(is_identifier(self.as_string()));
}

// All cased characters are of one case, and there is one.
template <bool (*Wanted)(char32_t), bool (*Other)(char32_t)>
Value has_case(Runtime& runtime, Value self, const Arguments& arguments) {
  check_no_arguments("method", arguments);
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  bool some = false;
  for (std::size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, position);
    if (Other(c) || is_title(c)) return Value::boolean(false);
    some = some || Wanted(c);
  }
  return Value::boolean(some);
}

Value is_title_text(Runtime& runtime, Value self, const Arguments& arguments) {
  check_no_arguments("istitle", arguments);
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  bool some = false, cased_before = false;
  for (std::size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, position);
    if (is_upper(c) || is_title(c)) {
      if (cased_before) return Value::boolean(false);
      some = cased_before = true;
    } else if (is_lower(c)) {
      if (!cased_before) return Value::boolean(false);
      some = cased_before = true;
    } else {
      cased_before = false;
    }
  }
  return Value::boolean(some);
}

template <Side side>
Value strip(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("strip", arguments, {"chars"});
  runtime.charge_bytes(self.size());
  const bool chars = bound.has(0) && !bound[0].is_none();
  return Value::string(chars ? strip_chars(self.as_string(), bound.text(0), side)
                             : strip_space(self.as_string(), side));
}

Value remove_prefix(Runtime&, Value self, const Arguments& arguments) {
  const std::string_view prefix = Bound("removeprefix", arguments, {"prefix"}, 1).text(0);
  std::string_view text = self.as_string();
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return Value::string(text);
}

Value remove_suffix(Runtime&, Value self, const Arguments& arguments) {
  const std::string_view suffix = Bound("removesuffix", arguments, {"suffix"}, 1).text(0);
  std::string_view text = self.as_string();
  if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
  return Value::string(text);
}

// str.split and str.rsplit; with no separator, runs of space separate and those at the ends vanish.
template <bool from_right>
Value split(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("split", arguments, {"sep", "maxsplit"});
  std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  std::int64_t splits = bound.integer(1, -1);
  if (splits < 0) splits = INT64_MAX;
  std::vector<std::string_view> parts;

  if (bound.has(0) && !bound[0].is_none()) {
    const std::string_view separator = bound.text(0);
    if (separator.empty()) fail("split() needs a separator that is not empty");
    for (; splits > 0; --splits) {
      const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
      if (at == kNone) break;
      parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
      text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
    }
    parts.push_back(text);
  } else {
    const auto space_at = [](std::string_view where, std::size_t position) {
      return is_space(next_code_point(where, position));
    };
    const Side near = from_right ? Side::kRight : Side::kLeft;
    for (text = strip_space(text, near); !text.empty(); text = strip_space(text, near)) {
      if (splits-- == 0) {
        parts.push_back(text);
        break;
      }
      if (from_right) {
        std::size_t begin = text.size();
        while (begin > 0 && !space_at(text, previous_boundary(text, begin))) begin = previous_boundary(text, begin);
        parts.push_back(text.substr(begin));
        text = text.substr(0, begin);
      } else {
        std::size_t end = 0;
        while (end < text.size() && !space_at(text, end)) next_code_point(text, end);
        parts.push_back(text.substr(0, end));
        text = text.substr(end);
      }
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return list_of(runtime, parts);
}

Value splitlines(Runtime& runtime, Value self, const Arguments& arguments) {
  const bool keep = Bound("splitlines", arguments, {"keepends"}).truth(0, false);
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  return list_of(runtime, split_lines(text, keep));
}

template <bool from_right>
Value partition(Runtime& runtime, Value self, const Arguments& arguments) {
  const std::string_view separator = Bound("partition", arguments, {"sep"}, 1).text(0);
  if (separator.empty()) fail("partition() needs a separator that is not empty");
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
  std::string_view before = text, middle, after;
  if (at != kNone) {
    before = text.substr(0, at);
    middle = separator;
    after = text.substr(at + separator.size());
  } else if (from_right) {
    std::swap(before, after);
  }
  Value* items = runtime.arena.make_array<Value>(3);
  items[0] = Value::string(before);
  items[1] = Value::string(middle);
  items[2] = Value::string(after);
  return Value::tuple({items, 3});
}

// The part of a text that start and end arguments select, and where it begins, in bytes. Invalid if start is past the
// end.
struct Part {
  std::string_view text;
  std::size_t begin;
  bool valid;
};
Part selected(std::string_view text, const Bound& bound, std::size_t first) {
  const auto given = [&](std::size_t i) { return bound.has(i) && !bound[i].is_none(); };
  if (!given(first) && !given(first + 1)) return {text, 0, true};
  const auto size = static_cast<std::int64_t>(code_points_count(text));
  const auto place = [&](std::size_t i, std::int64_t otherwise) {
    if (!given(i)) return otherwise;
    const std::int64_t index = bound.integer(i, 0);
    return index < 0 ? std::max<std::int64_t>(0, index + size) : index;
  };
  const std::int64_t start = place(first, 0), end = std::min(place(first + 1, size), size);
  if (start > end) return {{}, 0, false};
  const std::size_t from = byte_offset(text, static_cast<std::size_t>(start));
  const std::size_t to = byte_offset(text, static_cast<std::size_t>(end));
  return {text.substr(from, to - from), from, true};
}

template <bool at_end>
Value has_affix(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound(at_end ? "endswith" : "startswith", arguments, {"prefix", "start", "end"}, 1);
  const Part part = selected(self.as_string(), bound, 1);
  const auto matches = [&](Value affix) {
    runtime.charge();
    if (affix.is_undefined()) fail_undefined(affix);
    if (!affix.is_string()) fail("startswith() and endswith() need strings, not '{}'", type_name(affix));
    return part.valid && (at_end ? part.text.ends_with(affix.as_string()) : part.text.starts_with(affix.as_string()));
  };
  if (!bound[0].is(Kind::kTuple)) return Value::boolean(matches(bound[0]));
  const auto affixes = bound[0].as_items();
  return Value::boolean(std::any_of(affixes.begin(), affixes.end(), matches));
}

template <bool from_right, bool must_exist>
Value find_text(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound(must_exist ? "index" : "find", arguments, {"sub", "start", "end"}, 1);
  const std::string_view text = self.as_string();
  runtime.charge_bytes(text.size());
  const Part part = selected(text, bound, 1);
  const std::size_t at = !part.valid  ? kNone
                         : from_right ? part.text.rfind(bound.text(0))
                                      : part.text.find(bound.text(0));
  if (at != kNone) return Value::int64(static_cast<std::int64_t>(code_points_count(text.substr(0, part.begin + at))));
  if (must_exist) fail("the substring '{}' is not found", bound.text(0).substr(0, 80));
  return Value::int64(-1);
}

Value count_text(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("count", arguments, {"sub", "start", "end"}, 1);
  runtime.charge_bytes(self.size());
  const Part part = selected(self.as_string(), bound, 1);
  const std::string_view sub = bound.text(0);
  if (!part.valid) return Value::int64(0);
  if (sub.empty()) return Value::int64(static_cast<std::int64_t>(code_points_count(part.text)) + 1);
  std::int64_t count = 0;
  for (std::size_t at = part.text.find(sub); at != kNone; at = part.text.find(sub, at + sub.size())) ++count;
  return Value::int64(count);
}

Value replace(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  return replace_text(runtime, self.as_string(), bound.text(0), bound.text(1), bound.integer(2, -1));
}

Value join(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("join", arguments, {"iterable"}, 1);
  std::string joined;
  bool first = true;
  for (const Value item : items_of(runtime, bound[0])) {
    runtime.charge();
    if (!item.is_string()) fail("join() needs strings, not '{}'", type_name(item));
    if (!first) joined += self.as_string();
    first = false;
    joined += item.as_string();
    if (joined.size() > runtime.limits.memory_bytes_max) exhausted("the text that join() makes is too long");
  }
  return runtime.copy(joined);
}

Value format(Runtime& runtime, Value self, const Arguments& arguments) {
  return brace_format(runtime, self.as_string(), arguments);
}

// Padding to a width: `left` gets the part of the missing characters that goes in front.
template <std::int64_t (*Left)(std::int64_t missing, std::int64_t width)>
Value justify(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("just", arguments, {"width", "fillchar"}, 1);
  const std::string_view fill = bound.text(1, " ");
  if (code_points_count(fill) != 1) fail("the fill of center(), ljust() and rjust() must be one character");
  const std::int64_t width = bound.integer(0, 0);
  const std::int64_t missing = width - static_cast<std::int64_t>(length(self));
  if (missing <= 0) return self;
  const std::int64_t left = Left(missing, width);
  const Value before = repeat(runtime, Value::string(fill), left);
  const Value after = repeat(runtime, Value::string(fill), missing - left);
  return arithmetic(runtime, Operator::kAdd, arithmetic(runtime, Operator::kAdd, before, self), after);
}
std::int64_t left_of_center(std::int64_t missing, std::int64_t width) { return missing / 2 + (missing & width & 1); }
std::int64_t left_of_ljust(std::int64_t, std::int64_t) { return 0; }
std::int64_t left_of_rjust(std::int64_t missing, std::int64_t) { return missing; }

Value zfill(Runtime& runtime, Value self, const Arguments& arguments) {
  const std::int64_t width = Bound("zfill", arguments, {"width"}, 1).integer(0, 0);
  const std::int64_t missing = width - static_cast<std::int64_t>(length(self));
  if (missing <= 0) return self;
  const std::string_view text = self.as_string();
  const std::size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const Value zeros = repeat(runtime, Value::string("0"), missing);
  const Value head = arithmetic(runtime, Operator::kAdd, Value::string(text.substr(0, sign)), zeros);
  return arithmetic(runtime, Operator::kAdd, head, Value::string(text.substr(sign)));
}

Value expand_tabs(Runtime& runtime, Value self, const Arguments& arguments) {
  const std::int64_t size = Bound("expandtabs", arguments, {"tabsize"}).integer(0, 8);
  if (size > 1024) exhausted("a tab of {} columns is too wide", size);
  std::string out;
  std::int64_t column = 0;
  const std::string_view text = self.as_string();
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t begin = position;
    const char32_t c = next_code_point(text, position);
    if (c == '\t') {
      const std::int64_t blanks = size > 0 ? size - column % size : 0;
      out.append(static_cast<std::size_t>(blanks), ' ');
      column += blanks;
      continue;
    }
    out += text.substr(begin, position - begin);
    column = c == '\n' || c == '\r' ? 0 : column + 1;
  }
  return runtime.copy(out);
}

Value format_map(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("format_map", arguments, {"mapping"}, 1);
  if (!bound[0].is(Kind::kDict)) fail("format_map() needs a mapping, not '{}'", type_name(bound[0]));
  std::vector<Keyword> named;
  const Dict& dict = *bound[0].as<Dict>();
  for (std::uint32_t i = 0; i < dict.size; ++i)
    if (dict.keys[i].is_string()) named.push_back({dict.keys[i].as_string(), dict.values[i]});
  return brace_format(runtime, self.as_string(), {{}, named});
}

Value refused(Runtime&, Value, const Arguments&) {
  fail("encode(), translate() and maketrans() are not available in chat templates");
}

constexpr BuiltinEntry kMethods[] = {
    {"strip", strip<Side::kBoth>},
    {"split", split<false>},
    {"startswith", has_affix<false>},
    {"endswith", has_affix<true>},
    {"replace", replace},
    {"lstrip", strip<Side::kLeft>},
    {"rstrip", strip<Side::kRight>},
    {"upper", convert<to_upper>},
    {"lower", convert<to_lower>},
    {"join", join},
    {"format", format},
    {"find", find_text<false, false>},
    {"rfind", find_text<true, false>},
    {"index", find_text<false, true>},
    {"rindex", find_text<true, true>},
    {"count", count_text},
    {"rsplit", split<true>},
    {"splitlines", splitlines},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
    {"title", convert<to_title>},
    {"capitalize", convert<to_capitalized>},
    {"swapcase", convert<swap_case>},
    {"casefold", convert<case_fold>},
    {"isdigit", all_are<is_digit>},
    {"isdecimal", all_are<is_decimal>},
    {"isnumeric", all_are<is_numeric>},
    {"isalpha", all_are<is_alphabetic>},
    {"isalnum", all_are<is_alphanumeric>},
    {"isspace", all_are<is_space>},
    {"isascii", is_ascii},
    {"isprintable", is_printable_text},
    {"isidentifier", is_identifier_text},
    {"isupper", has_case<is_upper, is_lower>},
    {"islower", has_case<is_lower, is_upper>},
    {"istitle", is_title_text},
    {"center", justify<left_of_center>},
    {"ljust", justify<left_of_ljust>},
    {"rjust", justify<left_of_rjust>},
    {"zfill", zfill},
    {"expandtabs", expand_tabs},
    {"encode", refused},
    {"translate", refused},
    {"maketrans", refused},
    {"format_map", format_map},
};

}  // namespace

Value replace_text(Runtime& runtime, std::string_view text, std::string_view old_text, std::string_view new_text,
                   std::int64_t count) {
  runtime.charge_bytes(text.size());
  std::string out;
  std::size_t begin = 0;
  const auto check = [&] {
    if (out.size() > runtime.limits.memory_bytes_max) exhausted("the text that replace() makes is too long");
  };
  if (old_text.empty()) {
    // Between all characters and at both ends.
    for (; count != 0 && begin <= text.size(); --count) {
      out += new_text;
      check();
      if (begin == text.size()) return runtime.copy(out);
      const std::size_t from = begin;
      next_code_point(text, begin);
      out += text.substr(from, begin - from);
    }
    out += text.substr(std::min(begin, text.size()));
    return runtime.copy(out);
  }
  for (; count != 0; --count) {
    const std::size_t at = text.find(old_text, begin);
    if (at == kNone) break;
    out += text.substr(begin, at - begin);
    out += new_text;
    check();
    begin = at + old_text.size();
  }
  if (begin == 0) return Value::string(text);
  out += text.substr(begin);
  return runtime.copy(out);
}

std::span<const BuiltinEntry> string_methods() { return kMethods; }

}  // namespace tandem::model::jinja

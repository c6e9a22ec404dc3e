// Filters that make text. Like jinja2's, most take str() of what they get.
#include <algorithm>
#include <vector>

#include "model/template/builtins.h"
#include "model/template/error.h"
#include "model/template/operations.h"
#include "model/template/text.h"

namespace tandem::model::jinja {
namespace {

template <std::string (*Convert)(std::string_view)>
Value convert(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("filter", arguments, {});
  return runtime.copy(Convert(to_text(runtime, self)));
}

// Capitals after spaces, hyphens and opening brackets: not where str.title puts them.
std::string title_words(std::string_view text) {
  std::string out;
  const auto separates = [](char32_t c) {
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  for (std::size_t position = 0; position < text.size();) {
    std::size_t after_first = position;
    if (separates(next_code_point(text, after_first))) {
      out += text.substr(position, after_first - position);
      position = after_first;
      continue;
    }
    std::size_t end = after_first;
    for (std::size_t next = end; next < text.size(); end = next)
      if (separates(next_code_point(text, next))) break;
    out += to_upper(text.substr(position, after_first - position));
    out += to_lower(text.substr(after_first, end - after_first));
    position = end;
  }
  return out;
}

Value to_string(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("string", arguments, {});
  return self.is_string() ? self : Value::string(to_text(runtime, self));
}

Value trim(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("trim", arguments, {"chars"});
  const std::string_view text = to_text(runtime, self);
  runtime.charge_bytes(text.size());
  const bool chars = bound.has(0) && !bound[0].is_none();
  return Value::string(chars ? strip_chars(text, bound.text(0), Side::kBoth) : strip_space(text, Side::kBoth));
}

Value replace(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const std::int64_t count = bound.has(2) && !bound[2].is_none() ? bound.integer(2, -1) : -1;
  return replace_text(runtime, to_text(runtime, self), to_text(runtime, bound[0]), to_text(runtime, bound[1]), count);
}

Value center(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("center", arguments, {"width"});
  const Value width = Value::int64(bound.integer(0, 80));
  return find_method(Kind::kString, "center")(runtime, Value::string(to_text(runtime, self)), {{&width, 1}, {}});
}

Value format(Runtime& runtime, Value self, const Arguments& arguments) {
  if (!arguments.named.empty() && !arguments.positional.empty())
    fail("format takes positional or named arguments, not both");
  Value values = Value::tuple(arguments.positional);
  if (!arguments.named.empty()) {
    const std::size_t count = arguments.named.size();
    Value* keys = runtime.arena.make_array<Value>(count);
    Value* items = runtime.arena.make_array<Value>(count);
    for (std::size_t i = 0; i < count; ++i) {
      keys[i] = Value::string(arguments.named[i].name);
      items[i] = arguments.named[i].value;
    }
    values = make_dict(runtime, {keys, count}, {items, count});
  }
  return percent_format(runtime, to_text(runtime, self), values);
}

Value indent(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  if (self.is_undefined()) fail_undefined(self);
  if (!self.is_string()) fail("indent needs a string, not '{}'", type_name(self));
  const std::string_view margin = bound.has(0) && bound[0].is_string()
                                      ? bound[0].as_string()
                                      : repeat(runtime, Value::string(" "), bound.integer(0, 4)).as_string();
  const bool first = bound.truth(1, false), blank = bound.truth(2, false);
  const std::string text = std::string(self.as_string()) + "\n";
  std::string out;
  bool is_first = true;
  for (const std::string_view line : split_lines(text, false)) {
    if (!is_first) out += '\n';
    if (is_first ? first : blank || !line.empty()) out += margin;
    is_first = false;
    out += line;
    if (out.size() > runtime.limits.memory_bytes_max) exhausted("the text that indent makes is too long");
  }
  return runtime.copy(out);
}

Value truncate(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const std::string_view end = bound.text(2, "...");
  const std::int64_t size = bound.integer(0, 255);
  const std::int64_t leeway = bound.has(3) && !bound[3].is_none() ? bound.integer(3, 5) : 5;
  const std::int64_t kept = size - static_cast<std::int64_t>(code_points_count(end));
  if (kept < 0) fail("truncate to {} characters leaves no room for '{}'", size, end);
  if (leeway < 0) fail("the leeway of truncate cannot be negative");
  if (static_cast<std::int64_t>(length(self)) <= size + leeway) return self;
  if (!self.is_string()) fail("truncate needs a string, not '{}'", type_name(self));
  std::string_view text = self.as_string();
  text = text.substr(0, byte_offset(text, static_cast<std::size_t>(kept)));
  if (!bound.truth(1, false)) text = text.substr(0, std::min(text.rfind(' '), text.size()));
  return runtime.copy(std::string(text) + std::string(end));
}

Value word_count(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("wordcount", arguments, {});
  const std::string_view text = to_text(runtime, self);
  std::int64_t count = 0;
  bool inside = false;
  for (std::size_t position = 0; position < text.size();) {
    const bool word = is_word(next_code_point(text, position));
    count += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::int64(count);
}

std::string quote_url(std::string_view text, bool in_query) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !in_query);
    if (plain)
      out += c;
    else if (c == ' ' && in_query)
      out += '+';
    else
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

Value url_encode(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("urlencode", arguments, {});
  if (self.is_string() || !is_iterable(self)) return runtime.copy(quote_url(to_text(runtime, self), false));
  const auto pairs = self.is(Kind::kDict) ? dict_items(runtime, *self.as<Dict>()) : items_of(runtime, self);
  std::string out;
  for (const Value item : pairs) {
    const auto pair = items_of(runtime, item);
    if (pair.size() != 2) fail("urlencode needs pairs of key and value");
    if (!out.empty()) out += '&';
    out += quote_url(to_text(runtime, pair[0]), true) + '=' + quote_url(to_text(runtime, pair[1]), true);
  }
  return runtime.copy(out);
}

Value escape_filter(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("escape", arguments, {});
  return escape(runtime, self);
}

Value force_escape(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("forceescape", arguments, {});
  return escape(runtime, Value::string(to_text(runtime, self)));
}

Value mark_safe(Runtime& runtime, Value self, const Arguments& arguments) {
  Bound("safe", arguments, {});
  return Value::markup(to_text(runtime, self));
}

Value to_json(Runtime& runtime, Value self, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii_only = bound.truth(0, false);
  style.indented = bound.has(1) && !bound[1].is_none();
  if (style.indented)
    style.indent = bound[1].is_string() ? bound[1].as_string()
                                        : repeat(runtime, Value::string(" "), bound.integer(1, 0)).as_string();
  style.item_separator = style.indented ? "," : ", ";
  style.key_separator = ": ";
  if (bound.has(2) && !bound[2].is_none()) {
    const auto separators = items_of(runtime, bound[2]);
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string())
      fail("the separators of tojson must be two strings: (', ', ': ')");
    style.item_separator = separators[0].as_string();
    style.key_separator = separators[1].as_string();
  }
  style.sort_keys = bound.truth(3, false);
  std::string out;
  append_json(runtime, out, self, style);
  return runtime.copy(out);
}

Value refused(Runtime&, Value, const Arguments&) {
  fail(
      "the filters pprint, random, striptags, urlize, wordwrap, filesizeformat and xmlattr are not available in chat "
      "templates");
}

constexpr BuiltinEntry kFilters[] = {
    {"tojson", to_json},
    {"trim", trim},
    {"string", to_string},
    {"upper", convert<to_upper>},
    {"lower", convert<to_lower>},
    {"capitalize", convert<to_capitalized>},
    {"title", convert<title_words>},
    {"replace", replace},
    {"indent", indent},
    {"format", format},
    {"center", center},
    {"truncate", truncate},
    {"wordcount", word_count},
    {"urlencode", url_encode},
    {"e", escape_filter},
    {"escape", escape_filter},
    {"forceescape", force_escape},
    {"safe", mark_safe},
    {"pprint", refused},
    {"random", refused},
    {"striptags", refused},
    {"urlize", refused},
    {"wordwrap", refused},
    {"filesizeformat", refused},
    {"xmlattr", refused},
};

}  // namespace

std::span<const BuiltinEntry> text_filters() { return kFilters; }

}  // namespace tandem::model::jinja

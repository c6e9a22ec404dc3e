#include "engine/grammar/json_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/grammar/number_range.h"
#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

constexpr int kIndentMax = 40;

struct ShortEscape {
  char32_t character;
  char letter;
};
constexpr ShortEscape kShortEscapes[] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                         {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};

const CodePoints& escaped_characters() {
  static const CodePoints kSet = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  return kSet;
}

char hex_digit(std::uint32_t value) { return "0123456789abcdef"[value & 15]; }

std::string escape_of(char32_t c) {
  for (const ShortEscape& escape : kShortEscapes)
    if (escape.character == c) return {'\\', escape.letter};
  return {'\\', 'u', '0', '0', hex_digit(c >> 4), hex_digit(c)};
}

void append_string(std::string& out, std::string_view utf8) {
  out += '"';
  for (const char32_t c : characters_of(utf8)) {
    if (escaped_characters().contains(c)) {
      out += escape_of(c);
    } else {
      model::utf8_append(out, c);
    }
  }
  out += '"';
}

void append_value(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: out += "null"; break;
    case json::kind::bool_: out += value.get_bool() ? "true" : "false"; break;
    case json::kind::int64: out += fmt::format("{}", value.get_int64()); break;
    case json::kind::uint64: out += fmt::format("{}", value.get_uint64()); break;
    case json::kind::double_: {
      const double number = value.get_double();
      const bool whole = std::abs(number) < 1e15 && number == std::floor(number);
      out += whole ? fmt::format("{}", static_cast<std::int64_t>(number)) : fmt::format("{}", number);
      break;
    }
    case json::kind::string: append_string(out, value.get_string()); break;
    case json::kind::array: {
      const char* separator = "";
      out += '[';
      for (const json::value& item : value.get_array()) {
        out += separator;
        append_value(out, item);
        separator = ",";
      }
      out += ']';
      break;
    }
    case json::kind::object: {
      const char* separator = "";
      out += '{';
      for (const auto& [key, member] : value.get_object()) {
        out += separator;
        append_string(out, key);
        out += ':';
        append_value(out, member);
        separator = ",";
      }
      out += '}';
      break;
    }
  }
}

ByteRange range(char low, char high) { return {static_cast<std::uint8_t>(low), static_cast<std::uint8_t>(high)}; }

// From `from`, one hexadecimal digit of either case, from `low` to `high`.
void add_hex(Nfa& nfa, NfaState from, NfaState to, int low, int high) {
  if (low <= 9)
    nfa.add_bytes(from, to, range(static_cast<char>('0' + low), static_cast<char>('0' + std::min(high, 9))));
  if (high < 10) return;
  const int first = std::max(low, 10) - 10, last = high - 10;
  nfa.add_bytes(from, to, range(static_cast<char>('a' + first), static_cast<char>('a' + last)));
  nfa.add_bytes(from, to, range(static_cast<char>('A' + first), static_cast<char>('A' + last)));
}

}  // namespace

RuleId JsonRules::space() {
  if (space_) return *space_;
  space_ = nfa_.add_rule("white space", true);
  const NfaState start = nfa_.start(*space_), end = nfa_.end(*space_);
  nfa_.add_empty(start, end);
  nfa_.add_byte(start, end, ' ');
  NfaState at = nfa_.add_state();
  nfa_.add_byte(start, at, '\n');
  for (int i = 0; i < kIndentMax; ++i) {
    nfa_.add_empty(at, end);
    const NfaState next = nfa_.add_state();
    nfa_.add_byte(at, next, ' ');
    at = next;
  }
  nfa_.add_empty(at, end);
  return *space_;
}

NfaState JsonRules::add_colon(NfaState from) {
  const NfaState colon = nfa_.add_state(), to = nfa_.add_state();
  nfa_.add_byte(from, colon, ':');
  nfa_.add_empty(colon, to);
  nfa_.add_byte(colon, to, ' ');
  return to;
}

NfaState JsonRules::add_comma(NfaState from) {
  const NfaState comma = nfa_.add_state();
  nfa_.add_byte(from, comma, ',');
  return nfa_.add_call(comma, space());
}

void JsonRules::add_character(NfaState from, NfaState to, const CodePoints& set) {
  nfa_.add_chars(from, to, set.minus(escaped_characters()));
  const CodePoints escaped = set.intersection(escaped_characters());
  std::vector<std::string> escapes;
  for (const CodeRange& each : escaped.ranges())
    for (char32_t c = each.first; c <= each.last; ++c) escapes.push_back(escape_of(c));
  if (!escapes.empty()) nfa_.add_choices(from, to, std::move(escapes));
}

// Any escape will do: also \/ and \uHHHH for characters that need none.
void JsonRules::add_any_character(NfaState from, NfaState to) {
  nfa_.add_chars(from, to, escaped_characters().complement());
  const NfaState backslash = nfa_.add_state(), u = nfa_.add_state();
  nfa_.add_byte(from, backslash, '\\');
  nfa_.add_byte(backslash, to, '/');
  for (const ShortEscape& escape : kShortEscapes) nfa_.add_byte(backslash, to, escape.letter);
  nfa_.add_byte(backslash, u, 'u');

  const NfaState one_left = nfa_.add_state(), two_left = nfa_.add_state(), three_left = nfa_.add_state();
  add_hex(nfa_, u, three_left, 0, 12);
  add_hex(nfa_, u, three_left, 14, 15);
  add_hex(nfa_, three_left, two_left, 0, 15);
  add_hex(nfa_, two_left, one_left, 0, 15);
  add_hex(nfa_, one_left, to, 0, 15);
  const NfaState d = nfa_.add_state();
  add_hex(nfa_, u, d, 13, 13);
  add_hex(nfa_, d, two_left, 0, 7);
  const NfaState high_two = nfa_.add_state(), high_one = nfa_.add_state(), high = nfa_.add_state();
  add_hex(nfa_, d, high_two, 8, 11);
  add_hex(nfa_, high_two, high_one, 0, 15);
  add_hex(nfa_, high_one, high, 0, 15);
  const NfaState low = nfa_.add_literal(high, "\\u"), low_d = nfa_.add_state();
  add_hex(nfa_, low, low_d, 13, 13);
  add_hex(nfa_, low_d, two_left, 12, 15);
}

RuleId JsonRules::string() {
  if (string_) return *string_;
  string_ = nfa_.add_rule("a string", true);
  const NfaState inside = nfa_.add_state();
  nfa_.add_byte(nfa_.start(*string_), inside, '"');
  add_any_character(inside, inside);
  nfa_.add_byte(inside, nfa_.end(*string_), '"');
  return *string_;
}

RuleId JsonRules::number() {
  if (number_) return *number_;
  number_ = nfa_.add_rule("a number", true);
  add_number(nfa_, nfa_.start(*number_), nfa_.end(*number_), NumberRange());
  return *number_;
}

RuleId JsonRules::value() {
  if (value_) return *value_;
  value_ = nfa_.add_rule("a value", true);
  const NfaState start = nfa_.start(*value_), end = nfa_.end(*value_);
  nfa_.add_choices(start, end, {"null", "true", "false"});
  nfa_.add_call(start, end, string());
  nfa_.add_call(start, end, number());
  nfa_.add_call(start, end, object());
  nfa_.add_call(start, end, array());
  return *value_;
}

RuleId JsonRules::object() {
  if (object_) return *object_;
  object_ = nfa_.add_rule("an object", true);
  const NfaState key = nfa_.add_state(), after = nfa_.add_state();
  nfa_.add_call(add_colon(nfa_.add_call(key, string())), after, value());
  add_brackets(*object_, '{', '}', key, after);
  return *object_;
}

RuleId JsonRules::array() {
  if (array_) return *array_;
  array_ = nfa_.add_rule("an array", true);
  const NfaState item = nfa_.add_state(), after = nfa_.add_state();
  nfa_.add_call(item, after, value());
  add_brackets(*array_, '[', ']', item, after);
  return *array_;
}

// Any number of members, each from `member` to `after`.
void JsonRules::add_brackets(RuleId rule, char open, char close, NfaState member, NfaState after) {
  const NfaState opened = nfa_.add_state(), end = nfa_.end(rule);
  nfa_.add_byte(nfa_.start(rule), opened, open);
  const NfaState first = nfa_.add_call(opened, space());
  nfa_.add_byte(first, end, close);
  nfa_.add_empty(first, member);
  nfa_.add_empty(add_comma(after), member);
  nfa_.add_byte(nfa_.add_call(after, space()), end, close);
}

void JsonRules::add_other_key(NfaState from, NfaState to, const std::vector<std::string>& names) {
  // A trie of the names; whatever leaves it is free, whatever ends within it must not be a name.
  struct Node {
    NfaState state;
    std::map<char32_t, std::size_t> children;
    bool is_name = false;
  };
  std::vector<Node> nodes = {{nfa_.add_state(), {}, false}};
  nfa_.add_byte(from, nodes[0].state, '"');
  for (const std::string& name : names) {
    std::size_t at = 0;
    for (const char32_t c : characters_of(name)) {
      if (!nfa_.budget().ok()) return;
      const auto [child, is_new] = nodes[at].children.try_emplace(c, nodes.size());
      at = child->second;
      if (is_new) nodes.push_back({nfa_.add_state(), {}, false});
    }
    nodes[at].is_name = true;
  }
  const NfaState free = nfa_.add_state();
  add_character(free, free, CodePoints::all());
  nfa_.add_byte(free, to, '"');
  for (const Node& node : nodes) {
    std::vector<CodeRange> followed;
    for (const auto& [c, child] : node.children) {
      add_character(node.state, nodes[child].state, CodePoints::of(c));
      followed.push_back({c, c});
    }
    add_character(node.state, free, CodePoints(std::move(followed)).complement());
    if (!node.is_name) nfa_.add_byte(node.state, to, '"');
  }
}

std::string canonical_json(const json::value& value) {
  std::string text;
  append_value(text, value);
  return text;
}

}  // namespace tandem::engine

#include "engine/grammar/regex.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <set>

#include "engine/grammar/grammar.h"
#include "model/tokenizer/unicode.h"

namespace tandem::engine {
namespace {

// A pattern as a tree of its own, which prints itself and matches by trying everything.
struct Node {
  enum Kind { kChar, kClass, kDot, kSequence, kEither, kRepeat } kind = kChar;
  std::string text;                        // kChar, kClass: as written
  std::function<bool(char32_t)> contains;  // kChar, kClass, kDot
  std::vector<Node> children;
  int times_min = 0, times_max = 0;  // -1: no bound
};

std::string print(const Node& node, std::mt19937& random) {
  std::string out;
  switch (node.kind) {
    case Node::kChar:
    case Node::kClass: return node.text;
    case Node::kDot: return ".";
    case Node::kSequence:
      for (const Node& child : node.children) {
        const std::string inner = print(child, random);
        out += child.kind == Node::kEither ? "(" + inner + ")" : inner;
      }
      return out;
    case Node::kEither:
      for (std::size_t i = 0; i < node.children.size(); ++i)
        out += (i > 0 ? "|" : "") + print(node.children[i], random);
      return out;
    case Node::kRepeat: {
      const Node& child = node.children[0];
      out = print(child, random);
      const bool simple = child.kind == Node::kChar || child.kind == Node::kClass || child.kind == Node::kDot;
      if (!simple) out = (random() % 2 == 0 ? "(?:" : random() % 2 == 0 ? "(" : "(?<n>") + out + ")";
      if (node.times_min == 0 && node.times_max == -1)
        out += "*";
      else if (node.times_min == 1 && node.times_max == -1)
        out += "+";
      else if (node.times_min == 0 && node.times_max == 1)
        out += "?";
      else if (node.times_max == -1)
        out += "{" + std::to_string(node.times_min) + ",}";
      else if (node.times_min == node.times_max)
        out += "{" + std::to_string(node.times_min) + "}";
      else
        out += "{" + std::to_string(node.times_min) + "," + std::to_string(node.times_max) + "}";
      if (random() % 4 == 0) out += "?";
      return out;
    }
  }
  return out;
}

// Where a match that begins at `at` may end.
std::set<std::size_t> ends(const Node& node, const std::u32string& text, std::size_t at) {
  switch (node.kind) {
    case Node::kChar:
    case Node::kClass:
    case Node::kDot: return at < text.size() && node.contains(text[at]) ? std::set{at + 1} : std::set<std::size_t>();
    case Node::kSequence: {
      std::set<std::size_t> now = {at};
      for (const Node& child : node.children) {
        std::set<std::size_t> next;
        for (const std::size_t from : now) next.merge(ends(child, text, from));
        now = next;
      }
      return now;
    }
    case Node::kEither: {
      std::set<std::size_t> all;
      for (const Node& child : node.children) all.merge(ends(child, text, at));
      return all;
    }
    case Node::kRepeat: {
      std::set<std::size_t> now = {at}, all;
      // Beyond as many times as there are characters, more times reach nothing new.
      const int most = node.times_max == -1 ? node.times_min + static_cast<int>(text.size()) + 1 : node.times_max;
      for (int i = 0; i <= most; ++i) {
        if (i >= node.times_min) all.insert(now.begin(), now.end());
        std::set<std::size_t> next;
        for (const std::size_t from : now) next.merge(ends(node.children[0], text, from));
        now = next;
      }
      return all;
    }
  }
  return {};
}

Node leaf(std::mt19937& random) {
  struct Leaf {
    const char* text;
    std::function<bool(char32_t)> contains;
    bool is_class;
  };
  static const std::vector<Leaf> kLeaves = {
      {"a", [](char32_t c) { return c == 'a'; }, false},
      {"b", [](char32_t c) { return c == 'b'; }, false},
      {"é", [](char32_t c) { return c == 0xE9; }, false},
      {"\\u00e9", [](char32_t c) { return c == 0xE9; }, false},
      {"\\x61", [](char32_t c) { return c == 'a'; }, false},
      {"\\uD83D\\uDE00", [](char32_t c) { return c == 0x1F600; }, false},
      {"\\n", [](char32_t c) { return c == '\n'; }, false},
      {"\\.", [](char32_t c) { return c == '.'; }, false},
      {"[ab]", [](char32_t c) { return c == 'a' || c == 'b'; }, true},
      {"[^a]", [](char32_t c) { return c != 'a'; }, true},
      {"[^\\wé]", [](char32_t c) { return c != 'a' && c != 'b' && c != 0xE9; }, true},
      {"[a-é]", [](char32_t c) { return c >= 'a' && c <= 0xE9; }, true},
      {"\\w", [](char32_t c) { return c == 'a' || c == 'b'; }, true},
      {"\\D", [](char32_t) { return true; }, true},
      {"\\s", [](char32_t c) { return c == '\n'; }, true},
  };
  if (random() % 8 == 0) return {Node::kDot, ".", [](char32_t c) { return c != '\n'; }, {}, 0, 0};
  const Leaf& chosen = kLeaves[random() % kLeaves.size()];
  return {chosen.is_class ? Node::kClass : Node::kChar, chosen.text, chosen.contains, {}, 0, 0};
}

Node random_node(std::mt19937& random, int depth) {
  if (depth == 0 || random() % 4 == 0) return leaf(random);
  Node node;
  const unsigned kind = random() % 3;
  node.kind = kind == 0 ? Node::kSequence : kind == 1 ? Node::kEither : Node::kRepeat;
  const unsigned children = node.kind == Node::kRepeat   ? 1
                            : node.kind == Node::kEither ? 1 + random() % 3
                                                         : random() % 4;
  for (unsigned i = 0; i < children; ++i) node.children.push_back(random_node(random, depth - 1));
  node.times_min = static_cast<int>(random() % 3);
  node.times_max = random() % 2 == 0 ? -1 : node.times_min + static_cast<int>(random() % 3);
  return node;
}

std::string utf8(const std::u32string& text) {
  std::string bytes;
  for (const char32_t c : text) model::utf8_append(bytes, c);
  return bytes;
}

std::vector<std::u32string> all_texts(const std::u32string& alphabet, std::size_t length_max) {
  std::vector<std::u32string> texts = {U""};
  for (std::size_t begin = 0, length = 0; length < length_max; ++length) {
    const std::size_t end = texts.size();
    for (std::size_t i = begin; i < end; ++i)
      for (const char32_t c : alphabet) texts.push_back(texts[i] + c);
    begin = end;
  }
  return texts;
}

TEST(Regex, MatchesWhatTryingEverythingMatches) {
  const auto texts = all_texts(U"abé\n😀", 4);
  int matched = 0, nontrivial = 0;
  for (unsigned seed = 0; seed < 250; ++seed) {
    std::mt19937 random(seed);
    const Node node = random_node(random, 3);
    const std::string pattern = print(node, random);
    const auto grammar = Grammar::from_regex(pattern);
    ASSERT_TRUE(grammar.ok()) << pattern << ": " << grammar.status().message();
    const int before = matched;
    for (const std::u32string& text : texts) {
      const bool expected = ends(node, text, 0).contains(text.size());
      matched += expected;
      ASSERT_EQ((*grammar)->matches(utf8(text)), expected) << pattern << " on " << utf8(text);
    }
    nontrivial += matched > before && matched < before + std::ssize(texts);
  }
  EXPECT_GT(nontrivial, 150);
}

// In a schema a pattern is searched for, unless it is anchored; a length stands beside it.
TEST(Regex, SearchedPatternsWithAnchorsAndLengths) {
  const auto texts = all_texts(U"abé\"", 4);
  for (unsigned seed = 0; seed < 120; ++seed) {
    std::mt19937 random(seed + 1000);
    std::string pattern;
    std::vector<std::tuple<Node, bool, bool>> branches;
    for (unsigned i = 0; i < 1 + seed % 3; ++i) {
      const Node node = random_node(random, 2);
      const bool begin = random() % 2 == 0, end = random() % 2 == 0;
      std::string inner = print(node, random);
      if (node.kind == Node::kEither) inner = "(" + inner + ")";
      pattern += (i > 0 ? "|" : "") + std::string(begin ? "^" : "") + inner + (end ? "$" : "");
      branches.emplace_back(node, begin, end);
    }
    if (seed % 4 == 0) pattern = "(" + pattern + ")";
    const std::size_t low = random() % 3, high = low + random() % 3;
    json::object schema = {{"type", "string"}, {"pattern", pattern}};
    if (seed % 2 == 0) schema["minLength"] = low, schema["maxLength"] = high;
    const auto grammar = Grammar::from_json_schema(schema);
    int expected_count = 0;
    for (const std::u32string& text : texts) {
      bool expected = false;
      for (const auto& [node, begin, end] : branches)
        for (std::size_t from = 0; from <= (begin ? 0 : text.size()); ++from)
          for (const std::size_t to : ends(node, text, from)) expected |= !end || to == text.size();
      if (seed % 2 == 0) expected &= text.size() >= low && text.size() <= high;
      expected_count += expected;
      if (!grammar.ok()) continue;
      std::string quoted = "\"";
      for (const char32_t c : text) {
        if (c == '"') quoted += '\\';
        model::utf8_append(quoted, c);
      }
      ASSERT_EQ((*grammar)->matches(quoted + "\""), expected) << to_json_text(schema) << " on " << quoted;
    }
    // Only a pattern that nothing matches is refused.
    ASSERT_TRUE(grammar.ok() || (expected_count == 0 && grammar.code() == StatusCode::kInvalidArgument))
        << to_json_text(schema) << ": " << grammar.status().message();
  }
}

TEST(Regex, EscapesAndClasses) {
  const struct {
    const char* pattern;
    std::vector<std::string> in, out;
  } kCases[] = {
      {"\\t\\r\\f\\v\\0\\/\\-\\$\\^", {std::string("\t\r\f\v\0/-$^", 9)}, {""}},
      {"\\u{1F600}\\u{e9}", {"😀é"}, {"e"}},
      {"[\\]\\\\\\-x-]", {"]", "\\", "-", "x"}, {"[", "y"}},
      {"[-a]", {"-", "a"}, {"b"}},
      {"[a\\-z]", {"a", "-", "z"}, {"m"}},
      {"[\\b]", {"\b"}, {"b"}},
      {"[^]a]", {}, {}},
      {"[]a]", {}, {}},
      {"\\d{2}", {"12"}, {"1", "1a", "१२"}},
      {"\\S\\W", {"a!", "é\n"}, {" !", "aa"}},
      {"a{2}{", {"aa{"}, {"aa"}},
      {"a{,2}", {"a{,2}"}, {"aa"}},
      {"x{", {"x{"}, {"x"}},
      {"{x}", {"{x}"}, {"x"}},
      {"}]", {"}]"}, {}},
      {"^abc$", {"abc"}, {"^abc$", "xabc"}},
      {"\\Aabc\\Z", {"abc"}, {}},
      {"(^a|b$)", {"a", "b"}, {"ab"}},
      {"^^a$$", {"a"}, {}},
      {"^", {""}, {"a"}},
      {"", {""}, {"a"}},
      {"(|a)(b|)", {"", "a", "b", "ab"}, {"ba"}},
      {"(?P<year>\\d)", {"1"}, {}},
      {"a*?b+?c??", {"aabb", "bc"}, {"a"}},
      {"日本|[あ-ん]", {"日本", "か"}, {"日", "カ"}},
  };
  for (const auto& each : kCases) {
    const auto grammar = Grammar::from_regex(each.pattern);
    if (each.in.empty() && each.out.empty()) {
      EXPECT_FALSE(grammar.ok()) << each.pattern;
      continue;
    }
    ASSERT_TRUE(grammar.ok()) << each.pattern << ": " << grammar.status().message();
    for (const std::string& text : each.in) EXPECT_TRUE((*grammar)->matches(text)) << each.pattern << " on " << text;
    for (const std::string& text : each.out) EXPECT_FALSE((*grammar)->matches(text)) << each.pattern << " on " << text;
  }
}

TEST(Regex, RefusesByName) {
  const std::pair<const char*, const char*> kCases[] = {
      {"(?=a)", "lookahead"},
      {"(?!a)b", "lookahead"},
      {"(?<=a)b", "lookbehind"},
      {"(?<!a)b", "lookbehind"},
      {"(a)\\1", "backref"},
      {"(?P=n)", "backref"},
      {"\\k<n>", "backref"},
      {"(?i)a", "flags"},
      {"(?-i:a)", "flags"},
      {"(?>a)", "atomic"},
      {"a*+", "possessive"},
      {"a{2}+", "possessive"},
      {"\\bword\\b", "\\b"},
      {"\\p{L}", "\\p"},
      {"[[:alpha:]]", "POSIX"},
      {"(?#x)", "comments"},
      {"(?(1)a)", "condition"},
      {"a**", "repetition of"},
      {"a{2}{3}", "repetition of"},
      {"*a", "nothing to repeat"},
      {"a|*", "nothing to repeat"},
      {"{3}", "nothing to repeat"},
      {"(a", "never closed"},
      {"(?:a", "never closed"},
      {"[a", "never closed"},
      {"a)", "closes no group"},
      {"[]", "empty"},
      {"[z-a]", "wrong way"},
      {"[a-\\d]", "no end of a range"},
      {"a{3,2}", "swap"},
      {"\\", "ends in a"},
      {"[\\", "ends in a"},
      {"\\q", "\\q"},
      {"\\x1", "hexadecimal"},
      {"\\ud800", "surrogates"},
      {"\\udc00", "surrogates"},
      {"\\ud800\\u0041", "surrogates"},
      {"\\u{110000}", "no Unicode character"},
      {"\\u{41", "lacks"},
      {"\\u{}", "hexadecimal"},
      {"\\01", "octal"},
      {"a^b", "'^'"},
      {"a$b", "'$'"},
      {"(a$)b", "'$'"},
      {"^*", "anchor"},
      {"(^a)*", "anchor"},
      {"(?<n", "name"},
      {"\xff", "UTF-8"},
      {"a\xc3", "UTF-8"},
  };
  for (const auto& [pattern, word] : kCases) {
    const auto grammar = Grammar::from_regex(pattern);
    ASSERT_FALSE(grammar.ok()) << pattern;
    EXPECT_EQ(grammar.code(), StatusCode::kInvalidArgument) << pattern;
    EXPECT_NE(grammar.status().message().find(word), std::string::npos)
        << pattern << ": " << grammar.status().message();
  }
}

}  // namespace
}  // namespace tandem::engine

#include "engine/grammar/gbnf.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "engine/grammar/grammar.h"

namespace tandem::engine {
namespace {

// A random grammar over a and b: each rule a list of alternatives, each a list of symbols: 'a', 'b' or a rule's number.
struct Naive {
  std::vector<std::vector<std::vector<int>>> rules;  // symbols: -1 a, -2 b, else a rule

  std::string print() const {
    std::string out;
    for (std::size_t r = 0; r < rules.size(); ++r) {
      out += (r == 0 ? "root" : "r" + std::to_string(r)) + " ::= ";
      for (std::size_t i = 0; i < rules[r].size(); ++i) {
        out += i > 0 ? " | " : "";
        if (rules[r][i].empty()) out += "\"\"";
        for (const int symbol : rules[r][i])
          out += symbol == -1   ? "\"a\" "
                 : symbol == -2 ? "[b] "
                 : symbol == 0  ? "root "
                                : "r" + std::to_string(symbol) + " ";
      }
      out += "\n";
    }
    return out;
  }

  // By filling a table of (rule, begin, end) until nothing changes: any grammar, left recursion and all.
  bool matches(const std::string& text) const {
    const std::size_t n = text.size();
    std::set<std::tuple<std::size_t, std::size_t, std::size_t>> known;
    for (bool grew = true; grew;) {
      grew = false;
      for (std::size_t r = 0; r < rules.size(); ++r)
        for (std::size_t begin = 0; begin <= n; ++begin)
          for (const auto& alternative : rules[r]) {
            std::set<std::size_t> at = {begin};
            for (const int symbol : alternative) {
              std::set<std::size_t> next;
              for (const std::size_t from : at) {
                if (symbol < 0 && from < n && text[from] == (symbol == -1 ? 'a' : 'b')) next.insert(from + 1);
                for (std::size_t to = from; symbol >= 0 && to <= n; ++to)
                  if (known.contains({static_cast<std::size_t>(symbol), from, to})) next.insert(to);
              }
              at = next;
            }
            for (const std::size_t end : at) grew |= known.insert({r, begin, end}).second;
          }
    }
    return known.contains({0, 0, n});
  }
};

std::vector<std::string> all_texts(std::size_t length_max) {
  std::vector<std::string> texts = {""};
  for (std::size_t i = 0; texts[i].size() < length_max; ++i) {
    texts.push_back(texts[i] + "a");
    texts.push_back(texts[i] + "b");
  }
  return texts;
}

TEST(Gbnf, MatchesWhatFillingATableMatches) {
  const auto texts = all_texts(5);
  int compiled = 0, nontrivial = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    Naive naive;
    naive.rules.resize(1 + random() % 4);
    for (auto& rule : naive.rules) {
      rule.resize(1 + random() % 3);
      for (auto& alternative : rule) {
        alternative.resize(random() % 4);
        for (int& symbol : alternative)
          symbol =
              random() % 5 < 3 ? -1 - static_cast<int>(random() % 2) : static_cast<int>(random() % naive.rules.size());
      }
    }
    const auto grammar = Grammar::from_gbnf(naive.print());
    int matched = 0;
    if (!grammar.ok()) {
      // Left recursion, or no text at all.
      ASSERT_EQ(grammar.code(), StatusCode::kInvalidArgument) << grammar.status().message();
      const bool left = grammar.status().message().find("left recursion") != std::string::npos;
      for (const std::string& text : texts) ASSERT_TRUE(left || !naive.matches(text)) << naive.print();
      continue;
    }
    compiled += 1;
    for (const std::string& text : texts) {
      const bool expected = naive.matches(text);
      matched += expected;
      ASSERT_EQ((*grammar)->matches(text), expected) << naive.print() << " on " << text;
    }
    nontrivial += matched > 1 && matched < std::ssize(texts);
  }
  EXPECT_GT(compiled, 120);
  EXPECT_GT(nontrivial, 60);
}

TEST(Gbnf, Notation) {
  const struct {
    const char* source;
    std::vector<std::string> in, out;
  } kCases[] = {
      {"# a list\nroot ::= (\"- \" item)+\nitem ::= [^\\n]{1,3} \"\\n\" # an item",
       {"- a\n", "- a\n- éé\n"},
       {"", "- \n", "- abcd\n"}},
      {"root ::= \"x\" |\n  \"y\" |\n\n \"z\"", {"x", "y", "z"}, {"w"}},
      {"root ::= \"x\"\n  | \"y\"\n\nother ::= \"z\"\n", {"x", "y"}, {"z"}},
      {"root ::= (\n \"a\"\n # comment\n \"b\" )\n", {"ab"}, {"a"}},
      {"root ::= a-1 b_2 C3\r\na-1::=\"a\"\r\nb_2 ::= \"b\"?\r\nC3 ::= \"c\"*\r\n", {"a", "abcc"}, {"bc"}},
      {"root ::= \"\\x41\\u00e9\\U0001F600\\t\\\"\\\\\\[\\]\"", {"Aé😀\t\"\\[]"}, {"A"}},
      {"root ::= [a-c\\-\\]x-]+", {"abc-]x"}, {"d"}},
      {"root ::= [^a-z] .", {"A\n", "é😀"}, {"ab", "A"}},
      {"root ::= [\"]\"\"[^\"]", {"\"a"}, {"\"\""}},
      {"root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} \"d\" { 1 , 2 }", {"aabd", "aabbbccdd"}, {"abd", "aabcccd", "aabddd"}},
      {"root ::= \"\" | \"a\" root", {"", "aaa"}, {"b"}},
      {"root ::= \"a\" root \"b\" | \"ab\"", {"ab", "aaabbb"}, {"aab", ""}},
      {"root ::=\n\"a\"", {"a"}, {}},
      {"root ::= \"a\n\"", {"a\n"}, {}},
  };
  for (const auto& each : kCases) {
    const auto grammar = Grammar::from_gbnf(each.source);
    ASSERT_TRUE(grammar.ok()) << each.source << ": " << grammar.status().message();
    for (const std::string& text : each.in) EXPECT_TRUE((*grammar)->matches(text)) << each.source << " on " << text;
    for (const std::string& text : each.out) EXPECT_FALSE((*grammar)->matches(text)) << each.source << " on " << text;
  }
}

TEST(Gbnf, RefusesByName) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "no rule 'root'"},
      {"# nothing", "no rule 'root'"},
      {"start ::= \"a\"", "no rule 'root'"},
      {"root ::= item", "'item'"},
      {"root ::= \"a\"\nroot ::= \"b\"", "twice"},
      {"root ::= root \"a\" | \"b\"", "left recursion"},
      {"root ::= x \"a\" | \"b\"\nx ::= y\ny ::= \"c\"? root", "left recursion"},
      {"root ::= e root | \"b\"\ne ::= \"a\"*", "left recursion"},
      {"root ::= \"a\" root", "cannot end"},
      {"root ::= x \"a\"\nx ::= \"b\" x", "cannot end"},
      {"root = \"a\"", "::="},
      {"::= \"a\"", "name"},
      {"root ::= (\"a\"", "never closed"},
      {"root ::= \"a\")", "closes no group"},
      {"root ::= \"a", "never closed"},
      {"root ::= [a", "never closed"},
      {"root ::= [a-", "never closed"},
      {"root ::= []", "empty"},
      {"root ::= [^]", "any character"},
      {"root ::= [z-a]", "wrong way"},
      {"root ::= *", "nothing to repeat"},
      {"root ::= \"a\"**", "repetition of"},
      {"root ::= \"a\"{2}?", "repetition of"},
      {"root ::= \"a\"{x}", "{m}"},
      {"root ::= \"a\"{3,2}", "swap"},
      {"root ::= <think>", "tokens"},
      {"root ::= !<[12]>", "tokens"},
      {"root ::= \"\\q\"", "escape"},
      {"root ::= \"\\uD800\"", "no Unicode character"},
      {"root ::= \"\\U00110000\"", "no Unicode character"},
      {"root ::= \"\\x4\"", "hexadecimal"},
      {"root ::= \"a\" ; \"b\"", "expected"},
      {"root ::= \"\xff\"", "UTF-8"},
  };
  for (const auto& [source, word] : kCases) {
    const auto grammar = Grammar::from_gbnf(source);
    ASSERT_FALSE(grammar.ok()) << source;
    EXPECT_EQ(grammar.code(), StatusCode::kInvalidArgument) << source;
    EXPECT_NE(grammar.status().message().find(word), std::string::npos) << source << ": " << grammar.status().message();
    EXPECT_EQ(grammar.status().message().find('\n'), std::string::npos);
  }
}

// Calls nest no deeper than the stack, and whatever began can still end.
TEST(Gbnf, NestingIsBoundedWithoutDeadEnds) {
  const auto grammar =
      Grammar::from_gbnf("root ::= \"(\" item \")\" | \"x\"\nitem ::= inner \"]\"\ninner ::= \"[\" root").value();
  const auto nested = [](int depth) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += "([";
    text += "x";
    for (int i = 0; i < depth; ++i) text += "])";
    return text;
  };
  int deepest = 0;
  for (int depth = 0; depth < 400; ++depth) {
    if (!grammar->matches(nested(depth))) break;
    deepest = depth;
  }
  EXPECT_GT(deepest, 80);
  EXPECT_LT(deepest, 399);
  EXPECT_FALSE(grammar->matches(nested(deepest + 1)));
}

// Recursion at a rule's end takes no stack.
TEST(Gbnf, TailCallsAreFree) {
  const auto grammar = Grammar::from_gbnf("root ::= \"a\" root | \"b\" rest\nrest ::= \"c\" root | \"\"").value();
  std::string text(100'000, 'a');
  EXPECT_TRUE(grammar->matches(text + "bcb"));
  EXPECT_FALSE(grammar->matches(text));
}

}  // namespace
}  // namespace tandem::engine

// Hostile grammars: each class of attack that structured output has been hit with elsewhere ends in an error by name
// (or in a grammar that works), within the bounds of GrammarLimits.
#include <gtest/gtest.h>

#include <string>

#include "engine/grammar/grammar.h"
#include "engine/grammar/grammar_impl.h"
#include "engine/grammar/state_pool.h"
#include "model/tokenizer/unicode.h"
#include "unit/grammar/vocabulary.h"

namespace tandem::engine {
namespace {

using Compiled = Result<std::shared_ptr<const Grammar>>;

constexpr GrammarLimits kPatient = {.compile_max = std::chrono::minutes(1)};

void expect_error(const Compiled& grammar, StatusCode code, const char* word) {
  ASSERT_FALSE(grammar.ok()) << word;
  EXPECT_EQ(grammar.code(), code) << grammar.status().message();
  EXPECT_NE(grammar.status().message().find(word), std::string::npos) << grammar.status().message();
  EXPECT_LT(grammar.status().message().size(), 400u);
}
void expect_exhausted(const Compiled& grammar, const char* word) {
  expect_error(grammar, StatusCode::kResourceExhausted, word);
}

std::string times(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

// {"<key>": {"<key>": ... inner ...}}, made without a parser.
json::value nested(const char* key, int depth, json::value inner, const json::object& beside = {}) {
  for (int i = 0; i < depth; ++i) {
    json::object outer = beside;
    outer[key] = std::move(inner);
    inner = std::move(outer);
  }
  return inner;
}

TEST(GrammarLimits, NestedGroups) {
  for (const auto& [open, close] : {std::pair("(", ")"), std::pair("(?:", ")"), std::pair("(a|", ")?")}) {
    EXPECT_TRUE(Grammar::from_regex(times(open, 64) + "a" + times(close, 64), kPatient).ok());
    expect_exhausted(Grammar::from_regex(times(open, 65) + "a" + times(close, 65), kPatient), "64 deep");
    expect_exhausted(Grammar::from_regex(times(open, 60'000) + "a" + times(close, 60'000)),
                     open[1] == 'a' || open[1] == '?' ? "" : "64 deep");
    expect_exhausted(Grammar::from_regex(times(open, 60'000)), "");
  }
  EXPECT_TRUE(Grammar::from_gbnf("root ::= " + times("(", 64) + "\"a\"" + times(")", 64), kPatient).ok());
  expect_exhausted(Grammar::from_gbnf("root ::= " + times("(", 65) + "\"a\"" + times(")", 65), kPatient), "64 deep");
  expect_exhausted(Grammar::from_gbnf("root ::= " + times("(", 60'000) + "\"a\"" + times(")", 60'000)), "64 deep");
}

TEST(GrammarLimits, NestedSchemas) {
  const json::value leaf = json::object{{"type", "null"}};
  EXPECT_TRUE(Grammar::from_json_schema(nested("items", 60, leaf, {{"type", "array"}}), kPatient).ok());
  expect_exhausted(Grammar::from_json_schema(nested("items", 5'000, leaf, {{"type", "array"}})), "nests more than 64");
  expect_exhausted(Grammar::from_json_schema(nested("anything", 5'000, leaf)), "nests more than 64");
  for (const char* keyword : {"allOf", "anyOf", "oneOf"}) {
    json::value schema = leaf;
    for (int i = 0; i < 200; ++i) schema = json::object{{keyword, json::array{schema}}};
    expect_exhausted(Grammar::from_json_schema(schema), "nests more than 64");
  }
  // The same through references, where the source is flat.
  json::object definitions;
  for (int i = 0; i < 500; ++i)
    definitions["d" + std::to_string(i)] =
        json::object{{"allOf", json::array{json::object{{"$ref", "#/$defs/d" + std::to_string(i + 1)}}}}};
  definitions["d500"] = leaf;
  expect_exhausted(Grammar::from_json_schema(json::object{{"$ref", "#/$defs/d0"}, {"$defs", definitions}}, kPatient),
                   "nest more than 64");
  // A constant is written as it is, however deep its brackets are within the bound.
  const Compiled constant = Grammar::from_json_schema(json::object{{"const", nested("a", 100, 1)}}, kPatient);
  EXPECT_TRUE(constant.ok()) << constant.status().message();
}

TEST(GrammarLimits, HugeCounts) {
  for (const char* pattern :
       {"a{1,1000000000}", "a{1000000000}", "a{99999999999999999999999999}", "a{4097}", "a{0,4097}", "(a|b){5000,}"})
    expect_exhausted(Grammar::from_regex(pattern), "above 4096");
  EXPECT_TRUE(Grammar::from_regex("a{4096}", kPatient).ok());
  expect_exhausted(Grammar::from_gbnf("root ::= \"a\"{1,1000000000}"), "above 4096");
  // Counts of counts: each is within its bound, and together they are not.
  expect_exhausted(Grammar::from_regex("((a{1000}){1000}){1000}", kPatient), "states");
  expect_exhausted(Grammar::from_regex("((((a{0,64}){0,64}){0,64}){0,64}){0,64}", kPatient), "states");
  expect_exhausted(Grammar::from_regex("(((a?){0,4096})?){0,4096}", kPatient), "states");
  expect_exhausted(Grammar::from_regex("(a?){0,4096}", kPatient), "states");
  // Few states, and many ways between them; one class of many ranges, many times.
  expect_exhausted(Grammar::from_regex("(" + times("|", 100'000) + "a){4096}", kPatient), "transitions");
  std::string ranges;
  for (int i = 0; i < 20'000; ++i) model::utf8_append(ranges, static_cast<char32_t>(0x3400 + 2 * i));
  expect_exhausted(Grammar::from_regex("[" + ranges + "]{4000}", kPatient), "transitions");
  std::string copied = "root ::= " + times("r ", 3'000) + "\nr ::= [" + ranges + "]";
  expect_exhausted(Grammar::from_gbnf(copied, kPatient), "transitions");
  for (const char* keyword : {"minLength", "maxLength", "minItems", "maxItems"}) {
    const char* type = keyword[3] == 'L' ? "string" : "array";
    EXPECT_TRUE(Grammar::from_json_schema(json::object{{"type", type}, {keyword, 4096}}, kPatient).ok()) << keyword;
    for (const json::value& count :
         {json::value(4097), json::value(1'000'000'000), json::value(std::uint64_t{1} << 63), json::value(1e30)})
      expect_exhausted(Grammar::from_json_schema(json::object{{"type", type}, {keyword, count}}), "above 4096");
  }
  // Lengths of strings within lists of lists.
  const json::value text = json::object{{"type", "string"}, {"maxLength", 4096}, {"minLength", 4096}};
  json::object properties;
  for (int i = 0; i < 100; ++i) {
    json::object different = text.get_object();
    different["pattern"] = std::string("[") + static_cast<char>('a' + i % 26) + "]";
    properties["p" + std::to_string(i)] = different;
  }
  expect_exhausted(Grammar::from_json_schema(json::object{{"properties", properties}}, kPatient), "states");
}

TEST(GrammarLimits, HugeLists) {
  json::array values;
  std::vector<std::string> choices;
  for (int i = 0; i < 4096; ++i) {
    values.push_back(i);
    choices.push_back("choice " + std::to_string(i));
  }
  EXPECT_TRUE(Grammar::from_json_schema(json::object{{"enum", values}}, kPatient).ok());
  EXPECT_TRUE(Grammar::from_choices(choices, kPatient).ok());
  values.push_back(-1);
  choices.push_back("one more");
  expect_exhausted(Grammar::from_json_schema(json::object{{"enum", values}}), "4097 values");
  expect_exhausted(Grammar::from_choices(choices), "4097 choices");
  std::vector<std::vector<GrammarPart>> alternatives(4097, {{"a", {}}});
  expect_exhausted(Grammar::from_alternatives(alternatives, std::nullopt), "4097 alternatives");
  json::array required;
  for (int i = 0; i < 3000; ++i) required.emplace_back("name " + std::to_string(i));
  EXPECT_TRUE(Grammar::from_json_schema(json::object{{"type", "object"}, {"required", required}}, kPatient).ok());
}

TEST(GrammarLimits, LargeSources) {
  const GrammarLimits limits = {.source_bytes_max = 1000, .compile_max = std::chrono::minutes(1)};
  EXPECT_TRUE(Grammar::from_regex(std::string(1000, 'a'), limits).ok());
  expect_exhausted(Grammar::from_regex(std::string(1001, 'a'), limits), "1001 bytes");
  EXPECT_TRUE(Grammar::from_gbnf("root ::= \"" + std::string(989, 'a') + "\"", limits).ok());
  expect_exhausted(Grammar::from_gbnf("root ::= \"" + std::string(990, 'a') + "\"", limits), "1001 bytes");
  expect_exhausted(Grammar::from_choices({std::string(500, 'a'), std::string(501, 'b')}, limits), "1000 bytes");
  expect_exhausted(Grammar::from_json_schema(json::object{{"description", std::string(1001, 'a')}}, limits),
                   "1000 bytes");
  expect_exhausted(Grammar::from_json_schema(json::object{{"enum", json::array(600, "a")}}, limits), "1000 bytes");
  expect_exhausted(Grammar::from_alternatives({{{std::string(1001, 'a'), {}}}}, std::nullopt, limits), "1001 bytes");
  expect_exhausted(Grammar::from_regex(std::string(300'000, 'a')), "bytes");
}

TEST(GrammarLimits, ManyRules) {
  const GrammarLimits limits = {.rules_max = 10, .compile_max = std::chrono::minutes(1)};
  const auto chain = [](int rules) {
    std::string source = "root ::= r1\n";
    for (int i = 1; i < rules; ++i)
      source += "r" + std::to_string(i) + " ::= \"a\"" + (i + 1 < rules ? " r" + std::to_string(i + 1) : "") + "\n";
    return source;
  };
  EXPECT_TRUE(Grammar::from_gbnf(chain(10), limits).ok());
  expect_exhausted(Grammar::from_gbnf(chain(11), limits), "10 rules");
  expect_exhausted(Grammar::from_gbnf(chain(10'001), kPatient), "10000 rules");
  // A long chain of rules, each called once, is neither recursion nor depth.
  EXPECT_TRUE(Grammar::from_gbnf(chain(9'000), kPatient).value()->matches(std::string(8'999, 'a')));
  json::object definitions;
  for (int i = 0; i < 3'000; ++i)
    definitions[std::to_string(i)] =
        json::object{{"type", "array"}, {"items", json::object{{"$ref", "#/$defs/" + std::to_string(i + 1)}}}};
  definitions["3000"] = json::object{{"type", "null"}};
  const Compiled deep =
      Grammar::from_json_schema(json::object{{"$ref", "#/$defs/0"}, {"$defs", definitions}},
                                {.source_bytes_max = 1 << 20, .compile_max = std::chrono::minutes(1)});
  ASSERT_TRUE(deep.ok()) << deep.status().message();
  EXPECT_TRUE((*deep)->matches("[[[]]]"));
}

// a = [b, b], b = [c, c], ...: as a tree it is exponential, as rules it is not.
TEST(GrammarLimits, ReferencesThatDouble) {
  for (const char* keyword : {"prefixItems", "anyOf", "allOf", "properties"}) {
    SCOPED_TRACE(keyword);
    json::object definitions;
    for (int i = 0; i < 60; ++i) {
      const json::object next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
      json::object definition;
      if (std::string_view(keyword) == "properties") {
        definition = {{"type", "object"}, {"properties", json::object{{"a", next}, {"b", next}}}};
      } else {
        definition = {{keyword, json::array{next, next}}};
        if (std::string_view(keyword) == "prefixItems") definition["type"] = "array";
      }
      definitions["d" + std::to_string(i)] = definition;
    }
    definitions["d60"] = json::object{{"type", "null"}};
    const Compiled grammar = Grammar::from_json_schema(json::object{{"$ref", "#/$defs/d0"}, {"$defs", definitions}});
    if (std::string_view(keyword) == "allOf") {
      expect_exhausted(grammar, "");  // here every path is walked: the budget ends it
    } else {
      ASSERT_TRUE(grammar.ok() || grammar.code() == StatusCode::kResourceExhausted) << grammar.status().message();
    }
  }
  // GBNF: "billion laughs".
  for (const int rules : {20, 60, 250}) {
    std::string source = "root ::= r0\n";
    for (int i = 0; i < rules; ++i)
      source += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " r" + std::to_string(i + 1) + "\n";
    source += "r" + std::to_string(rules) + " ::= \"a\"?";
    const auto grammar = Grammar::from_gbnf(source, kPatient).value();
    // With many rules there are more ways to read the letters than are followed: then they match nothing.
    EXPECT_TRUE(grammar->matches("aaa") || rules > 20);
    EXPECT_FALSE(grammar->matches("b"));
  }
}

// Alternatives that must hold at once multiply.
TEST(GrammarLimits, AlternativesThatMultiply) {
  json::array all;
  for (int i = 0; i < 60; ++i)
    all.push_back(
        json::object{{"anyOf", json::array{json::object{{"minimum", i}}, json::object{{"maximum", 100 + i}}}}});
  expect_exhausted(Grammar::from_json_schema(json::object{{"type", "integer"}, {"allOf", all}}), "");
  for (int i = 0; i < 60; ++i) all.push_back(all[0]);
  expect_exhausted(Grammar::from_json_schema(json::object{{"type", "integer"}, {"allOf", all}}), "at once");
}

// Patterns that make backtracking matchers exponential take time in proportion to the text.
TEST(GrammarLimits, PatternsThatBacktrack) {
  for (const char* pattern :
       {"(a*)*b", "(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*a){20}b", "((a?){30}a{30})b", "(a*a*a*a*a*a*)*b"}) {
    const auto grammar = Grammar::from_regex(pattern, kPatient).value();
    EXPECT_FALSE(grammar->matches(std::string(50'000, 'a'))) << pattern;
    EXPECT_TRUE(grammar->matches(std::string(60, 'a') + "b")) << pattern;
  }
}

TEST(GrammarLimits, TimeIsBounded) {
  const GrammarLimits none = {.compile_max = std::chrono::milliseconds(-1)};
  expect_exhausted(Grammar::from_regex("[a-z]{0,4000}", none), "ms");
  expect_exhausted(Grammar::from_gbnf("root ::= \"a\"{4000}", none), "ms");
  json::array values;
  for (int i = 0; i < 4000; ++i) values.push_back(i);
  expect_exhausted(Grammar::from_json_schema(json::object{{"enum", values}}, none), "ms");
}

TEST(GrammarLimits, StatesAreBounded) {
  const GrammarLimits limits = {.states_max = 100, .compile_max = std::chrono::minutes(1)};
  EXPECT_TRUE(Grammar::from_regex("a{99}", limits).ok());
  expect_exhausted(Grammar::from_regex("a{100}", limits), "100 states");
  expect_exhausted(Grammar::from_choices({std::string(101, 'a')}, limits), "100 states");
}

// Whatever bytes may follow the text so far, some of them lead to its end: from any state that random bytes reach, the
// shortest way out is found.
TEST(GrammarLimits, NoTextGetsStuck) {
  const std::string recursive = R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{
      "l":{"$ref":"#/$defs/n"},"r":{"type":"array","items":{"$ref":"#/$defs/n"}},
      "v":{"type":"object","properties":{"w":{"type":"array","items":{"type":"null"},"minItems":1}},"required":["w"]}},
      "required":["v"]}}})";
  for (const auto& grammar :
       {Grammar::json_object().value(), Grammar::from_json_schema(parse_json(recursive, "x").value()).value(),
        Grammar::from_gbnf(
            "root ::= \"(\" (root | \"[\" mid) \")\" | \"x\"\nmid ::= low \"]\"\nlow ::= \"{\" root \"}\"")
            .value()}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      std::mt19937_64 random(seed);
      StatePool pool(grammar->impl().automaton);
      StatePool::Id state = pool.start();
      std::string text;
      for (int i = 0; i < 2000; ++i) {
        // Brackets first, so that it goes deep.
        std::string next;
        for (int byte = 0; byte < 256; ++byte)
          if (pool.step(state, static_cast<std::uint8_t>(byte)) != StatePool::kDead) next += static_cast<char>(byte);
        if (next.empty()) break;
        std::string opening;
        for (const char c : next)
          if (std::string_view("{[(\"").find(c) != std::string_view::npos) opening += c;
        if (!opening.empty() && random() % 4 != 0) next = opening;
        text += next[random() % next.size()];
        state = pool.step(state, static_cast<std::uint8_t>(text.back()));
        ASSERT_NE(state, StatePool::kTooMany);
        ASSERT_TRUE(pool.goes_on(state) || pool.accepts(state));
      }
      // From here, always the byte that closes most.
      for (int i = 0; i < 4000 && !pool.accepts(state); ++i) {
        bool moved = false;
        for (const char c : std::string("})]\"x,:vwlr n0[{utfaes(\x80\x90\xA0")) {
          const StatePool::Id next = pool.step(state, static_cast<std::uint8_t>(c));
          if (next == StatePool::kDead) continue;
          state = next;
          moved = true;
          break;
        }
        if (!moved) {
          for (int byte = 0; byte < 256 && !moved; ++byte) {
            const StatePool::Id next = pool.step(state, static_cast<std::uint8_t>(byte));
            if (next == StatePool::kDead) continue;
            state = next;
            moved = true;
          }
        }
        ASSERT_TRUE(moved) << text;
      }
      EXPECT_TRUE(pool.accepts(state)) << text;
    }
  }
}

}  // namespace
}  // namespace tandem::engine

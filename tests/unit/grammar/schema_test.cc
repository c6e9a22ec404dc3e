#include "engine/grammar/schema.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "engine/grammar/grammar.h"
#include "unit/grammar/naive_schema.h"

namespace tandem::engine {
namespace {

Result<std::shared_ptr<const Grammar>> grammar_of(std::string_view schema) {
  return Grammar::from_json_schema(parse_json(schema, "schema", 1000).value());
}

TEST(Schema, RandomDocumentsAgainstANaiveValidator) {
  int schemas = 0, accepted = 0, refused = 0, documents = 0;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    RandomJson random(seed);
    const json::value schema = random.schema();
    const auto grammar = Grammar::from_json_schema(schema, {.compile_max = std::chrono::minutes(1)});
    if (!grammar.ok()) {
      // Schemas that contradict themselves, or never end.
      ASSERT_EQ(grammar.code(), StatusCode::kInvalidArgument) << grammar.status().message();
      refused += 1;
      continue;
    }
    schemas += 1;
    const NaiveValidator validator(schema);
    for (int i = 0; i < 60; ++i) {
      const json::value document = i % 4 == 0 ? random.document(3) : random.document_for(schema, schema, 6);
      const bool expected = validator.accepts(document);
      const std::string text = RandomJson::print(document, i % 3);
      ASSERT_EQ((*grammar)->matches(text), expected) << to_json_text(schema) << "\n" << text;
      accepted += expected;
      documents += 1;
    }
  }
  EXPECT_GT(schemas, 300) << refused;
  EXPECT_GT(accepted, documents / 5);
  EXPECT_LT(accepted, documents * 4 / 5);
}

TEST(Schema, Keywords) {
  const struct {
    const char* schema;
    std::vector<const char*> in, out;
  } kCases[] = {
      {"true", {"1", "\"a\"", "[]", "{\"a\": [null, {}]}"}, {"", "a", "[1,]", "1 "}},
      {"{}", {"null"}, {"nul"}},
      {R"({"type":["string","null"]})", {"\"a\"", "null"}, {"1"}},
      {R"({"type":"string","nullable":true})", {"\"a\"", "null"}, {"1"}},
      {R"({"const":{"a":[1,2.50,"x\n"]}})", {R"({"a":[1,2.5,"x\n"]})"}, {R"({"a": [1,2.5,"x\n"]})"}},
      {R"({"enum":[1.0,-0.5,1e20,"é","\u0001"]})", {"1", "-0.5", "1e+20", "\"é\"", "\"\\u0001\""}, {"1.0", "2"}},
      {R"({"enum":["a","bb",3],"maxLength":1})", {"\"a\"", "3"}, {"\"bb\""}},
      {R"({"enum":[1,5,9,"x"],"type":"integer","minimum":3,"exclusiveMaximum":9})", {"5"}, {"1", "9", "\"x\""}},
      {R"({"enum":["ab","cd"],"pattern":"^a"})", {"\"ab\""}, {"\"cd\""}},
      {R"({"minLength":1})", {"\"a\""}, {"\"\"", "1"}},
      {R"({"minLength":2,"maxLength":2})", {"\"éé\"", "\"😀\\n\""}, {"\"a\"", "\"aaa\""}},
      {R"({"maxLength":0})", {"\"\""}, {"\"a\""}},
      {R"({"properties":{"a":{}}})", {"{}", "{\"a\":1}"}, {"1", "{\"b\":1}"}},
      {R"({"type":"object","additionalProperties":{"type":"null"}})", {"{}", "{\"x\":null,\"y\":null}"}, {"{\"x\":1}"}},
      {R"({"type":"object","additionalProperties":false})", {"{}", "{ }"}, {"{\"x\":1}"}},
      {R"({"type":"object","required":["a","b"]})",
       {R"({"a":1,"b":2})", R"({"a":1,"b":2,"c":3})"},
       {R"({"b":1})", "{}"}},
      {R"({"type":"object","properties":{"a":true,"b":true},"required":["b"]})",
       {R"({"a":1,"b":2})", R"({"b":2})", "{\n  \"b\": 2\n}"},
       {R"({"b":1,"a":2})", R"({"a":1})", R"({"b":1,})", R"({,"b":1})"}},
      {R"({"properties":{"a":false,"b":true}})", {"{}", R"({"b":1})"}, {R"({"a":1})"}},
      {R"({"type":"array","items":false})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"null"},{"type":"boolean"}],"items":false})",
       {"[]", "[null]", "[null, true]"},
       {"[true]", "[null,true,1]"}},
      {R"({"type":"array","items":[{"type":"null"}],"additionalItems":{"type":"integer"}})",
       {"[null,1,2]", "[]"},
       {"[1]"}},
      {R"({"type":"array","minItems":2,"maxItems":3})", {"[1,2]", "[1,2,3]"}, {"[1]", "[1,2,3,4]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","uniqueItems":false})", {"[1,1]"}, {}},
      {R"({"exclusiveMinimum":true,"minimum":3,"type":"integer"})", {"4"}, {"3"}},
      {R"({"anyOf":[{"type":"null"},{"type":"integer"}],"title":"x"})", {"null", "5"}, {"\"\""}},
      {R"({"type":"integer","anyOf":[{"minimum":5},{"maximum":-5},{"type":"string"}]})", {"5", "-5"}, {"0", "\"a\""}},
      {R"({"anyOf":[{"minimum":5},{"maximum":-5}],"oneOf":[{"type":"integer"},{"type":"string"}]})",
       {"5"},
       {"0", "5.5"}},
      {R"({"allOf":[{"type":["integer","string"]},{"type":["integer","null"],"minimum":2},{"maximum":3}]})",
       {"2", "3"},
       {"4", "null"}},
      {R"({"$ref":"#/$defs/a%7E1b~1c","$defs":{"a/b/c":{"type":"null"}}})", {"null"}, {"1"}},
      {R"({"$ref":"#/definitions/l/1","definitions":{"l":[1,{"type":"null"}]}})", {"null"}, {}},
      {R"({"$ref":"#/$defs/a","maxLength":2,"$defs":{"a":{"type":"string","minLength":2}}})",
       {"\"ab\""},
       {"\"a\"", "\"abc\""}},
      {R"({"type":"array","items":{"$ref":"#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"type":"string","format":"uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567\""}},
      {R"({"type":"string","format":"date"})",
       {"\"2024-02-29\"", "\"1999-12-31\""},
       {"\"2023-02-29\"", "\"2024-04-31\"", "\"2024-13-01\"", "\"2024-00-10\""}},
      {R"({"type":"string","format":"time"})",
       {"\"23:59:59Z\"", "\"00:00:00.123+01:30\""},
       {"\"24:00:00Z\"", "\"12:00\""}},
      {R"({"type":"string","format":"ipv4"})", {"\"0.10.200.255\""}, {"\"1.2.3\"", "\"1.2.3.256\"", "\"01.2.3.4\""}},
      {R"({"type":"string","format":"email","maxLength":8})",
       {"\"a@b.cd\"", "\"aa@bb.cc\""},
       {"\"a@b\"", "\"@b.cd\"", "\"aaa@bbb.cc\""}},
      {R"({"type":"string","format":"color"})", {"\"any\""}, {}},
      {R"({"type":"string","format":"date","pattern":"^x$"})", {"\"x\""}, {"\"2024-01-01\""}},
      {R"({"type":"object","properties":{"a\"b\n":{"type":"null"}},"required":["a\"b\n"]})",
       {R"({"a\"b\n":null})"},
       {R"({"a\u0022b\n":null})"}},
      {R"({"type":"object","properties":{"name":{"type":"null"}},"additionalProperties":{"type":"integer"}})",
       {R"({"nam":1,"names":2,"\\":3})"},
       {R"({"name":1})", R"({"n\u0061me":1})", R"({"x":1,"name":null})"}},
      {R"({"type":"boolean","x-order":3,"example":true,"deprecated":false})", {"true", "false"}, {"null"}},
  };
  for (const auto& each : kCases) {
    const auto grammar = grammar_of(each.schema);
    ASSERT_TRUE(grammar.ok()) << each.schema << ": " << grammar.status().message();
    for (const char* text : each.in) EXPECT_TRUE((*grammar)->matches(text)) << each.schema << " on " << text;
    for (const char* text : each.out) EXPECT_FALSE((*grammar)->matches(text)) << each.schema << " on " << text;
  }
}

TEST(Schema, RefusesByName) {
  const std::pair<const char*, const char*> kCases[] = {
      {"1", "a schema is an object"},
      {R"({"properties":{"a":"string"}})", "'a'"},
      {R"({"type":"strin"})", "'strin'"},
      {R"({"type":[]})", "'type'"},
      {R"({"type":[1]})", "'type'"},
      {R"({"type":{}})", "'type'"},
      {R"({"enum":[]})", "'enum'"},
      {R"({"enum":{}})", "'enum'"},
      {R"({"enum":["a"],"type":"integer"})", "enum"},
      {R"({"enum":["a"],"const":"b"})", "enum and const"},
      {R"({"enum":[[1]],"minItems":3})", "enum or const of arrays"},
      {R"({"anyOf":[]})", "'anyOf'"},
      {R"({"oneOf":{}})", "'oneOf'"},
      {R"({"allOf":[]})", "'allOf'"},
      {R"({"not":{"type":"null"}})", "'not'"},
      {R"({"if":{},"then":{}})", "'if'"},
      {R"({"type":"array","uniqueItems":true})", "'uniqueItems'"},
      {R"({"type":"array","contains":{}})", "'contains'"},
      {R"({"type":"object","patternProperties":{}})", "'patternProperties'"},
      {R"({"type":"object","minProperties":1})", "'minProperties'"},
      {R"({"type":"object","dependentRequired":{}})", "'dependentRequired'"},
      {R"({"type":"object","propertyNames":{}})", "'propertyNames'"},
      {R"({"unevaluatedProperties":false})", "'unevaluatedProperties'"},
      {R"({"type":"object","proprties":{}})", "'proprties'"},
      {R"({"$dynamicRef":"#a"})", "'$dynamicRef'"},
      {R"({"type":"integer","multipleOf":3})", "'multipleOf'"},
      {R"({"type":"integer","minimum":"1"})", "'minimum'"},
      {R"({"type":"integer","minimum":3,"maximum":2})", "at least 3 and at most 2"},
      {R"({"type":"number","exclusiveMinimum":2,"maximum":2})", "above 2 and at most 2"},
      {R"({"type":"integer","exclusiveMinimum":2,"exclusiveMaximum":3})", "whole number"},
      {R"({"type":"number","maximum":1e999})", "'maximum'"},
      {R"({"type":"string","minLength":3,"maxLength":2})", "minLength 3"},
      {R"({"type":"string","minLength":-1})", "'minLength'"},
      {R"({"type":"string","minLength":1.5})", "'minLength'"},
      {R"({"type":"array","minItems":3,"maxItems":2})", "minItems 3"},
      {R"({"allOf":[{"type":"string"},{"type":"null"}]})", "type"},
      {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "lookahead"},
      {R"({"type":"string","pattern":1})", "'pattern'"},
      {R"({"type":"string","format":1})", "'format'"},
      {R"({"required":"a"})", "'required'"},
      {R"({"required":[1]})", "'required'"},
      {R"({"properties":[]})", "'properties'"},
      {R"({"type":"object","additionalProperties":false,"required":["a"]})", "'a' is required"},
      {R"({"prefixItems":{}})", "'prefixItems'"},
      {R"({"$ref":"#/$defs/a"})", "nothing there"},
      {R"({"$ref":"other.json"})", "only references into the schema"},
      {R"({"$ref":"https://json-schema.org/x"})", "only references into the schema"},
      {R"({"$ref":"#anchor"})", "only references into the schema"},
      {R"({"$ref":1})", "'$ref'"},
      {R"({"$ref":"#"})", "leads back to itself"},
      {R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}})", "leads back to itself"},
      {R"({"allOf":[{"$ref":"#"}]})", "leads back to itself"},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", "left recursion"},
      {R"({"anyOf":[{"$ref":"#"}]})", "cannot end"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "cannot end"},
      {R"({"type":"array","items":{"$ref":"#"},"minItems":1})", "cannot end"},
      {"false", "cannot end"},
      {R"({"type":"integer","anyOf":[{"type":"string"},{"type":"null"}]})", "no type satisfies"},
  };
  for (const auto& [schema, word] : kCases) {
    const auto parsed = parse_json(schema, "schema");
    ASSERT_TRUE(parsed.ok()) << schema;
    const auto grammar = Grammar::from_json_schema(*parsed);
    ASSERT_FALSE(grammar.ok()) << schema;
    EXPECT_EQ(grammar.code(), StatusCode::kInvalidArgument) << schema;
    EXPECT_NE(grammar.status().message().find(word), std::string::npos) << schema << ": " << grammar.status().message();
  }
}

TEST(Schema, JsonObjectsAreAllOfJsonThatBoostParses) {
  constexpr std::string_view kBytes = "\"\\{}[]:,0-.e9a\x01\x80\xC3 \n";
  const auto grammar = Grammar::json_object().value();
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    RandomJson random(seed);
    json::object object = {{"x", random.document(4)}, {"y", random.document(4)}};
    for (int style = 0; style < 3; ++style) EXPECT_TRUE(grammar->matches(RandomJson::print(object, style)));
    // Cut short, or with one byte changed, it is in the language only if it parses.
    std::string text = RandomJson::print(object, 0);
    EXPECT_FALSE(grammar->matches(text.substr(0, text.size() - 1 - random.below(text.size()))));
    for (int i = 0; i < 30; ++i) {
      std::string changed = text;
      changed[random.below(changed.size())] = kBytes[random.below(kBytes.size())];
      boost::system::error_code error;
      const json::value parsed = json::parse(changed, error);
      EXPECT_TRUE(!grammar->matches(changed) || (!error && parsed.is_object())) << changed;
    }
  }
}

// Where several schemas describe a property, the first one's order is the order, wherever the schemas lie in memory.
TEST(Schema, OrderDoesNotDependOnAddresses) {
  for (int round = 0; round < 20; ++round) {
    const std::vector<std::string> unused(static_cast<std::size_t>(round), std::string(1000, 'x'));
    const json::value first = parse_json(R"({"properties":{"x":{"properties":{"b":{},"a":{}}}}})", "x").value();
    const json::value second = parse_json(R"({"properties":{"x":{"properties":{"c":{},"a":{}}}}})", "x").value();
    for (const bool swapped : {false, true}) {
      const json::value schema =
          json::object{{"allOf", swapped ? json::array{second, first} : json::array{first, second}}};
      const auto grammar = Grammar::from_json_schema(schema).value();
      EXPECT_EQ(grammar->matches(R"({"x":{"b":1,"a":2,"c":3}})"), !swapped);
      EXPECT_EQ(grammar->matches(R"({"x":{"c":1,"a":2,"b":3}})"), swapped);
    }
  }
}

// How deep free JSON may nest: to a bound that parsers have too, and not a level more.
TEST(Schema, NestingIsBounded) {
  const auto grammar = Grammar::json_object().value();
  const auto nested = [](std::size_t depth) {
    return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  std::size_t deepest = 0;
  while (deepest < 1000 && grammar->matches(nested(deepest + 1))) ++deepest;
  EXPECT_GE(deepest, 64u);
  EXPECT_LE(deepest, 128u);
  EXPECT_FALSE(grammar->matches(nested(100'000)));
}

TEST(Alternatives, AreSequencesOfParts) {
  const json::value schema = parse_json(R"({"type":"object","properties":{"n":{"$ref":"#/$defs/n"}},"required":["n"],
      "$defs":{"n":{"type":"integer","maximum":9}}})",
                                        "schema")
                                 .value();
  const json::value other = parse_json(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"null"}}})", "schema").value();
  const std::vector<std::vector<GrammarPart>> calls = {{{"<call>f", {}}, {"", schema}, {"</call>", {}}},
                                                       {{"<call>g", {}}, {"", other}, {"</call>", {}}}};
  const auto one = Grammar::from_alternatives(calls, std::nullopt).value();
  EXPECT_TRUE(one->matches(R"(<call>f{"n": 3}</call>)"));
  EXPECT_TRUE(one->matches("<call>gnull</call>"));
  for (const char* out :
       {R"(<call>f{"n": 13}</call>)", "<call>fnull</call>", "<call>gnull</call><call>gnull</call>", ""})
    EXPECT_FALSE(one->matches(out)) << out;
  const auto many = Grammar::from_alternatives(calls, "\n").value();
  EXPECT_TRUE(many->matches("<call>gnull</call>"));
  EXPECT_TRUE(many->matches("<call>gnull</call>\n<call>f{\"n\":1}</call>\n<call>gnull</call>"));
  EXPECT_FALSE(many->matches("<call>gnull</call>\n"));
  EXPECT_TRUE(Grammar::from_alternatives({{{"a", {}}}}, "").value()->matches("aaa"));
  EXPECT_TRUE(Grammar::from_alternatives({{}}, std::nullopt).value()->matches(""));

  EXPECT_EQ(Grammar::from_alternatives({}, std::nullopt).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Grammar::from_alternatives({{{"\xff", {}}}}, std::nullopt).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Grammar::from_alternatives(calls, "\xff").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Grammar::from_alternatives({{{"", json::value(false)}}}, std::nullopt).code(),
            StatusCode::kInvalidArgument);
}

TEST(Choices, AreExactlyTheirTexts) {
  const auto grammar = Grammar::from_choices({"yes", "yesterday", "no", "é", "no"}).value();
  for (const char* in : {"yes", "yesterday", "no", "é"}) EXPECT_TRUE(grammar->matches(in));
  for (const char* out : {"", "y", "yest", "non", "\xC3"}) EXPECT_FALSE(grammar->matches(out));
  EXPECT_TRUE(Grammar::from_choices({"", "a"}).value()->matches(""));
  EXPECT_EQ(Grammar::from_choices({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Grammar::from_choices({"a", "\xff"}).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::engine

#include "base/json_fields.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace tandem {
namespace {

json::object object_of(std::string_view text) { return parse_json(text, "test").value().get_object(); }

// Reads one field of {"x": VALUE} and gives back what went wrong.
FieldError read_x(const std::string& value, const std::function<void(JsonFields&)>& read) {
  const json::object object = object_of("{\"x\":" + value + "}");
  FieldError error;
  JsonFields fields(object, error);
  read(fields);
  return error;
}

TEST(JsonFields, NumbersKeepToTheirRange) {
  float number = 0.5f;
  const auto read = [&](JsonFields& fields) { fields.read_number("x", {0, 2}, number); };
  for (const char* good : {"0", "2", "1.5", "0.0", "2e0", "-0"}) EXPECT_TRUE(read_x(good, read).ok()) << good;
  number = 0.5f;
  for (const char* bad : {"-1", "2.001", "1e999", "-1e999", "\"1\"", "true", "[]", "{}", "4294967296", "1e300"}) {
    const FieldError error = read_x(bad, read);
    EXPECT_FALSE(error.ok()) << bad;
    EXPECT_EQ(error.path, "x");
    EXPECT_EQ(error.code, "invalid_value");
    EXPECT_EQ(number, 0.5f);
  }
  EXPECT_EQ(read_x("3", read).message, "x is 3: give a number from 0 to 2");
  EXPECT_EQ(read_x("1e999", read).message, "x is beyond all numbers: give a number from 0 to 2");
  EXPECT_TRUE(read_x("null", read).ok());
}

TEST(JsonFields, AnOpenEndIsOutsideEvenAfterRounding) {
  float number = 0;
  const auto read = [&](JsonFields& fields) { fields.read_number("x", {0, 1, true}, number); };
  EXPECT_FALSE(read_x("0", read).ok());
  EXPECT_FALSE(read_x("1e-60", read).ok());
  EXPECT_TRUE(read_x("1e-30", read).ok());
  EXPECT_GT(number, 0.0f);
  EXPECT_EQ(read_x("0", read).message, "x is 0: give a number above 0 and at most 1");
}

TEST(JsonFields, AnyNumberIsOneThatAFloatHolds) {
  float number = 0;
  const auto read = [&](JsonFields& fields) { fields.read_number("x", {}, number); };
  EXPECT_TRUE(read_x("-3e38", read).ok());
  EXPECT_FALSE(read_x("1e39", read).ok());
  EXPECT_EQ(read_x("\"a\"", read).message, "x is \"a\": give a number");
}

TEST(JsonFields, IntegersAreExactAndBounded) {
  std::int64_t wide = 7;
  const auto any = [&](JsonFields& fields) { fields.read_integer("x", {}, wide); };
  for (const char* bad :
       {"1.5", "1e999", "9223372036854775808", "18446744073709551615", "1e19", "\"1\"", "true", "[1]"})
    EXPECT_FALSE(read_x(bad, any).ok()) << bad;
  EXPECT_EQ(wide, 7);
  const std::pair<const char*, std::int64_t> good[] = {{"9223372036854775807", INT64_MAX},
                                                       {"-9223372036854775808", INT64_MIN},
                                                       {"9007199254740993", 9007199254740993},
                                                       {"1e2", 100},
                                                       {"5.0", 5},
                                                       {"-0.0", 0}};
  for (const auto& [text, value] : good) {
    EXPECT_TRUE(read_x(text, any).ok()) << text;
    EXPECT_EQ(wide, value);
  }
  int narrow = 7;
  const auto small = [&](JsonFields& fields) { fields.read_integer("x", {0}, narrow); };
  EXPECT_TRUE(read_x("2147483647", small).ok());
  EXPECT_EQ(narrow, 2147483647);
  EXPECT_FALSE(read_x("2147483648", small).ok());
  EXPECT_FALSE(read_x("-1", small).ok());
  EXPECT_EQ(read_x("-1", small).message, "x is -1: give an integer from 0 to 2147483647");
}

TEST(JsonFields, BitsAreSignedOrNot) {
  std::uint64_t bits = 0;
  const auto read = [&](JsonFields& fields) { fields.read_bits("x", bits); };
  EXPECT_TRUE(read_x("18446744073709551615", read).ok());
  EXPECT_EQ(bits, UINT64_MAX);
  EXPECT_TRUE(read_x("-1", read).ok());
  EXPECT_EQ(bits, UINT64_MAX);
  EXPECT_FALSE(read_x("18446744073709551616", read).ok());
  EXPECT_FALSE(read_x("0.5", read).ok());
}

TEST(JsonFields, StringsAreBoundedInSizeAndCount) {
  std::vector<std::string> strings = {"before"};
  const StringBounds bounds{.bytes_max = 3, .count_max = 2, .empty_allowed = false};
  const auto read = [&](JsonFields& fields) { fields.read_strings("x", bounds, strings); };
  for (const char* bad : {"\"\"", "\"abcd\"", "[\"a\",\"b\",\"c\"]", "[\"a\",\"\"]", "[1]", "1", "{}", "[[\"a\"]]"}) {
    EXPECT_FALSE(read_x(bad, read).ok()) << bad;
    EXPECT_EQ(strings, std::vector<std::string>{"before"});
  }
  EXPECT_TRUE(read_x("[\"a\",\"abc\"]", read).ok());
  EXPECT_EQ(strings, (std::vector<std::string>{"a", "abc"}));
  EXPECT_TRUE(read_x("\"abc\"", read).ok());
  EXPECT_EQ(strings, std::vector<std::string>{"abc"});
  EXPECT_TRUE(read_x("[]", read).ok());
  EXPECT_TRUE(strings.empty());
}

TEST(JsonFields, IntegerListsNameTheElement) {
  std::vector<std::int32_t> ids;
  const auto read = [&](JsonFields& fields) { fields.read_integers("x", {0, 9}, 3, ids); };
  EXPECT_EQ(read_x("[1,10]", read).path, "x[1]");
  EXPECT_EQ(read_x("[1,2,3,4]", read).path, "x");
  EXPECT_TRUE(read_x("[1,2,3]", read).ok());
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 2, 3}));
}

TEST(JsonFields, NumberMapsCheckKeysAndValues) {
  std::vector<std::pair<std::int32_t, float>> map;
  const auto read = [&](JsonFields& fields) { fields.read_number_map("x", {0, 99}, {-1, 1}, 2, map); };
  for (const char* bad :
       {R"({"1":2})", R"({"-1":1})", R"({"100":1})", R"({"a":1})", R"({"1 ":1})", R"({"":1})", R"({"+1":1})",
        R"({"1":null})", R"({"1":0,"2":0,"3":0})", R"({"99999999999999999999":0})", "[]", "1"})
    EXPECT_FALSE(read_x(bad, read).ok()) << bad;
  EXPECT_TRUE(map.empty());
  EXPECT_TRUE(read_x(R"({"1":0.5,"99":-1})", read).ok());
  EXPECT_EQ(map, (std::vector<std::pair<std::int32_t, float>>{{1, 0.5f}, {99, -1.0f}}));
}

TEST(JsonFields, TheFirstErrorStaysAndStopsReading) {
  const json::object object = object_of(R"({"a":1,"b":"x","c":{"d":[{"e":5}]}})");
  FieldError error;
  JsonFields fields(object, error);
  bool flag = false;
  std::string text = "before";
  EXPECT_FALSE(fields.read_bool("a", flag));
  EXPECT_FALSE(fields.read_string("b", 10, text));
  EXPECT_EQ(text, "before");
  EXPECT_FALSE(fields.object("c"));
  EXPECT_EQ(error.path, "a");
  EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument);
}

TEST(JsonFields, PathsLeadToNestedFields) {
  const json::object object = object_of(R"({"c":{"d":[{},{"e":5}]}})");
  FieldError error;
  JsonFields fields(object, error);
  std::optional<JsonFields> c = fields.object("c");
  ASSERT_TRUE(c);
  const json::array* d = c->array("d", "an array");
  ASSERT_NE(d, nullptr);
  std::optional<JsonFields> element = c->element("d", 1, (*d)[1]);
  ASSERT_TRUE(element);
  std::string text;
  EXPECT_FALSE(element->read_string("e", 10, text));
  EXPECT_EQ(error.path, "c.d[1].e");
  EXPECT_EQ(error.message, "c.d[1].e is 5: give a string of at most 10 bytes");
}

TEST(JsonFields, WhatNobodyAskedForIsFound) {
  const json::object object = object_of(R"({"a":1,"typo":2,"b":null})");
  FieldError error;
  JsonFields fields(object, error);
  EXPECT_EQ(fields.first_unread(), "a");
  fields.find("a");
  EXPECT_FALSE(fields.has("b"));
  EXPECT_EQ(fields.first_unread(), "typo");
  fields.find("typo");
  EXPECT_EQ(fields.first_unread(), std::nullopt);
}

TEST(JsonFields, MissingFieldsSayWhatToGive) {
  const json::object object = object_of(R"({"b":null})");
  FieldError error;
  JsonFields fields(object, error);
  EXPECT_FALSE(fields.require("b", "a letter"));
  EXPECT_EQ(error.message, "b is missing: give a letter");
  EXPECT_EQ(error.code, "missing_required_parameter");
}

TEST(JsonFields, ChoicesAreCounted) {
  EXPECT_EQ(read_x("\"c\"",
                   [](JsonFields& f) {
                     EXPECT_EQ(f.read_choice("x", {"a", "b"}), std::nullopt);
                   })
                .message,
            "x is \"c\": give \"a\" or \"b\"");
  EXPECT_TRUE(read_x("\"b\"", [](JsonFields& f) { EXPECT_EQ(f.read_choice("x", {"a", "b"}), 1u); }).ok());
}

TEST(JsonFields, DescriptionsAreShortOneLineAndWhole) {
  std::string text(47, 'a');
  text += "\xC3\xA9\xC3\xA9";  // a character across the cut
  const std::string description = describe_json(json::string(text));
  EXPECT_EQ(description, "\"" + std::string(47, 'a') + "\"...");
  EXPECT_EQ(describe_json(json::string("a\nb")), "\"a\\nb\"");
  EXPECT_EQ(describe_json(json::array{1}), "an array");
  EXPECT_EQ(describe_json(json::array{}), "an empty array");
}

}  // namespace
}  // namespace tandem

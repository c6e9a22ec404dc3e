#include "engine/grammar/number_range.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/grammar/grammar.h"

namespace tandem::engine {
namespace {

Result<std::shared_ptr<const Grammar>> grammar_of(const json::object& schema) {
  return Grammar::from_json_schema(schema, {.compile_max = std::chrono::minutes(1)});
}

TEST(NumberRange, IntegersAgainstCounting) {
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    const int a = static_cast<int>(random() % 600) - 300, b = static_cast<int>(random() % 600) - 300;
    const int low = round % 5 == 0 ? a / 30 : std::min(a, b), high = round % 5 == 0 ? low + round % 3 : std::max(a, b);
    const bool open_low = random() % 3 == 0, open_high = random() % 3 == 0;
    const bool has_low = random() % 5 != 0, has_high = random() % 5 != 0;
    json::object schema = {{"type", "integer"}};
    if (has_low) schema[open_low ? "exclusiveMinimum" : "minimum"] = low;
    if (has_high) schema[open_high ? "exclusiveMaximum" : "maximum"] = high;
    const auto grammar = grammar_of(schema);
    int count = 0;
    for (int i = -350; i <= 350; ++i) {
      const bool expected =
          (!has_low || (open_low ? i > low : i >= low)) && (!has_high || (open_high ? i < high : i <= high));
      count += expected;
      if (!grammar.ok()) continue;
      EXPECT_EQ((*grammar)->matches(std::to_string(i)), expected) << i << " in " << to_json_text(schema);
      EXPECT_FALSE((*grammar)->matches("0" + std::to_string(i)));
      EXPECT_FALSE((*grammar)->matches(std::to_string(i) + ".0"));
    }
    EXPECT_EQ(grammar.ok(), count > 0) << to_json_text(schema);
    EXPECT_TRUE(grammar.ok() || grammar.status().code() == StatusCode::kInvalidArgument);
  }
}

TEST(NumberRange, EdgesOfSixtyFourBits) {
  const auto grammar = grammar_of({{"type", "integer"}}).value();
  for (const char* in : {"0", "9223372036854775807", "-9223372036854775808", "1000000000000000000", "-1"})
    EXPECT_TRUE(grammar->matches(in)) << in;
  for (const char* out : {"9223372036854775808", "-9223372036854775809", "10000000000000000000", "-0", "+1", "01", "",
                          "-", "1e3", "1.", ".5", "--1", "99999999999999999999"})
    EXPECT_FALSE(grammar->matches(out)) << out;
  const std::int64_t least = std::numeric_limits<std::int64_t>::min(), most = std::numeric_limits<std::int64_t>::max();
  const auto one = grammar_of({{"type", "integer"}, {"minimum", most}}).value();
  EXPECT_TRUE(one->matches("9223372036854775807"));
  EXPECT_FALSE(one->matches("9223372036854775806"));
  const auto other = grammar_of({{"type", "integer"}, {"exclusiveMaximum", least + 1}}).value();
  EXPECT_TRUE(other->matches("-9223372036854775808"));
  EXPECT_FALSE(other->matches("-9223372036854775807"));
  EXPECT_EQ(grammar_of({{"type", "integer"}, {"exclusiveMinimum", most}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(grammar_of({{"type", "integer"}, {"minimum", 1e300}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(grammar_of({{"type", "integer"}, {"maximum", 1e300}}).value()->matches("12"));
}

TEST(NumberRange, FractionsAgainstDoubles) {
  std::mt19937 random(4);
  const auto decimal = [&] {
    const int digits = static_cast<int>(random() % 4);
    const int value = static_cast<int>(random() % 4001) - 2000;
    std::string text = std::to_string(std::abs(value));
    if (digits > 0) {
      if (std::ssize(text) <= digits) text.insert(0, static_cast<std::size_t>(digits + 1 - std::ssize(text)), '0');
      text.insert(text.size() - static_cast<std::size_t>(digits), ".");
    }
    return (value < 0 ? "-" : "") + text;
  };
  for (int round = 0; round < 200; ++round) {
    std::string low = decimal(), high = decimal();
    if (std::stod(low) > std::stod(high)) std::swap(low, high);
    const bool open_low = random() % 2 == 0, open_high = random() % 2 == 0;
    const bool has_low = random() % 6 != 0, has_high = random() % 6 != 0 || !has_low;
    json::object schema = {{"type", "number"}};
    if (has_low) schema[open_low ? "exclusiveMinimum" : "minimum"] = parse_json(low, "x").value();
    if (has_high) schema[open_high ? "exclusiveMaximum" : "maximum"] = parse_json(high, "x").value();
    const auto grammar = grammar_of(schema);
    const bool empty = has_low && has_high && std::stod(low) == std::stod(high) && (open_low || open_high);
    EXPECT_EQ(grammar.ok(), !empty) << to_json_text(schema);
    if (!grammar.ok()) continue;
    for (int i = 0; i < 200; ++i) {
      std::string text = i == 0 ? low : i == 1 ? high : decimal();
      if (text.find('.') != std::string::npos && random() % 3 == 0) text += "0";
      const double value = std::stod(text);
      bool expected = true;
      if (has_low) expected &= open_low ? value > std::stod(low) : value >= std::stod(low);
      if (has_high) expected &= open_high ? value < std::stod(high) : value <= std::stod(high);
      expected &= !(value == 0 && text[0] == '-');  // -0 is left out
      EXPECT_EQ((*grammar)->matches(text), expected) << text << " in " << to_json_text(schema);
    }
    EXPECT_FALSE((*grammar)->matches("1e0"));
  }
}

TEST(NumberRange, FreeNumbersAreAllOfJsonButTheHuge) {
  const auto grammar = grammar_of({{"type", "number"}}).value();
  for (const char* in : {"0", "-0", "12", "-1.5", "0.000", "1e9", "1E+09", "2.5e-7", "999999999999999999", "1e99"})
    EXPECT_TRUE(grammar->matches(in)) << in;
  for (const char* out : {"", "-", "01", "1.", ".1", "1e", "1e+", "1e100", "1e999", "+1", "1e1.5", "0x1", "NaN", "1_0"})
    EXPECT_FALSE(grammar->matches(out)) << out;
}

TEST(NumberRange, MultiplesOfPowersOfTen) {
  const auto cents = grammar_of({{"type", "number"}, {"multipleOf", 0.01}, {"minimum", 0}}).value();
  for (const char* in : {"0", "1.5", "1.25", "100"}) EXPECT_TRUE(cents->matches(in)) << in;
  for (const char* out : {"1.255", "-1", "1e2"}) EXPECT_FALSE(cents->matches(out)) << out;
  const auto whole = grammar_of({{"type", "number"}, {"multipleOf", 1}}).value();
  EXPECT_TRUE(whole->matches("12"));
  EXPECT_FALSE(whole->matches("12.5"));
  for (const double bad : {3.0, 0.02, 0.5, 0.0, -1.0})
    EXPECT_EQ(grammar_of({{"type", "number"}, {"multipleOf", bad}}).status().code(), StatusCode::kInvalidArgument)
        << bad;
}

TEST(NumberRange, DecimalsAreReadAsWritten) {
  const auto text = [](double value) { return Decimal::from_json(value).value().to_string(); };
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(-1.5e-7), "-0.00000015");
  EXPECT_EQ(text(1e21), "1000000000000000000000");
  EXPECT_EQ(text(-0.0), "0");
  EXPECT_EQ(text(120.50), "120.5");
  EXPECT_EQ(Decimal::from_json(std::uint64_t{18446744073709551615u}).value().to_string(), "18446744073709551615");
  for (const json::value& bad :
       {json::value(HUGE_VAL), json::value(std::nan("")), json::value("1"), json::value(nullptr)})
    EXPECT_FALSE(Decimal::from_json(bad).ok());
  const auto sign = [](double a, double b) {
    return compare(Decimal::from_json(a).value(), Decimal::from_json(b).value());
  };
  const double numbers[] = {-200.5, -200, -3.25, -3.2, -0.001, 0, 0.001, 0.01, 0.1, 1, 1.5, 9, 10, 1e20};
  for (const double a : numbers)
    for (const double b : numbers) {
      EXPECT_EQ(sign(a, b) < 0, a < b) << a << " " << b;
      EXPECT_EQ(sign(a, b) == 0, a == b) << a << " " << b;
    }
}

}  // namespace
}  // namespace tandem::engine

#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace tandem {
namespace {

Result<int> parse_digit(char c) {
  if (c < '0' || c > '9') return invalid_argument("'{}' is not a digit", c);
  return c - '0';
}

Result<int> sum_of_digits(const std::string& text) {
  int sum = 0;
  for (const char c : text) sum += TD_TRY(parse_digit(c));
  return sum;
}

Status check_digits(const std::string& text) {
  for (const char c : text) TD_TRY(parse_digit(c));
  return ok_status();
}

TEST(Status, TryYieldsTheValueOrReturnsTheError) {
  EXPECT_EQ(*sum_of_digits("123"), 6);
  EXPECT_EQ(sum_of_digits("1x3").code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(check_digits("123").ok());
  EXPECT_EQ(check_digits("12!").code(), StatusCode::kInvalidArgument);
}

TEST(Status, ResultHoldsMoveOnlyValues) {
  auto make = []() -> Result<std::unique_ptr<int>> { return std::make_unique<int>(7); };
  auto use = [&]() -> Result<int> {
    const std::unique_ptr<int> value = TD_TRY(make());
    return *value;
  };
  EXPECT_EQ(*use(), 7);
}

TEST(Status, ContextComesFirst) {
  const Status status = not_found("no such tensor").with_context("model.safetensors");
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message().rfind("model.safetensors: ", 0), 0u);
  EXPECT_TRUE(ok_status().with_context("x").ok());
}

TEST(StatusDeathTest, ValueOfAnErrorAborts) {
  Result<int> result = parse_digit('x');
  EXPECT_DEATH((void)result.value(), "not a digit");
}

}  // namespace
}  // namespace tandem

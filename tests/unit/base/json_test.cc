#include "base/json.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

TEST(Json, ErrorsNameSourceAndPlace) {
  const Status status = parse_json("{\n  \"a\": 1,\n  oops\n}", "config.json").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("config.json"), std::string::npos);
  EXPECT_NE(status.message().find("line 3"), std::string::npos);
}

TEST(Json, DepthIsBounded) {
  EXPECT_TRUE(parse_json(std::string(30, '[') + std::string(30, ']'), "x").ok());
  EXPECT_FALSE(parse_json(std::string(100000, '['), "x").ok());
  EXPECT_FALSE(parse_json(std::string(100, '[') + std::string(100, ']'), "x", 50).ok());
}

TEST(Json, IncompleteAndTrailingTextAreErrors) {
  for (const char* text : {"", " ", "{", "{\"a\":", "1 2", "{} x", "\"\xff\""}) {
    EXPECT_FALSE(parse_json(text, "x").ok()) << text;
  }
}

}  // namespace
}  // namespace tandem

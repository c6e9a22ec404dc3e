// Every numeric field against the values that break servers: just inside and outside its range, beyond 32, 53 and 64
// bits, infinite, and of another kind. Whatever is refused is refused as 400 under the field's name.
#include <algorithm>
#include <set>

#include "unit/server/api/fixture.h"

namespace tandem::server {
namespace {

struct NumericField {
  const char* name;
  std::set<std::string> good;  // of kValues and the field's own edges
  std::set<std::string> bad = {};
  const char* with = "";  // members that the field needs beside it
};

const std::vector<std::string> kValues = {"-1",
                                          "0",
                                          "1",
                                          "2147483648",
                                          "9007199254740993",
                                          "9223372036854775808",
                                          "18446744073709551616",
                                          "1e999",
                                          "-1e999",
                                          "1.5",
                                          "\"1\"",
                                          "\"nan\"",
                                          "true",
                                          "[1]",
                                          "[]",
                                          "{}"};

void check(Prepare prepare, const std::string& prompt, const std::vector<NumericField>& fields) {
  const ApiContext context = tinyworld_context();
  for (const NumericField& field : fields) {
    std::vector<std::string> values = kValues;
    values.insert(values.end(), field.good.begin(), field.good.end());
    values.insert(values.end(), field.bad.begin(), field.bad.end());
    for (const std::string& value : values) {
      const std::string body = fmt::format(R"({{{}{},"{}":{}}})", prompt, field.with, field.name, value);
      const CallResult result = prepare(context, kInfo, body);
      if (field.good.contains(value)) {
        EXPECT_TRUE(std::holds_alternative<PreparedCall>(result)) << body << ": " << refusal(result).message;
        continue;
      }
      const ApiError error = refusal(result);
      EXPECT_EQ(error.status, 400) << body;
      EXPECT_TRUE(error.param.starts_with(field.name)) << body << ": " << error.param;
      EXPECT_EQ(error.type, "invalid_request_error");
      EXPECT_TRUE(error.message.starts_with(field.name)) << body << ": " << error.message;
      EXPECT_TRUE(parse_json(error_json(error), "error").ok());
    }
    const std::string null_body = fmt::format(R"({{{}{},"{}":null}})", prompt, field.with, field.name);
    EXPECT_TRUE(std::holds_alternative<PreparedCall>(prepare(context, kInfo, null_body))) << null_body;
  }
}

const std::vector<NumericField> kShared = {
    {"temperature", {"0", "1", "1.5", "2", "2.0"}, {"2.0000001", "-0.1"}},
    {"top_p", {"1", "0.5", "1e-30"}, {"1.0001", "1e-60"}},
    {"min_p", {"0", "1", "0.5"}, {"1.0001"}},
    {"presence_penalty", {"-2", "-1", "0", "1", "1.5", "2"}, {"-2.001", "2.001"}},
    {"frequency_penalty", {"-2", "-1", "0", "1", "1.5", "2"}, {"-2.001", "2.001"}},
    {"repetition_penalty", {"1", "1.5", "0.1", "100"}, {"100.001"}},
    {"top_k", {"-1", "0", "1", "2147483647"}, {"-2"}},
    {"seed",
     {"-1", "0", "1", "2147483648", "9007199254740993", "9223372036854775807", "9223372036854775808",
      "18446744073709551615", "-9223372036854775808"}},
    {"n", {"1", "16"}, {"17"}},
    {"min_tokens", {"0", "1", "10"}, {"251", "257"}, R"(,"max_tokens":250)"},
    {"prompt_logprobs", {"0", "1", "20"}, {"21"}},
    {"priority", {"-1", "0", "1", "2147483647", "-2147483648"}, {"-2147483649"}},
    {"allowed_token_ids", {"[]", "[1]", "[0,2047]"}, {"[2048]", "[-1]", "[1.5]", "[\"1\"]", "1"}},
    {"stop_token_ids", {"[]", "[1]", "[0,2047]"}, {"[2048]", "[-1]", "[null]", "[2147483648]"}},
    {"logit_bias", {"{}", R"({"1":100})", R"({"2047":-100})"}, {R"({"2048":0})", R"({"1":100.1})", R"({"1":1e999})"}},
};

TEST(ParameterMatrix, OfChats) {
  std::vector<NumericField> fields = kShared;
  fields.push_back({"max_tokens", {"1", "2147483647"}, {}});
  fields.push_back({"max_completion_tokens", {"1", "2147483647"}, {}});
  fields.push_back({"top_logprobs", {"0", "1", "20"}, {"21"}, R"(,"logprobs":true)"});
  check(prepare_chat_completion, R"("messages":[{"role":"user","content":"Hi"}])", fields);
}

TEST(ParameterMatrix, OfCompletions) {
  std::vector<NumericField> fields = kShared;
  fields.push_back({"max_tokens", {"1", "2147483647"}, {"0"}});
  fields.push_back({"max_tokens", {"0", "1", "2147483647"}, {}, R"(,"echo":true)"});
  fields.push_back({"logprobs", {"0", "1", "20"}, {"21"}});
  fields.push_back({"best_of", {"2", "16"}, {"17", "1"}, R"(,"n":2)"});
  check(prepare_completion, R"("prompt":"Hi")", fields);
}

TEST(ParameterMatrix, OfResponses) {
  std::vector<NumericField> fields = kShared;
  std::erase_if(fields, [](const NumericField& field) {
    return std::string_view(field.name) == "n" || std::string_view(field.name) == "prompt_logprobs";
  });
  for (NumericField& field : fields)
    if (std::string_view(field.name) == "min_tokens") field.with = R"(,"max_output_tokens":250)";
  fields.push_back({"n", {"1"}, {"2"}});
  fields.push_back({"max_output_tokens", {"1", "2147483647"}, {}});
  check(prepare_response, R"("input":"Hi")", fields);
}

TEST(ParameterMatrix, OfPromptIds) {
  const ApiContext context = tinyworld_context();
  for (const char* good : {"[0]", "[2047]", "[[1],[2,3]]", "[1.0]", "\"\\u0000\"", "[\"a\",[1]]"}) {
    const CallResult result = prepare_completion(context, kInfo, fmt::format(R"({{"prompt":{}}})", good));
    EXPECT_TRUE(std::holds_alternative<PreparedCall>(result)) << good << refusal(result).message;
  }
  for (const char* bad : {"[]", "[[]]", "\"\"", "[\"\"]", "[2048]", "[-1]", "[1e999]", "[18446744073709551615]",
                          "[1,\"a\"]", "[[1],2]", "[[[1]]]", "[null]", "{}", "1", "true", "[true]", "[1.5]"}) {
    const ApiError error = refusal(prepare_completion(context, kInfo, fmt::format(R"({{"prompt":{}}})", bad)));
    EXPECT_EQ(error.param, "prompt") << bad << ": " << error.message;
    EXPECT_EQ(error.status, 400);
  }
}

}  // namespace
}  // namespace tandem::server

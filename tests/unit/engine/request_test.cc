#include "engine/request.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace tandem::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

Status validate(const std::function<void(Request&)>& change, bool has_tokenizer = true) {
  Request request;
  request.prompt = {1, 2, 3};
  change(request);
  return validate_request(request, 100, 16, has_tokenizer);
}

TEST(ValidateRequest, AcceptsTheEdgesOfEachRange) {
  const std::vector<std::function<void(Request&)>> changes = {
      [](Request&) {},
      [](Request& r) { r.prompt.assign(15, 99); },
      [](Request& r) { r.max_tokens = 1 << 30; },
      [](Request& r) { r.min_tokens = 13; },
      [](Request& r) { r.max_tokens = r.min_tokens = 5; },
      [](Request& r) { r.samples_count = 128; },
      [](Request& r) { r.sampling.temperature = 0; },
      [](Request& r) { r.sampling.top_k = 1 << 30; },
      [](Request& r) { r.sampling.top_p = 1e-6f; },
      [](Request& r) { r.sampling.min_p = 1; },
      [](Request& r) { r.sampling.presence_penalty = -2; },
      [](Request& r) { r.sampling.frequency_penalty = 2; },
      [](Request& r) {
        r.sampling.logit_bias = {{99, -100.0f}};
      },
      [](Request& r) {
        r.sampling.bad_words = {{1, 2}};
      },
      [](Request& r) { r.logprobs = r.prompt_logprobs = 20; },
      [](Request& r) { r.logprobs = 0; },
      [](Request& r) { r.stop_strings.assign(16, "\xc3\xa9"); },
      [](Request& r) { r.stop_strings = {std::string(1024, 'a')}; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i)
    EXPECT_TRUE(validate(changes[i]).ok()) << i << validate(changes[i]).message();
}

TEST(ValidateRequest, RefusesWhatIsOutsideByName) {
  const std::vector<std::pair<const char*, std::function<void(Request&)>>> changes = {
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt", [](Request& r) { r.prompt.assign(16, 1); }},
      {"prompt", [](Request& r) { r.prompt[1] = 100; }},
      {"prompt", [](Request& r) { r.prompt[1] = -1; }},
      {"max_tokens", [](Request& r) { r.max_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.min_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.min_tokens = 14; }},
      {"min_tokens", [](Request& r) { r.max_tokens = 4, r.min_tokens = 5; }},
      {"n is", [](Request& r) { r.samples_count = 0; }},
      {"n is", [](Request& r) { r.samples_count = 129; }},
      {"temperature", [](Request& r) { r.sampling.temperature = -0.1f; }},
      {"temperature", [](Request& r) { r.sampling.temperature = kNan; }},
      {"temperature", [](Request& r) { r.sampling.temperature = kInfinity; }},
      {"top_k", [](Request& r) { r.sampling.top_k = -1; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 0; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 1.01f; }},
      {"top_p", [](Request& r) { r.sampling.top_p = kNan; }},
      {"min_p", [](Request& r) { r.sampling.min_p = -0.1f; }},
      {"min_p", [](Request& r) { r.sampling.min_p = kNan; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = kInfinity; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = kNan; }},
      {"presence_penalty", [](Request& r) { r.sampling.presence_penalty = 2.1f; }},
      {"presence_penalty", [](Request& r) { r.sampling.presence_penalty = kNan; }},
      {"frequency_penalty", [](Request& r) { r.sampling.frequency_penalty = kNan; }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{1, kInfinity}};
       }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{1, kNan}};
       }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias.assign(101, {1, 0.0f});
       }},
      {"allowed_token_ids", [](Request& r) { r.sampling.allowed_token_ids = {-1}; }},
      {"allowed_token_ids", [](Request& r) { r.sampling.allowed_token_ids.assign(101, 1); }},
      {"bad_words", [](Request& r) { r.sampling.bad_words = {{}}; }},
      {"bad_words",
       [](Request& r) {
         r.sampling.bad_words = {{1, 100}};
       }},
      {"bad_words", [](Request& r) { r.sampling.bad_words = {std::vector<TokenId>(257, 1)}; }},
      {"bad_words", [](Request& r) { r.sampling.bad_words.assign(1025, {1}); }},
      {"stop_token_ids", [](Request& r) { r.stop_token_ids = {100}; }},
      {"stop_token_ids", [](Request& r) { r.stop_token_ids.assign(1025, 1); }},
      {"stop", [](Request& r) { r.stop_strings.assign(17, "a"); }},
      {"stop",
       [](Request& r) {
         r.stop_strings = {"a", ""};
       }},
      {"stop", [](Request& r) { r.stop_strings = {std::string(1025, 'a')}; }},
      {"stop", [](Request& r) { r.stop_strings = {"\xa9"}; }},
      {"logprobs", [](Request& r) { r.logprobs = -1; }},
      {"logprobs", [](Request& r) { r.logprobs = 21; }},
      {"prompt_logprobs", [](Request& r) { r.prompt_logprobs = 21; }},
      {"cache_salt", [](Request& r) { r.cache_salt.assign(1025, 'x'); }},
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const Status status = validate(changes[i].second);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << i << " " << changes[i].first;
    EXPECT_NE(status.message().find(changes[i].first), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }
}

TEST(ValidateRequest, StopStringsNeedATokenizer) {
  const auto change = [](Request& r) { r.stop_strings = {"a"}; };
  EXPECT_TRUE(validate(change, true).ok());
  EXPECT_EQ(validate(change, false).code(), StatusCode::kInvalidArgument);
}

TEST(FinishReason, HasNames) {
  EXPECT_STREQ(finish_reason_name(FinishReason::kStop), "stop");
  EXPECT_STREQ(finish_reason_name(FinishReason::kLength), "length");
  EXPECT_STREQ(finish_reason_name(FinishReason::kError), "error");
}

}  // namespace
}  // namespace tandem::engine

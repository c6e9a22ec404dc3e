// The answers of /v1/chat/completions, not streamed.
#include <cmath>

#include "unit/server/api/fixture.h"

namespace tandem::server {
namespace {

using engine::FinishReason;

std::string chat_body(const std::string& members) {
  return R"({"messages":[{"role":"user","content":"Hi"}])" + (members.empty() ? "" : "," + members) + "}";
}

std::string prompt_text(const engine::Request& request) { return tinyworld_tokenizer().decode(request.prompt).value(); }

TEST(ChatAnswer, SaysWhatTheModelSays) {
  PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(), chat_body(R"("model":"tiny")"));
  ASSERT_EQ(call.requests.size(), 1u);
  EXPECT_FALSE(call.stream);
  EXPECT_EQ(prompt_text(call.requests[0]), "<|bos|><|user|>Hi<|end|><|assistant|>");
  std::string body;
  engine::TokenEvent event = token_event("hel", {5});
  event.cached_tokens = 4;
  call.writer->write(0, event, body);
  EXPECT_EQ(body, "");
  event = ending(token_event("lo", {6, 6}), FinishReason::kStop);
  event.cached_tokens = 4;
  event.weights_version = 8;
  call.writer->write(0, event, body);
  EXPECT_TRUE(call.writer->done());
  EXPECT_EQ(body,
            R"({"id":"chatcmpl-abc123","object":"chat.completion","created":1750000000,"model":"tinyworld-5m",)"
            R"("system_fingerprint":"fp_test","choices":[{"index":0,"message":{"role":"assistant","content":"hello",)"
            R"("refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":6,)"
            R"("completion_tokens":3,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":4},)"
            R"("completion_tokens_details":{"reasoning_tokens":0}},"weight_version":8,"weight_version_oldest":7})");
}

TEST(ChatAnswer, StopsAreReportedByWhatStopped) {
  const std::string members = R"("stop":["END"],"stop_token_ids":[9])";
  const auto reason = [&](std::optional<std::string> text, std::optional<TokenId> token) {
    PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(), chat_body(members));
    engine::TokenEvent event = ending(token_event("x", {1}), FinishReason::kStop);
    event.stop_string = std::move(text);
    event.stop_token = token;
    std::string body;
    call.writer->write(0, event, body);
    return text_at(parsed(body), "choices", 0, "stop_reason");
  };
  EXPECT_EQ(reason("END", std::nullopt), "\"END\"");
  EXPECT_EQ(reason(std::nullopt, 9), "9");
  EXPECT_EQ(reason(std::nullopt, 6), "null");  // the model's own end
}

TEST(ChatAnswer, LogprobsAreExactInBytesAndFinite) {
  PreparedCall call =
      prepared(prepare_chat_completion, tinyworld_context(),
               chat_body(R"("logprobs":true,"top_logprobs":1,"prompt_logprobs":0,"return_token_ids":true)"));
  engine::TokenEvent event = ending(token_event("x", {200}), FinishReason::kLength);
  const TokenId half = tinyworld_tokenizer().token_id("\xC3\x83").value();  // the byte C3, as byte-level BPE stores it
  event.logprobs = {{{half, -INFINITY, 9}, {5, NAN, 1}}};
  for (std::size_t i = 1; i < call.requests[0].prompt.size(); ++i)
    event.prompt_logprobs.push_back({{call.requests[0].prompt[i], -0.5f, 3}});
  std::string body;
  call.writer->write(0, event, body);
  const json::value answer = parsed(body);
  EXPECT_EQ(text_at(answer, "choices", 0, "logprobs", "content", 0),
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-9.999E3,\"bytes\":[195],\"top_logprobs\":[{\"token\":"
            "\"<|assistant|>\",\"logprob\":-9.999E3,\"bytes\":[60,124,97,115,115,105,115,116,97,110,116,124,62]}]}");
  EXPECT_EQ(text_at(answer, "prompt_logprobs", 0), "null");
  EXPECT_EQ(text_at(answer, "prompt_logprobs", 1), R"({"4":{"logprob":-5E-1,"rank":3,"decoded_token":"<|user|>"}})");
  EXPECT_EQ(text_at(answer, "choices", 0, "token_ids"), "[200]");
  EXPECT_EQ(at(answer, "prompt_token_ids").as_array().size(), call.requests[0].prompt.size());
}

TEST(ChatAnswer, ReasoningIsToldApartAndCounted) {
  ApiContext context = tinyworld_context();
  context.reasoning_format = ReasoningFormat::kThinkTags;
  PreparedCall call = prepared(prepare_chat_completion, context, chat_body(""));
  std::string body;
  call.writer->write(0, token_event("<think>", {1}), body);
  call.writer->write(0, token_event("because", {2, 3}), body);
  call.writer->write(0, token_event(" so</think>then", {4}), body);
  call.writer->write(0, ending(token_event("", {6}), FinishReason::kStop), body);
  const json::value answer = parsed(body);
  EXPECT_EQ(text_at(answer, "choices", 0, "message"),
            R"({"role":"assistant","content":"then","refusal":null,"reasoning":"because so",)"
            R"("reasoning_content":"because so"})");
  EXPECT_EQ(text_at(answer, "usage", "completion_tokens_details", "reasoning_tokens"), "2");
}

}  // namespace
}  // namespace tandem::server

// /v1/completions: prompts in every form, echoes, the best of several, log-probabilities.
#include <algorithm>

#include "unit/server/api/fixture.h"
#include "unit/server/api/stream_client.h"

namespace tandem::server {
namespace {

using engine::FinishReason;

PreparedCall prepare(const std::string& body) { return prepared(prepare_completion, tinyworld_context(), body); }

ApiError refusal_of(const std::string& body) { return refusal(prepare_completion(tinyworld_context(), kInfo, body)); }

engine::TokenEvent scored(std::string text, TokenId token, float logprob, int sample = 0) {
  engine::TokenEvent event = token_event(std::move(text), {token}, sample);
  event.logprobs = {{{token, logprob, 1}}};
  return event;
}

TEST(Completion, EachPromptIsARequest) {
  const PreparedCall call = prepare(R"({"prompt":["a",[5,6],"b"],"n":2,"seed":9})");
  ASSERT_EQ(call.requests.size(), 3u);
  EXPECT_EQ(call.requests[0].prompt, tinyworld_tokenizer().encode("a", {.add_special = true}).value());
  EXPECT_EQ(call.requests[1].prompt, (std::vector<TokenId>{5, 6}));
  for (const engine::Request& request : call.requests) {
    EXPECT_EQ(request.samples_count, 2);
    EXPECT_EQ(request.max_tokens, 16);
    EXPECT_EQ(request.sampling.seed, 9u);
  }
}

TEST(Completion, WithoutASeedEqualPromptsDrawDifferently) {
  const PreparedCall call = prepare(R"({"prompt":["a","a"]})");
  EXPECT_NE(call.requests[0].sampling.seed, call.requests[1].sampling.seed);
  EXPECT_EQ(call.requests[0].sampling.seed, prepare(R"({"prompt":["a","a"]})").requests[0].sampling.seed);
}

TEST(Completion, TooManyPromptsAreRefused) {
  std::string prompts = "\"a\"";
  for (int i = 1; i < 128; ++i) prompts += ",\"a\"";
  EXPECT_EQ(refusal_of("{\"prompt\":[" + prompts + "]}").message, "");
  EXPECT_EQ(refusal_of("{\"prompt\":[" + prompts + ",\"a\"]}").param, "prompt");
}

TEST(Completion, ChoicesAreNumberedThroughAllPrompts) {
  PreparedCall call = prepare(R"({"prompt":["a","b"],"n":2,"stream":true})");
  std::string body;
  for (const std::size_t request : {1u, 0u})
    for (const int sample : {1, 0})
      call.writer->write(
          request, ending(token_event(fmt::format("{}{}", request, sample), {1}, sample), FinishReason::kStop), body);
  const ReadAnswer answer = read_stream(body);
  ASSERT_EQ(answer.choices.size(), 4u);
  EXPECT_EQ(answer.choices.at(0).text, "00");
  EXPECT_EQ(answer.choices.at(1).text, "01");
  EXPECT_EQ(answer.choices.at(2).text, "10");
  EXPECT_EQ(answer.choices.at(3).text, "11");
}

TEST(Completion, TheWholeAnswerIsAsDocumented) {
  PreparedCall call = prepare(R"({"prompt":[[300,301]],"logprobs":1,"return_token_ids":true})");
  EXPECT_EQ(call.requests[0].logprobs, 1);
  engine::TokenEvent event = ending(token_event(" is", {300}), FinishReason::kLength);
  event.logprobs = {{{300, -0.25f, 2}, {301, -0.125f, 1}}};
  event.cached_tokens = 1;
  std::string body;
  call.writer->write(0, event, body);
  EXPECT_EQ(
      body, R"({"id":"cmpl-abc123","object":"text_completion","created":1750000000,"model":"tinyworld-5m",)"
            R"("system_fingerprint":"fp_test","choices":[{"index":0,"text":" is","logprobs":{"tokens":[" is"],)"
            R"("token_logprobs":[-0.25],"top_logprobs":[{)" +
                [] { return "\"" + tinyworld_tokenizer().token_bytes(301) + "\""; }() +
                R"(:-0.125," is":-0.25}],"text_offset":[0]},"finish_reason":"length","stop_reason":null,)"
                R"("prompt_token_ids":[300,301],"token_ids":[300]}],"usage":{"prompt_tokens":2,"completion_tokens":1,)"
                R"("total_tokens":3,"prompt_tokens_details":{"cached_tokens":1},)"
                R"("completion_tokens_details":{"reasoning_tokens":0}},"weight_version":7})");
}

TEST(Completion, TheBestOfSeveralAreShownBestFirst) {
  PreparedCall call = prepare(R"({"prompt":"a","n":2,"best_of":4})");
  EXPECT_EQ(call.requests[0].samples_count, 4);
  EXPECT_EQ(call.requests[0].logprobs, 0);
  std::string body;
  const float means[] = {-3, -1, NAN, -2};
  for (int sample = 0; sample < 4; ++sample) {
    // The mean counts, not the sum: the longest has the worst sum.
    for (int i = 0; i < (sample == 1 ? 10 : 1); ++i)
      call.writer->write(0, scored(fmt::format("{}", sample), 1, means[sample], sample), body);
    call.writer->write(0, ending(token_event("", {}, sample), FinishReason::kStop), body);
  }
  const json::value answer = parsed(body);
  ASSERT_EQ(at(answer, "choices").as_array().size(), 2u);
  EXPECT_EQ(text_at(answer, "choices", 0, "text"), "\"1111111111\"");
  EXPECT_EQ(text_at(answer, "choices", 0, "index"), "0");
  EXPECT_EQ(text_at(answer, "choices", 1, "text"), "\"3\"");
  EXPECT_EQ(text_at(answer, "choices", 1, "logprobs"), "null");
  EXPECT_EQ(text_at(answer, "usage", "completion_tokens"), "13");
  EXPECT_EQ(refusal_of(R"({"prompt":"a","n":2,"best_of":1})").param, "best_of");
  EXPECT_EQ(refusal_of(R"({"prompt":"a","best_of":2,"stream":true})").param, "best_of");
  EXPECT_EQ(refusal_of(R"({"prompt":"a","best_of":1,"stream":true})").message, "");
}

TEST(Completion, AnEchoShowsThePromptAndItsScores) {
  const std::string text = "caf\xC3\xA9 is<|user|>";
  for (const bool stream : {false, true}) {
    PreparedCall call = prepare(fmt::format(R"({{"prompt":"{}","echo":true,"logprobs":0,"stream":{}}})", text, stream));
    const engine::Request& request = call.requests[0];
    EXPECT_EQ(request.prompt_logprobs, 0);
    engine::TokenEvent event = ending(scored(" is", 300, -1), FinishReason::kStop);
    for (std::size_t i = 1; i < request.prompt.size(); ++i)
      event.prompt_logprobs.push_back({{request.prompt[i], -2, 1}});
    std::string body;
    call.writer->write(0, event, body);
    const ReadAnswer answer = stream ? read_stream(body) : read_whole(body);
    const ReadChoice& choice = answer.choices.at(0);
    EXPECT_EQ(choice.text, text + " is");
    ASSERT_EQ(choice.logprobs.size(), request.prompt.size() + 1);
    EXPECT_NE(choice.logprobs[0].find("nullnull0"), std::string::npos) << choice.logprobs[0];
    // Offsets count characters, not bytes: "café is<|user|>" has 15.
    EXPECT_TRUE(choice.logprobs.back().ends_with("15")) << choice.logprobs.back();
  }
}

TEST(Completion, TextOffsetsAreWhereTokensBeginHoweverCharactersAreSplit) {
  const std::string text = "\xF0\x9F\x91\x8D\xE4\xB8\x96 \xC3\xA9x";
  const std::vector<TokenId> tokens = tinyworld_tokenizer().encode(text).value();
  PreparedCall call = prepare(R"({"prompt":"a","logprobs":0})");
  std::string body, seen;
  std::vector<std::size_t> expected;
  for (const TokenId token : tokens) {
    expected.push_back(static_cast<std::size_t>(
        std::ranges::count_if(seen, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; })));
    seen += tinyworld_tokenizer().token_bytes(token);
    call.writer->write(0, scored("", token, -1), body);
  }
  ASSERT_EQ(seen, text);
  call.writer->write(0, ending(token_event(text, {}), FinishReason::kStop), body);
  const json::value offsets = at(parsed(body), "choices", 0, "logprobs", "text_offset");
  EXPECT_EQ(to_json_text(offsets), to_json_text(json::array(expected.begin(), expected.end())));
  ASSERT_GT(tokens.size(), 6u);  // characters are split
}

TEST(Completion, ZeroTokensScoreThePromptOnly) {
  for (const bool stream : {false, true}) {
    PreparedCall call = prepare(fmt::format(
        R"({{"prompt":"hi is","echo":true,"max_tokens":0,"logprobs":0,"return_token_ids":true,"stream":{}{}}})", stream,
        stream ? R"(,"stream_options":{"include_usage":true})" : ""));
    EXPECT_EQ(call.requests[0].max_tokens, 1);
    engine::TokenEvent event = ending(scored("secret", 300, -1), FinishReason::kLength);
    std::string body;
    call.writer->write(0, event, body);
    EXPECT_EQ(body.find("secret"), std::string::npos);
    const ReadAnswer answer = stream ? read_stream(body) : read_whole(body);
    EXPECT_EQ(answer.choices.at(0).text, "hi is");
    EXPECT_EQ(answer.choices.at(0).logprobs.size(), call.requests[0].prompt.size());
    EXPECT_TRUE(answer.choices.at(0).token_ids.empty());
    EXPECT_EQ(answer.choices.at(0).finish, "length");
    EXPECT_EQ(text_at(parsed(answer.usage), "completion_tokens"), "0");
  }
}

TEST(Completion, WithoutATokenizerIdsGoInAndOut) {
  ApiContext context = tinyworld_context();
  context.tokenizer = nullptr;
  context.chat = nullptr;
  EXPECT_EQ(refusal(prepare_completion(context, kInfo, R"({"prompt":"a"})")).param, "prompt");
  EXPECT_EQ(refusal(prepare_completion(context, kInfo, R"({"prompt":[1],"stop":"a"})")).status, 400);
  EXPECT_EQ(refusal(prepare_completion(context, kInfo, R"({"prompt":[1],"bad_words":"a"})")).param, "bad_words");
  PreparedCall call = prepared(prepare_completion, context, R"({"prompt":[1],"logprobs":0,"return_token_ids":true})");
  std::string body;
  call.writer->write(0, ending(scored("", 17, -1), FinishReason::kStop), body);
  EXPECT_EQ(text_at(parsed(body), "choices", 0, "logprobs", "tokens"), "[\"token_id:17\"]");
  EXPECT_EQ(text_at(parsed(body), "choices", 0, "token_ids"), "[17]");
}

TEST(Completion, WhatOnlyOtherModelsCanDoIsRefused) {
  EXPECT_EQ(refusal_of(R"({"prompt":"a","suffix":"b"})").param, "suffix");
  EXPECT_EQ(refusal_of(R"({"prompt":"a","suffix":""})").message, "");
  EXPECT_EQ(refusal_of(R"({})").code, "missing_required_parameter");
  EXPECT_EQ(refusal_of(R"({"prompt":"a","model":"other"})").status, 404);
  std::string longest = "[0";
  for (int i = 1; i < 255; ++i) longest += ",0";
  EXPECT_EQ(refusal_of(R"({"prompt":)" + longest + "]}").message, "");
  const ApiError error = refusal_of(R"({"prompt":)" + longest + ",0]}");
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_EQ(error.param, "prompt");
}

}  // namespace
}  // namespace tandem::server

// Streams: put together again they are the whole answer, however the text was cut and whatever was asked for.
#include <algorithm>
#include <random>

#include "unit/server/api/stream_client.h"

namespace tandem::server {
namespace {

using engine::FinishReason;
using engine::TokenEvent;

struct Script {
  std::vector<std::pair<std::size_t, TokenEvent>> events;  // with the request's place
};

const std::vector<std::string>& texts() {
  static const std::vector<std::string> all = {
      "",
      "plain text",
      "quotes \" and \\ and\nlines\t\x01",
      "\xC3\xA9t\xC3\xA9 \xE4\xB8\x96\xE7\x95\x8C \xF0\x9F\x91\x8D",
      "<think>because</think>so",
      "because</think>\n\nso",
      "<think>never closed",
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
      "<think>hm</think>text <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n"
      "<tool_call>{\"name\": \"g\", \"arguments\": {\"b\": \"\xC3\xA9\"}}</tool_call>",
      "<tool_call>{\"name\": broken",
      "<tool_ca",
  };
  return all;
}

// Cuts between characters, as engines do.
std::vector<std::string> cut(const std::string& text, std::mt19937& random) {
  std::vector<std::string> pieces;
  std::string piece;
  for (std::size_t i = 0; i < text.size(); ++i) {
    piece += text[i];
    const bool inside = i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xC0) == 0x80;
    if (inside || random() % 3 != 0) continue;
    pieces.push_back(std::move(piece));
    piece.clear();
    if (random() % 4 == 0) pieces.emplace_back();  // a token that gives no text yet
  }
  pieces.push_back(std::move(piece));
  return pieces;
}

engine::TokenLogprobs random_logprobs(TokenId token, std::mt19937& random) {
  engine::TokenLogprobs position = {{token, -static_cast<float>(random() % 100) / 7, 1}};
  for (int i = 0; i < 2; ++i)
    position.push_back({static_cast<TokenId>(random() % 300), random() % 5 == 0 ? -INFINITY : -1.5f, i + 1});
  return position;
}

std::vector<TokenEvent> random_sample(int sample, bool logprobs, std::mt19937& random) {
  std::vector<TokenEvent> events;
  for (std::string& piece : cut(texts()[random() % texts().size()], random)) {
    TokenEvent event = token_event(std::move(piece), {}, sample);
    for (std::size_t i = 1 + random() % 2; i > 0; --i) {
      event.tokens.push_back(static_cast<TokenId>(random() % 400));
      if (logprobs) event.logprobs.push_back(random_logprobs(event.tokens.back(), random));
    }
    events.push_back(std::move(event));
  }
  if (random() % 3 == 0) events.push_back(token_event("", {}, sample));  // an end that brings no token
  events.back().finish = random() % 2 == 0 ? FinishReason::kStop : FinishReason::kLength;
  if (events.back().finish == FinishReason::kStop && random() % 2 == 0) events.back().stop_string = "END";
  return events;
}

// Samples of requests, interleaved at random.
Script random_script(const PreparedCall& call, bool logprobs, std::mt19937& random) {
  std::vector<std::pair<std::size_t, std::vector<TokenEvent>>> samples;
  for (std::size_t request = 0; request < call.requests.size(); ++request)
    for (int sample = 0; sample < call.requests[request].samples_count; ++sample)
      samples.emplace_back(request, random_sample(sample, logprobs, random));
  for (auto& [request, events] : samples)
    for (std::size_t i = 1; call.requests[request].prompt_logprobs && i < call.requests[request].prompt.size(); ++i)
      events[0].prompt_logprobs.push_back(random_logprobs(call.requests[request].prompt[i], random));
  for (auto& sample : samples) std::reverse(sample.second.begin(), sample.second.end());
  Script script;
  while (!samples.empty()) {
    auto& [request, events] = samples[random() % samples.size()];
    script.events.emplace_back(request, std::move(events.back()));
    events.pop_back();
    std::erase_if(samples, [](const auto& entry) { return entry.second.empty(); });
  }
  return script;
}

std::string play(PreparedCall& call, const Script& script) {
  std::string body;
  for (const auto& [request, event] : script.events) {
    EXPECT_FALSE(call.writer->done());
    call.writer->write(request, event, body);
  }
  EXPECT_TRUE(call.writer->done());
  EXPECT_FALSE(call.writer->error());
  return body;
}

std::string body_of(json::object fields, bool stream, bool usage) {
  if (stream) {
    fields["stream"] = true;
    if (usage) fields["stream_options"] = {{"include_usage", true}};
  }
  return to_json_text(fields);
}

void expect_same(Prepare prepare, const ApiContext& context, const json::object& fields, bool logprobs,
                 std::mt19937& random) {
  PreparedCall whole = prepared(prepare, context, body_of(fields, false, false));
  const Script script = random_script(whole, logprobs, random);
  const bool usage = random() % 2 == 0;
  PreparedCall streamed = prepared(prepare, context, body_of(fields, true, usage));
  EXPECT_FALSE(whole.stream);
  EXPECT_TRUE(streamed.stream);
  const ReadAnswer expected = read_whole(play(whole, script));
  const ReadAnswer answer = read_stream(play(streamed, script));
  SCOPED_TRACE(to_json_text(fields));
  EXPECT_TRUE(answer.done);
  EXPECT_EQ(answer.id, expected.id);
  EXPECT_EQ(answer.created, expected.created);
  EXPECT_EQ(answer.model, expected.model);
  EXPECT_EQ(answer.weight_version, expected.weight_version);
  if (usage) {
    EXPECT_EQ(answer.usage, expected.usage);
  }
  ASSERT_EQ(answer.choices.size(), expected.choices.size());
  for (const auto& [index, choice] : expected.choices) {
    const ReadChoice& other = answer.choices.at(index);
    EXPECT_EQ(other.text, choice.text);
    EXPECT_EQ(other.reasoning, choice.reasoning);
    EXPECT_EQ(other.calls, choice.calls);
    EXPECT_EQ(other.logprobs, choice.logprobs);
    EXPECT_EQ(other.token_ids, choice.token_ids);
    EXPECT_EQ(other.finish, choice.finish);
    EXPECT_EQ(other.stop_reason, choice.stop_reason);
    EXPECT_FALSE(choice.finish.empty());
  }
}

TEST(Streams, OfChatsAreTheWholeAnswerInPieces) {
  std::mt19937 random(1);
  for (int round = 0; round < 1500; ++round) {
    ApiContext context = tinyworld_context();
    if (random() % 2 == 0) context.reasoning_format = ReasoningFormat::kThinkTags;
    context.tool_format = ToolFormat::kHermes;
    json::object fields = {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"n", 1 + random() % 3}};
    if (random() % 2 == 0) {
      fields["tools"] = parsed(R"([{"type":"function","function":{"name":"f"}}])");
      if (random() % 2 == 0) fields["parallel_tool_calls"] = false;
    }
    const bool logprobs = random() % 2 == 0;
    if (logprobs) {
      fields["logprobs"] = true;
      fields["top_logprobs"] = 2;
    }
    if (random() % 3 == 0) fields["return_token_ids"] = true;
    if (random() % 4 == 0) fields["return_tokens_as_token_ids"] = true;
    expect_same(prepare_chat_completion, context, fields, logprobs, random);
    if (HasFailure()) return;
  }
}

TEST(Streams, OfCompletionsAreTheWholeAnswerInPieces) {
  std::mt19937 random(2);
  const ApiContext context = tinyworld_context();
  for (int round = 0; round < 1500; ++round) {
    json::object fields = {{"prompt", {"What is", "caf\xC3\xA9 <|user|>"}}, {"n", 1 + random() % 3}};
    if (random() % 3 == 0) fields["prompt"] = {0, 4, 300, 301};
    const bool logprobs = random() % 2 == 0;
    if (logprobs) fields["logprobs"] = 2;
    if (random() % 2 == 0) fields["echo"] = true;
    if (random() % 3 == 0) fields["return_token_ids"] = true;
    if (fields.contains("echo") && random() % 3 == 0) fields["max_tokens"] = 0;
    expect_same(prepare_completion, context, fields, logprobs, random);
    if (HasFailure()) return;
  }
}

const char* kChat = R"({"messages":[{"role":"user","content":"Hi"}],"stream":true)";

TEST(Streams, SayNothingBeforeTheFirstToken) {
  PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(), std::string(kChat) + "}");
  std::string body;
  call.writer->write(0, token_event("", {1}), body);
  const json::value first = parsed(sse_data(body).at(0));
  EXPECT_EQ(text_at(first, "choices", 0, "delta"), R"({"role":"assistant","content":""})");
  body.clear();
  call.writer->write(0, token_event("", {2}), body);  // half a character
  EXPECT_EQ(body, "");
  call.writer->write(0, token_event("x", {3}), body);
  EXPECT_EQ(text_at(parsed(sse_data(body).at(0)), "choices", 0, "delta"), R"({"content":"x"})");
}

TEST(Streams, AreByteForByteWhatIsDocumented) {
  PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(),
                               std::string(kChat) + R"(,"stream_options":{"include_usage":true}})");
  std::string body;
  call.writer->write(0, token_event("a\"b", {1}), body);
  call.writer->write(0, token_event("c", {2}), body);
  call.writer->write(0, ending(token_event("", {6}), FinishReason::kStop), body);
  const std::string head =
      R"(data: {"id":"chatcmpl-abc123","object":"chat.completion.chunk","created":1750000000,"model":"tinyworld-5m",)"
      R"("system_fingerprint":"fp_test","choices":[)";
  const std::string usage =
      R"({"prompt_tokens":6,"completion_tokens":3,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0},)"
      R"("completion_tokens_details":{"reasoning_tokens":0}})";
  EXPECT_EQ(
      body,
      head + R"({"index":0,"delta":{"role":"assistant","content":"a\"b"},"logprobs":null,"finish_reason":null}],)" +
          "\"usage\":null}\n\n" + head +
          R"({"index":0,"delta":{"content":"c"},"logprobs":null,"finish_reason":null}],"usage":null})" + "\n\n" + head +
          R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"weight_version":7,)" +
          "\"usage\":null}\n\n" + head + R"(],"usage":)" + usage + ",\"weight_version\":7}\n\ndata: [DONE]\n\n");
}

TEST(Streams, UsageSoFarIsInEveryChunkIfAskedFor) {
  PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(),
                               std::string(kChat) + R"(,"stream_options":{"continuous_usage_stats":true}})");
  std::string body;
  for (TokenId token = 1; token <= 3; ++token) call.writer->write(0, token_event("x", {token}), body);
  call.writer->write(0, ending(token_event("", {6}), FinishReason::kStop), body);
  const std::vector<std::string> events = sse_data(body);
  ASSERT_EQ(events.size(), 6u);
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_EQ(text_at(parsed(events[i]), "usage", "completion_tokens"),
              std::to_string(std::min<std::size_t>(i + 1, 4)));
}

TEST(Streams, EndWithTheErrorThatEndedTheAnswer) {
  for (const Prepare prepare : {prepare_chat_completion, prepare_completion}) {
    for (const bool stream : {true, false}) {
      const char* prompt =
          prepare == prepare_completion ? R"("prompt":"Hi")" : R"("messages":[{"role":"user","content":"Hi"}])";
      PreparedCall call =
          prepared(prepare, tinyworld_context(), fmt::format(R"({{{},"n":2,"stream":{}}})", prompt, stream));
      std::string body;
      call.writer->write(0, token_event("x", {1}), body);
      TokenEvent event = ending(token_event("tail", {}, 1), FinishReason::kError);
      event.error = Status(StatusCode::kAborted, "the step failed");
      call.writer->write(0, event, body);
      ASSERT_TRUE(call.writer->done());
      ASSERT_TRUE(call.writer->error());
      EXPECT_EQ(call.writer->error()->status, 500);
      EXPECT_EQ(call.writer->error()->code, "engine_error");
      const std::string before = body;
      call.writer->write(0, token_event("late", {2}), body);
      EXPECT_EQ(body, before);
      if (stream) {
        const ReadAnswer answer = read_stream(body);
        EXPECT_EQ(answer.error,
                  R"({"message":"the step failed","type":"server_error","param":null,"code":"engine_error"})");
        EXPECT_FALSE(answer.done);
        EXPECT_EQ(answer.choices.at(0).finish, "");
      } else {
        EXPECT_EQ(body, "");
      }
    }
  }
}

TEST(Streams, ADeadlineIsAnErrorAndNotAnEnd) {
  for (const bool admitted : {false, true}) {
    PreparedCall call = prepared(prepare_chat_completion, tinyworld_context(), std::string(kChat) + "}");
    TokenEvent event = ending(token_event("", {}), FinishReason::kDeadline);
    if (!admitted) event.admitted = TimePoint();
    std::string body;
    call.writer->write(0, event, body);
    EXPECT_TRUE(call.writer->done());
    EXPECT_EQ(call.writer->error()->status, admitted ? 408 : 503);
    EXPECT_EQ(text_at(parsed(sse_data(body).at(0)), "error", "code"), "\"timeout\"");
  }
}

TEST(Streams, OfCancelledCallsJustEnd) {
  for (const char* stream : {"true", "false"}) {
    PreparedCall call = prepared(prepare_completion, tinyworld_context(),
                                 fmt::format(R"({{"prompt":"Hi","n":2,"stream":{}}})", stream));
    std::string body;
    call.writer->write(0, ending(token_event("x", {}, 0), FinishReason::kCancelled), body);
    EXPECT_FALSE(call.writer->done());
    call.writer->write(0, ending(token_event("", {}, 1), FinishReason::kCancelled), body);
    EXPECT_TRUE(call.writer->done());
    EXPECT_FALSE(call.writer->error());
    EXPECT_EQ(body, "");
  }
}

}  // namespace
}  // namespace tandem::server

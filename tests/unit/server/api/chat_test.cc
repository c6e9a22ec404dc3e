// /v1/chat/completions: what a body becomes, and what is refused.
#include <algorithm>

#include "server/api/chat_call.h"
#include "server/api/chat_messages.h"
#include "unit/server/api/fixture.h"
#include "unit/server/api/stream_client.h"

namespace tandem::server {
namespace {

std::string chat_body(const std::string& members) {
  return R"({"messages":[{"role":"user","content":"Hi"}])" + (members.empty() ? "" : "," + members) + "}";
}

engine::Request request_of(const std::string& members, const ApiContext& context = tinyworld_context()) {
  return prepared(prepare_chat_completion, context, chat_body(members)).requests.at(0);
}

ApiError refusal_of(const std::string& body, const ApiContext& context = tinyworld_context()) {
  return refusal(prepare_chat_completion(context, kInfo, body));
}

std::string prompt_text(const engine::Request& request) { return tinyworld_tokenizer().decode(request.prompt).value(); }

TEST(Chat, FieldsReachTheEngine) {
  const engine::Request request = request_of(
      R"("temperature":0.5,"top_p":0.25,"top_k":7,"min_p":0.125,"presence_penalty":1,"frequency_penalty":-1,)"
      R"("repetition_penalty":1.5,"seed":42,"n":3,"max_completion_tokens":9,"max_tokens":9,"min_tokens":2,)"
      R"("stop":["a","b"],"stop_token_ids":[7],"include_stop_str_in_output":true,"ignore_eos":true,)"
      R"("skip_special_tokens":false,"logit_bias":{"5":-100},"allowed_token_ids":[1,2],"priority":-3,)"
      R"("cache_salt":"s","cache_prompt":false,"logprobs":true,"top_logprobs":4,"logprobs_mode":"processed",)"
      R"("prompt_logprobs":1)");
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_p, 0.25f);
  EXPECT_EQ(request.sampling.top_k, 7);
  EXPECT_EQ(request.sampling.min_p, 0.125f);
  EXPECT_EQ(request.sampling.presence_penalty, 1.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, -1.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request.sampling.seed, 42u);
  EXPECT_EQ(request.samples_count, 3);
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.min_tokens, 2);
  EXPECT_EQ(request.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.stop_token_ids, std::vector<TokenId>{7});
  EXPECT_TRUE(request.include_stop_string && request.ignore_eos);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_EQ(request.sampling.logit_bias, (std::vector<std::pair<TokenId, float>>{{5, -100.0f}}));
  EXPECT_EQ(request.sampling.allowed_token_ids, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(request.priority, -3);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_FALSE(request.cache_prefix);
  EXPECT_EQ(request.logprobs, 4);
  EXPECT_EQ(request.logprobs_mode, engine::LogprobsMode::kProcessed);
  EXPECT_EQ(request.prompt_logprobs, 1);
}

TEST(Chat, WhatIsNotSaidIsTheServersDefault) {
  ApiContext context = tinyworld_context();
  context.defaults.sampling.temperature = 0.75f;
  context.defaults.sampling.top_k = 5;
  context.defaults.max_tokens = 11;
  const engine::Request request = request_of("", context);
  EXPECT_EQ(request.sampling.temperature, 0.75f);
  EXPECT_EQ(request.sampling.top_k, 5);
  EXPECT_EQ(request.max_tokens, 11);
  EXPECT_EQ(request.logprobs, std::nullopt);
}

TEST(Chat, WithoutASeedEveryCallDrawsItsOwn) {
  const ApiContext context = tinyworld_context();
  const auto seed = [&](const char* id) {
    CallResult result = prepare_chat_completion(context, {.id = id, .created_s = 1}, chat_body(""));
    return std::get<PreparedCall>(result).requests[0].sampling.seed;
  };
  EXPECT_EQ(seed("one"), seed("one"));
  EXPECT_NE(seed("one"), seed("two"));
}

TEST(Chat, BadWordsAreForbiddenAfterASpaceToo) {
  const engine::Request request = request_of(R"("bad_words":["is","zq"])");
  const model::Tokenizer& tokenizer = tinyworld_tokenizer();
  const auto has = [&](const std::string& word) {
    return std::ranges::count(request.sampling.bad_words, tokenizer.encode(word).value()) == 1;
  };
  EXPECT_TRUE(has("is"));
  EXPECT_TRUE(has(" is"));
  EXPECT_TRUE(has("zq"));
  EXPECT_EQ(refusal_of(chat_body(R"("bad_words":[""])")).param, "bad_words");
}

TEST(Chat, MessagesTakeTheFormOfTemplates) {
  const json::object document = parsed(R"({"messages":[
    {"role":"developer","content":[{"type":"text","text":"a"},{"type":"input_text","text":"b"}],"name":"dev","extra":1},
    {"role":"assistant","content":null,"reasoning":"hm","tool_calls":[
      {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}},
      {"id":"call_2","type":"function","function":{"name":"g","arguments":"not json"}},
      {"function":{"name":"h","arguments":""}}]},
    {"role":"tool","tool_call_id":"call_1","content":"4"},
    {"role":"assistant","content":"done","refusal":null}]})")
                                    .as_object();
  FieldError error;
  JsonFields fields(document, error);
  const json::array messages = read_messages(fields, ToolFormat::kHermes);
  EXPECT_TRUE(error.ok()) << error.message;
  EXPECT_EQ(to_json_text(messages),
            R"([{"role":"system","content":"a\nb","name":"dev"},)"
            R"({"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[)"
            R"({"type":"function","function":{"name":"f","arguments":{"x":1}},"id":"call_1"},)"
            R"({"type":"function","function":{"name":"g","arguments":"not json"},"id":"call_2"},)"
            R"({"type":"function","function":{"name":"h","arguments":{}}}]},)"
            R"({"role":"tool","content":"4","tool_call_id":"call_1"},{"role":"assistant","content":"done"}])");
}

TEST(Chat, IdsOfCallsFitMistralsTemplatesAndStillMatch) {
  const json::object document = parsed(R"({"messages":[
    {"role":"assistant","tool_calls":[{"id":"call_long_id","function":{"name":"f","arguments":"{}"}},
                                      {"id":"abcdef123","function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"call_long_id","content":"4"}]})")
                                    .as_object();
  FieldError error;
  JsonFields fields(document, error);
  const json::array messages = read_messages(fields, ToolFormat::kMistral);
  const std::string id = string_of(at(messages[0], "tool_calls", 0, "id"));
  EXPECT_EQ(id.size(), 9u);
  EXPECT_EQ(string_of(at(messages[1], "tool_call_id")), id);
  EXPECT_EQ(string_of(at(messages[0], "tool_calls", 1, "id")), "abcdef123");
}

TEST(Chat, BadMessagesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "messages"},
      {R"({})", "messages"},
      {R"("Hi")", "messages"},
      {R"([1])", "messages[0]"},
      {R"([{"content":"a"}])", "messages[0].role"},
      {R"([{"role":"robot","content":"a"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":null}])", "messages[0].content"},
      {R"([{"role":"user","content":1}])", "messages[0].content"},
      {R"([{"role":"user","content":[1]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":[{"text":"a"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])",
       "messages[1].content[0].type"},
      {R"([{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"file","file":{}}]}])", "messages[0].content[0].type"},
      {R"([{"role":"assistant","tool_calls":[{"type":"custom","custom":{}}]}])", "messages[0].tool_calls[0].type"},
      {R"([{"role":"assistant","tool_calls":[{"function":{}}]}])", "messages[0].tool_calls[0].function.name"},
      {R"([{"role":"assistant","content":"","tool_calls":{}}])", "messages[0].tool_calls"},
      {R"([{"role":"assistant","content":"a","function_call":{"name":"f"}}])", "messages[0].function_call"},
  };
  for (const auto& [messages, param] : cases) {
    const ApiError error = refusal_of(fmt::format(R"({{"messages":{}}})", messages));
    EXPECT_EQ(error.status, 400) << messages;
    EXPECT_EQ(error.param, param) << messages << error.message;
  }
}

TEST(Chat, AnUnknownModelIsNotFound) {
  const ApiError error = refusal_of(chat_body(R"("model":"gpt-4o")"));
  EXPECT_EQ(error.status, 404);
  EXPECT_EQ(error.code, "model_not_found");
  EXPECT_NE(error.message.find("tinyworld-5m or tiny"), std::string::npos);
  EXPECT_EQ(refusal_of(chat_body(R"("model":5)")).status, 400);
}

TEST(Chat, TextThatIsNoJsonIsInvalid) {
  for (const char* body : {"", "{", "[]", "null", "{\"messages\":[}", "\xFF", "{} {}"}) {
    const ApiError error = refusal_of(body);
    EXPECT_EQ(error.status, 400) << body;
    EXPECT_EQ(error.code, "invalid_json") << body;
  }
  std::string deep = R"({"metadata":)" + std::string(100000, '[');
  EXPECT_EQ(refusal_of(deep).code, "invalid_json");
}

TEST(Chat, PromptsThatFillTheContextAreRefused) {
  ApiContext context = tinyworld_context();
  context.context_tokens = 6;  // as many as the prompt has
  const ApiError error = refusal_of(chat_body(""), context);
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_EQ(error.param, "messages");
  context.context_tokens = 7;
  EXPECT_EQ(refusal_of(chat_body(R"("max_tokens":1000)"), context).message, "");
}

TEST(Chat, FieldsThatContradictEachOtherAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("max_tokens":1,"max_completion_tokens":2)", "max_tokens"},
      {R"("top_logprobs":1)", "top_logprobs"},
      {R"("top_logprobs":1,"logprobs":false)", "top_logprobs"},
      {R"("logprobs":1)", "logprobs"},
      {R"("stream_options":{})", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("stream":true,"prompt_logprobs":1)", "prompt_logprobs"},
      {R"("add_generation_prompt":true,"continue_final_message":true)", "continue_final_message"},
      {R"("reasoning_effort":"extreme")", "reasoning_effort"},
      {R"("stop":["a",""])", "stop"},
      {R"("response_format":{"type":"json_object"},"guided_regex":"a")", "guided_regex"},
      {R"("response_format":{"type":"json_schema"})", "response_format.json_schema"},
      {R"("response_format":{"type":"xml"})", "response_format.type"},
      {R"("response_format":{})", "response_format.type"},
      {R"("guided_json":"{")", "guided_json"},
      {R"("guided_json":5)", "guided_json"},
      {R"("guided_choice":[])", "guided_choice"},
      {R"("guided_regex":"(")", "guided_regex"},
      {R"("structured_outputs":{"structural_tag":"x"})", "structured_outputs.structural_tag"},
      {R"("structured_outputs":{"regex":"("})", "structured_outputs.regex"},
  };
  for (const auto& [members, param] : cases) {
    const ApiError error = refusal_of(chat_body(members));
    EXPECT_EQ(error.status, 400) << members;
    EXPECT_EQ(error.param, param) << members << error.message;
  }
}

TEST(Chat, WhatWouldChangeTheAnswerIsRefusedUnlessItAsksForNothing) {
  for (const char* member : {"audio", "web_search_options", "functions", "function_call", "use_beam_search", "echo",
                             "chat_template", "documents", "mirostat", "logits_processors", "truncate_prompt_tokens"}) {
    const ApiError error = refusal_of(chat_body(fmt::format(R"("{}":"x")", member)));
    EXPECT_EQ(error.code, "unsupported_parameter") << member;
    EXPECT_EQ(error.param, member);
    for (const char* nothing : {"null", "false", "0", "[]", "{}", "\"\""})
      EXPECT_EQ(refusal_of(chat_body(fmt::format(R"("{}":{})", member, nothing))).message, "") << member;
  }
  EXPECT_EQ(refusal_of(chat_body(R"("modalities":["text","audio"])")).param, "modalities");
  EXPECT_EQ(refusal_of(chat_body(R"("modalities":["text"])")).message, "");
}

TEST(Chat, UnknownFieldsAreRefusedOnlyInStrictMode) {
  ApiContext context = tinyworld_context();
  const std::string body = chat_body(
      R"("temprature":1,"user":"u","metadata":{"a":"b"},"store":true,"service_tier":"auto","verbosity":"low",)"
      R"("prediction":{"type":"content","content":"x"},"stream_options":null)");
  EXPECT_EQ(refusal_of(body, context).message, "");
  context.strict = true;
  const ApiError error = refusal_of(body, context);
  EXPECT_EQ(error.code, "unknown_parameter");
  EXPECT_EQ(error.param, "temprature");
}

TEST(Chat, EveryKnownFieldPassesStrictMode) {
  ApiContext context = tinyworld_context();
  context.strict = true;
  for (const char* member : {"frequency_penalty",
                             "logit_bias",
                             "logprobs",
                             "top_logprobs",
                             "max_tokens",
                             "max_completion_tokens",
                             "n",
                             "presence_penalty",
                             "response_format",
                             "seed",
                             "stop",
                             "stream",
                             "stream_options",
                             "temperature",
                             "top_p",
                             "tools",
                             "tool_choice",
                             "parallel_tool_calls",
                             "user",
                             "reasoning_effort",
                             "modalities",
                             "audio",
                             "metadata",
                             "store",
                             "service_tier",
                             "prediction",
                             "web_search_options",
                             "functions",
                             "function_call",
                             "verbosity",
                             "safety_identifier",
                             "prompt_cache_key",
                             "prompt_cache_retention",
                             "top_k",
                             "min_p",
                             "repetition_penalty",
                             "min_tokens",
                             "stop_token_ids",
                             "include_stop_str_in_output",
                             "ignore_eos",
                             "skip_special_tokens",
                             "prompt_logprobs",
                             "allowed_token_ids",
                             "bad_words",
                             "structured_outputs",
                             "guided_json",
                             "guided_regex",
                             "guided_choice",
                             "guided_grammar",
                             "chat_template_kwargs",
                             "continue_final_message",
                             "add_generation_prompt",
                             "priority",
                             "cache_salt",
                             "return_token_ids",
                             "return_tokens_as_token_ids",
                             "logprobs_mode",
                             "grammar",
                             "json_schema",
                             "request_id",
                             "cache_prompt",
                             "id_slot",
                             "timings_per_token",
                             "return_progress",
                             "model"})
    EXPECT_EQ(refusal_of(chat_body(fmt::format(R"("{}":null)", member)), context).message, "") << member;
}

TEST(Chat, TheLastMessageCanBeContinued) {
  const auto prompt = [&](const char* members) {
    const std::string body = fmt::format(
        R"({{"messages":[{{"role":"user","content":"Hi"}},{{"role":"assistant","content":"Hello th"}}]{}}})", members);
    return prompt_text(prepared(prepare_chat_completion, tinyworld_context(), body).requests.at(0));
  };
  EXPECT_EQ(prompt(R"(,"continue_final_message":true)"), "<|bos|><|user|>Hi<|end|><|assistant|>Hello th");
  EXPECT_EQ(prompt(R"(,"continue_final_message":true,"add_generation_prompt":false)"),
            "<|bos|><|user|>Hi<|end|><|assistant|>Hello th");
  EXPECT_EQ(prompt(R"(,"add_generation_prompt":false)"), "<|bos|><|user|>Hi<|end|><|assistant|>Hello th<|end|>");
}

TEST(Chat, WithoutATemplateTheReasonIsSaid) {
  ApiContext context = tinyworld_context();
  context.chat = nullptr;
  context.chat_missing = not_found("no chat_template.jinja: add one");
  EXPECT_EQ(refusal_of(chat_body(""), context).message, "no chat_template.jinja: add one");
}

}  // namespace
}  // namespace tandem::server

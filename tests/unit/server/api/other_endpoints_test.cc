// Calls that need no engine: models, tokens and templates, embeddings; and the form of errors.
#include "unit/server/api/fixture.h"

namespace tandem::server {
namespace {

json::value answer_of(const CallResult& result) {
  const Response* response = std::get_if<Response>(&result);
  EXPECT_NE(response, nullptr) << refusal(result).message;
  if (response == nullptr) return nullptr;
  EXPECT_EQ(response->head.status, 200);
  EXPECT_EQ(*find_header(response->head.headers, "content-type"), "application/json");
  return parsed(response->body);
}

TEST(Models, AreListedUnderEachName) {
  const ApiContext context = tinyworld_context();
  const json::value list = answer_of(list_models(context));
  EXPECT_EQ(text_at(list, "object"), "\"list\"");
  ASSERT_EQ(at(list, "data").as_array().size(), 2u);
  EXPECT_EQ(text_at(list, "data", 0),
            R"({"id":"tinyworld-5m","object":"model","created":1700000000,"owned_by":"tandem","root":"tinyworld-5m",)"
            R"("parent":null,"max_model_len":256})");
  EXPECT_EQ(text_at(list, "data", 1, "id"), "\"tiny\"");
  EXPECT_EQ(text_at(answer_of(show_model(context, "tiny")), "root"), "\"tinyworld-5m\"");
  for (const char* id : {"", "none", "tiny/x", "\"}\xFF"}) {
    const ApiError error = refusal(show_model(context, id));
    EXPECT_EQ(error.status, 404);
    EXPECT_EQ(error.code, "model_not_found");
    EXPECT_TRUE(parse_json(error_json(error), "error").ok()) << id;
  }
}

TEST(Tokenize, InBothSpellings) {
  const ApiContext context = tinyworld_context();
  const auto ask = [&](const char* body) { return answer_of(answer_tokenize(context, body)); };
  EXPECT_EQ(to_json_text(ask(R"({"prompt":"<|user|>hi","model":"tiny"})")),
            R"({"count":2,"max_model_len":256,"tokens":[4,805],"token_strs":null})");
  EXPECT_EQ(to_json_text(ask(R"({"prompt":"<|user|> is","return_token_strs":true})")),
            "{\"count\":2,\"max_model_len\":256,\"tokens\":[4,300],\"token_strs\":[\"<|user|>\",\"\xC4\xA0is\"]}");
  EXPECT_EQ(text_at(ask(R"({"messages":[{"role":"user","content":"hi"}]})"), "tokens"), "[0,4,805,6,5]");
  EXPECT_EQ(text_at(ask(R"({"messages":[{"role":"user","content":"hi"}],"add_generation_prompt":false})"), "tokens"),
            "[0,4,805,6]");
  EXPECT_EQ(to_json_text(ask(R"({"content":"<|user|>hi"})")), R"({"tokens":[4,805]})");
  EXPECT_NE(to_json_text(ask(R"({"content":"<|user|>hi","parse_special":false})")), R"({"tokens":[4,805]})");
  EXPECT_EQ(text_at(ask(R"({"content":""})"), "tokens"), "[]");
  const json::value pieces = ask("{\"content\":\" is\xF0\x9F\x91\x8D\",\"with_pieces\":true}");
  EXPECT_EQ(text_at(pieces, "tokens", 0), R"({"id":300,"piece":" is"})");
  EXPECT_TRUE(at(pieces, "tokens", 1, "piece").is_array());  // the first bytes of a character
  EXPECT_EQ(text_at(pieces, "tokens", 1, "piece", 0), "240");
}

TEST(Tokenize, BadBodiesAreNamed) {
  const ApiContext context = tinyworld_context();
  const auto param = [&](const char* body) { return refusal(answer_tokenize(context, body)).param; };
  EXPECT_EQ(param("{}"), "prompt");
  EXPECT_EQ(param(R"({"prompt":"a","messages":[]})"), "prompt");
  EXPECT_EQ(param(R"({"prompt":5})"), "prompt");
  EXPECT_EQ(param(R"({"content":5})"), "content");
  EXPECT_EQ(param(R"({"messages":[]})"), "messages");
  EXPECT_EQ(param(R"({"prompt":"a","return_token_strs":1})"), "return_token_strs");
  EXPECT_EQ(refusal(answer_tokenize(context, "[")).code, "invalid_json");
  EXPECT_EQ(refusal(answer_tokenize(context, R"({"prompt":"a","model":"b"})")).status, 404);
}

TEST(Tokenize, ComesBack) {
  const ApiContext context = tinyworld_context();
  const json::value answer = answer_of(answer_detokenize(context, R"({"tokens":[4,805,300]})"));
  EXPECT_EQ(to_json_text(answer), R"({"prompt":"<|user|>hi is","content":"<|user|>hi is"})");
  for (const char* bad : {"{}", R"({"tokens":5})", R"({"tokens":[2048]})", R"({"tokens":[-1]})", R"({"tokens":["a"]})",
                          R"({"tokens":[1e999]})", R"({"tokens":[18446744073709551615]})"}) {
    const ApiError error = refusal(answer_detokenize(context, bad));
    EXPECT_EQ(error.status, 400) << bad;
    EXPECT_TRUE(error.param.starts_with("tokens")) << bad;
  }
}

TEST(ApplyTemplate, GivesTheText) {
  const ApiContext context = tinyworld_context();
  EXPECT_EQ(to_json_text(answer_of(answer_apply_template(context, R"({"messages":[{"role":"user","content":"hi"}]})"))),
            R"({"prompt":"<|bos|><|user|>hi<|end|><|assistant|>"})");
  EXPECT_EQ(refusal(answer_apply_template(context, R"({"messages":[{"role":"user"}]})")).param, "messages[0].content");
}

TEST(Embeddings, AreCheckedThenRefusedByName) {
  const ApiContext context = tinyworld_context();
  const auto ask = [&](const char* body) { return refusal(answer_embeddings(context, body)); };
  EXPECT_EQ(ask(R"({"input":"a"})").code, "unsupported_model");
  EXPECT_NE(ask(R"({"input":["a",[1,2]],"encoding_format":"base64","dimensions":5})").message.find("no embedding head"),
            std::string::npos);
  EXPECT_EQ(ask("{}").param, "input");
  EXPECT_EQ(ask(R"({"input":[]})").param, "input");
  EXPECT_EQ(ask(R"({"input":"a","encoding_format":"int8"})").param, "encoding_format");
  EXPECT_EQ(ask(R"({"input":"a","dimensions":0})").param, "dimensions");
  EXPECT_EQ(ask(R"({"input":"a","model":"b"})").status, 404);
}

TEST(Errors, HaveTheFormOfOpenAi) {
  EXPECT_EQ(error_json(bad_request("invalid_value", "top_p", "top_p is \"x\"")),
            R"({"error":{"message":"top_p is \"x\"","type":"invalid_request_error","param":"top_p",)"
            R"("code":"invalid_value"}})");
  EXPECT_EQ(error_json({.status = 500, .type = "server_error", .message = "m"}),
            R"({"error":{"message":"m","type":"server_error","param":null,"code":null}})");
  ApiError error = error_of(resource_exhausted("the queue is full"));
  EXPECT_EQ(error.status, 429);
  error.retry_after_s = 1.25;
  const Response response = error_response(error);
  EXPECT_EQ(response.head.status, 429);
  EXPECT_EQ(*find_header(response.head.headers, "retry-after"), "2");
  EXPECT_EQ(*find_header(response.head.headers, "retry-after-ms"), "1250");
  EXPECT_EQ(find_header(error_response(bad_request("c", "p", "m")).head.headers, "retry-after"), nullptr);
  const std::pair<StatusCode, int> statuses[] = {
      {StatusCode::kInvalidArgument, 400},  {StatusCode::kNotFound, 404},    {StatusCode::kResourceExhausted, 429},
      {StatusCode::kDeadlineExceeded, 408}, {StatusCode::kUnavailable, 503}, {StatusCode::kCancelled, 500},
      {StatusCode::kAborted, 500},          {StatusCode::kDataLoss, 500},    {StatusCode::kDeviceLost, 500}};
  for (const auto& [code, status] : statuses) EXPECT_EQ(error_of(Status(code, "m")).status, status);
}

}  // namespace
}  // namespace tandem::server

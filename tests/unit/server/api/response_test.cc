// /v1/responses: bodies said as chats, answers as items, streams as typed events.
#include <random>
#include <set>

#include "unit/server/api/fixture.h"

namespace tandem::server {
namespace {

using engine::FinishReason;

ApiContext reasoning_context() {
  ApiContext context = tinyworld_context();
  context.tool_format = ToolFormat::kHermes;
  context.reasoning_format = ReasoningFormat::kThinkTags;
  return context;
}

std::string prompt_text(const std::string& body, const ApiContext& context = tinyworld_context()) {
  return tinyworld_tokenizer().decode(prepared(prepare_response, context, body).requests.at(0).prompt).value();
}

ApiError refusal_of(const std::string& body) { return refusal(prepare_response(tinyworld_context(), kInfo, body)); }

TEST(Response, InputBecomesMessages) {
  EXPECT_EQ(prompt_text(R"({"input":"Hi"})"), "<|bos|><|user|>Hi<|end|><|assistant|>");
  EXPECT_EQ(
      prompt_text(R"({"instructions":"Be","input":[
      {"role":"developer","content":"x"},
      {"type":"message","role":"user","content":[{"type":"input_text","text":"a"}]},
      {"type":"reasoning","id":"rs_1","summary":[]},
      {"type":"message","id":"msg_1","status":"completed","role":"assistant",
       "content":[{"type":"output_text","text":"b","annotations":[]}]},
      {"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},
      {"type":"function_call_output","call_id":"c1","output":"4"}]})"),
      "<|bos|><|system|>Be<|end|><|system|>x<|end|><|user|>a<|end|><|assistant|>b<|end|><|tool|>4<|end|><|assistant|>");
}

TEST(Response, FieldsReachTheEngineUnderTheirOtherNames) {
  const PreparedCall call =
      prepared(prepare_response, tinyworld_context(),
               R"({"input":"Hi","max_output_tokens":5,"temperature":0.5,"top_p":0.5,"seed":3,"stream":true,"top_k":4,)"
               R"("include":["message.output_text.logprobs","reasoning.encrypted_content"],"top_logprobs":2,)"
               R"("store":true,"metadata":{},"reasoning":{"effort":"low","summary":"auto"},"truncation":"auto"})");
  EXPECT_TRUE(call.stream);
  const engine::Request& request = call.requests[0];
  EXPECT_EQ(request.max_tokens, 5);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_k, 4);
  EXPECT_EQ(request.sampling.seed, 3u);
  EXPECT_EQ(request.logprobs, 2);
}

TEST(Response, ErrorsSpeakOfTheFieldsOfTheCall) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "input"},
      {R"({"input":5})", "input"},
      {R"({"input":[]})", "input"},
      {R"({"input":[5]})", "input[0]"},
      {R"({"instructions":"a","input":[{"role":"user","content":"a"},{"role":"robot","content":"a"}]})",
       "input[1].role"},
      {R"({"input":[{"type":"reasoning"},{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]})",
       "input[1].content[0].type"},
      {R"({"input":[{"type":"item_reference","id":"x"}]})", "input[0].type"},
      {R"({"input":[{"type":"function_call","name":"f"}]})", "input[0].arguments"},
      {R"({"input":[{"type":"function_call_output","call_id":"x"}]})", "input[0].output"},
      {R"({"input":"a","max_output_tokens":0})", "max_output_tokens"},
      {R"({"input":"a","reasoning":{"effort":"extreme"}})", "reasoning.effort"},
      {R"({"input":"a","text":{"format":{"type":"xml"}}})", "text.format.type"},
      {R"({"input":"a","text":{"format":{"type":"json_schema","name":"x"}}})", "text.format.schema"},
      {R"({"input":"a","tools":[{"type":"web_search"}]})", "tools[0].type"},
      {R"({"input":"a","tools":[{"type":"function"}]})", "tools[0].name"},
      {R"({"input":"a","tool_choice":{"type":"function","name":"f"}})", "tool_choice"},
      {R"({"input":"a","previous_response_id":"resp_1"})", "previous_response_id"},
      {R"({"input":"a","conversation":"c"})", "conversation"},
      {R"({"input":"a","background":true})", "background"},
      {R"({"input":"a","prompt":{"id":"p"}})", "prompt"},
  };
  for (const auto& [body, param] : cases) {
    const ApiError error = refusal_of(body);
    EXPECT_EQ(error.status, 400) << body;
    EXPECT_EQ(error.param, param) << body << error.message;
    EXPECT_EQ(error.message.find("messages"), std::string::npos) << error.message;
  }
  EXPECT_EQ(refusal_of(R"({"input":"a","model":"other"})").status, 404);
  EXPECT_EQ(refusal_of(R"({"input":"a","background":false,"previous_response_id":null})").message, "");
  EXPECT_EQ(refusal_of("[]").code, "invalid_json");
}

TEST(Response, StrictModeKnowsEveryField) {
  ApiContext context = tinyworld_context();
  context.strict = true;
  for (const char* member : {"background",
                             "conversation",
                             "include",
                             "instructions",
                             "max_output_tokens",
                             "max_tool_calls",
                             "metadata",
                             "model",
                             "parallel_tool_calls",
                             "previous_response_id",
                             "prompt",
                             "prompt_cache_key",
                             "reasoning",
                             "safety_identifier",
                             "service_tier",
                             "store",
                             "stream",
                             "stream_options",
                             "temperature",
                             "text",
                             "tool_choice",
                             "tools",
                             "top_logprobs",
                             "top_p",
                             "truncation",
                             "user",
                             "seed",
                             "top_k"})
    EXPECT_EQ(refusal(prepare_response(context, kInfo, fmt::format(R"({{"input":"a","{}":null}})", member))).message,
              "");
  EXPECT_EQ(refusal(prepare_response(context, kInfo, R"({"input":"a","messages":[]})")).code, "unknown_parameter");
}

TEST(Response, TheWholeAnswerIsARowOfItems) {
  PreparedCall call =
      prepared(prepare_response, reasoning_context(),
               R"({"input":"Hi","tools":[{"type":"function","name":"f","parameters":{}}],"temperature":1})");
  std::string body;
  call.writer->write(0, token_event("<think>hm</think>text", {1, 2}), body);
  call.writer->write(0, token_event("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>", {3}), body);
  EXPECT_EQ(body, "");
  call.writer->write(0, ending(token_event("", {6}), FinishReason::kStop), body);
  const json::value answer = parsed(body);
  EXPECT_EQ(text_at(answer, "id"), "\"resp_abc123\"");
  EXPECT_EQ(text_at(answer, "object"), "\"response\"");
  EXPECT_EQ(text_at(answer, "status"), "\"completed\"");
  EXPECT_EQ(text_at(answer, "temperature"), "1");
  EXPECT_EQ(text_at(answer, "tools", 0, "name"), "\"f\"");
  EXPECT_EQ(text_at(answer, "incomplete_details"), "null");
  EXPECT_EQ(text_at(answer, "error"), "null");
  ASSERT_EQ(at(answer, "output").as_array().size(), 3u);
  EXPECT_EQ(text_at(answer, "output", 0, "content"), R"([{"type":"reasoning_text","text":"hm"}])");
  EXPECT_EQ(text_at(answer, "output", 1, "content"),
            R"([{"type":"output_text","text":"text","annotations":[],"logprobs":[]}])");
  EXPECT_EQ(text_at(answer, "output", 2, "arguments"), R"("{\"a\": 1}")");
  EXPECT_EQ(text_at(answer, "output", 2, "name"), "\"f\"");
  EXPECT_EQ(text_at(answer, "usage"),
            R"({"input_tokens":6,"input_tokens_details":{"cached_tokens":0},"output_tokens":4,)"
            R"("output_tokens_details":{"reasoning_tokens":0},"total_tokens":10})");
  EXPECT_EQ(text_at(answer, "weight_version"), "7");
}

TEST(Response, AnAnswerCutShortIsIncomplete) {
  PreparedCall call = prepared(prepare_response, tinyworld_context(), R"({"input":"Hi"})");
  std::string body;
  call.writer->write(0, ending(token_event("tex", {1}), FinishReason::kLength), body);
  const json::value answer = parsed(body);
  EXPECT_EQ(text_at(answer, "status"), "\"incomplete\"");
  EXPECT_EQ(text_at(answer, "incomplete_details"), R"({"reason":"max_output_tokens"})");
  EXPECT_EQ(text_at(answer, "output", 0, "status"), "\"incomplete\"");
}

struct Event {
  std::string type;
  json::value data;
};

std::vector<Event> read_events(std::string_view body) {
  std::vector<Event> events;
  while (!body.empty()) {
    const std::size_t line = body.find('\n'), end = body.find("\n\n");
    EXPECT_TRUE(body.starts_with("event: ") && line < end && body.substr(line + 1).starts_with("data: ")) << body;
    if (end == std::string_view::npos || line >= end) return events;
    Event event{std::string(body.substr(7, line - 7)), parsed(body.substr(line + 7, end - line - 7))};
    EXPECT_EQ(text_at(event.data, "type"), "\"" + event.type + "\"");
    EXPECT_EQ(text_at(event.data, "sequence_number"), std::to_string(events.size()));
    events.push_back(std::move(event));
    body.remove_prefix(end + 2);
  }
  return events;
}

// Plays the events as a client does: items and parts are begun, filled and ended in their order, and what they end with
// is what was in their pieces. Gives back the items as they ended.
json::array play_events(const std::vector<Event>& events) {
  json::array items;
  bool item_open = false, part_open = false;
  std::string text;
  const auto place = [&](const Event& event) {
    EXPECT_TRUE(item_open);
    EXPECT_EQ(text_at(event.data, "output_index"), std::to_string(items.size() - 1));
    if (event.type.find("output_item") == std::string::npos) {
      EXPECT_EQ(text_at(event.data, "item_id"), text_at(items.back(), "id"));
    }
  };
  for (std::size_t i = 2; i + 1 < events.size(); ++i) {
    const Event& event = events[i];
    if (event.type == "response.output_item.added") {
      EXPECT_FALSE(item_open);
      item_open = true;
      text.clear();
      items.push_back(at(event.data, "item"));
      EXPECT_EQ(text_at(items.back(), "status"), "\"in_progress\"");
      place(event);
    } else if (event.type == "response.content_part.added") {
      place(event);
      EXPECT_FALSE(std::exchange(part_open, true));
    } else if (event.type.ends_with(".delta")) {
      place(event);
      EXPECT_EQ(part_open, event.type != "response.function_call_arguments.delta");
      text += at(event.data, "delta").as_string();
    } else if (event.type == "response.output_text.done" || event.type == "response.reasoning_text.done") {
      place(event);
      EXPECT_EQ(at(event.data, "text").as_string(), text);
    } else if (event.type == "response.function_call_arguments.done") {
      place(event);
      EXPECT_EQ(at(event.data, "arguments").as_string(), text);
    } else if (event.type == "response.content_part.done") {
      place(event);
      EXPECT_TRUE(std::exchange(part_open, false));
      EXPECT_EQ(at(event.data, "part", "text").as_string(), text);
    } else if (event.type == "response.output_item.done") {
      place(event);
      EXPECT_FALSE(part_open);
      item_open = false;
      EXPECT_EQ(text_at(event.data, "item", "id"), text_at(items.back(), "id"));
      items.back() = at(event.data, "item");
    } else {
      ADD_FAILURE() << event.type;
    }
  }
  EXPECT_FALSE(item_open);
  return items;
}

TEST(Response, StreamsAreTypedNumberedAndEndWithTheWhole) {
  std::mt19937 random(3);
  const std::vector<std::string> texts = {
      "",
      "plain",
      "<think>a</think>b",
      "<think>open",
      "a<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>",
      "<think>t</think><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n"
      "<tool_call>{\"name\": \"g\", \"arguments\": {\"x\": \"\xC3\xA9\"}}</tool_call>z"};
  for (int round = 0; round < 1000; ++round) {
    const std::string tools = R"("tools":[{"type":"function","name":"f"}],"include":["message.output_text.logprobs"])";
    PreparedCall whole = prepared(prepare_response, reasoning_context(), R"({"input":"Hi",)" + tools + "}");
    PreparedCall streamed =
        prepared(prepare_response, reasoning_context(), R"({"input":"Hi","stream":true,)" + tools + "}");
    const std::string& text = texts[random() % texts.size()];
    const bool cut = random() % 3 == 0;
    std::string whole_body, body;
    const auto send = [&](const engine::TokenEvent& event) {
      whole.writer->write(0, event, whole_body);
      streamed.writer->write(0, event, body);
    };
    for (std::size_t begin = 0; begin < text.size();) {
      std::size_t end = std::min(text.size(), begin + 1 + random() % 9);
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
      engine::TokenEvent event = token_event(text.substr(begin, end - begin), {1});
      event.logprobs = {{{1, -1.0f, 1}}};
      send(event);
      begin = end;
    }
    send(ending(token_event("", {}), cut ? FinishReason::kLength : FinishReason::kStop));

    const std::vector<Event> events = read_events(body);
    ASSERT_GE(events.size(), 4u) << body;
    EXPECT_EQ(events[0].type, "response.created");
    EXPECT_EQ(events[1].type, "response.in_progress");
    EXPECT_EQ(text_at(events[0].data, "response", "status"), "\"in_progress\"");
    EXPECT_EQ(text_at(events[0].data, "response", "output"), "[]");
    EXPECT_EQ(events.back().type, cut ? "response.incomplete" : "response.completed");
    EXPECT_EQ(to_json_text(play_events(events)), text_at(events.back().data, "response", "output")) << text;
    EXPECT_EQ(text_at(events.back().data, "response"), to_json_text(parsed(whole_body)));
    EXPECT_TRUE(streamed.writer->done() && whole.writer->done());
    if (HasFailure()) return;
  }
}

TEST(Response, FailuresAreTheLastEvent) {
  for (const bool begun : {false, true}) {
    PreparedCall call = prepared(prepare_response, tinyworld_context(), R"({"input":"Hi","stream":true})");
    std::string body;
    if (begun) call.writer->write(0, token_event("x", {1}), body);
    engine::TokenEvent event = ending(token_event("", {}), FinishReason::kError);
    event.error = Status(StatusCode::kAborted, "the step failed");
    call.writer->write(0, event, body);
    const std::vector<Event> events = read_events(body);
    EXPECT_EQ(events.back().type, "response.failed");
    EXPECT_EQ(text_at(events.back().data, "response", "status"), "\"failed\"");
    EXPECT_EQ(text_at(events.back().data, "response", "error"),
              R"({"code":"engine_error","message":"the step failed"})");
    EXPECT_EQ(call.writer->error()->status, 500);
    EXPECT_TRUE(call.writer->done());
  }
}

TEST(Response, ToolChoicesAreNested) {
  const auto ask = [&](const char* choice) {
    return refusal(prepare_response(reasoning_context(), kInfo,
                                    fmt::format(R"({{"input":"a","tools":[{{"type":"function","name":"f"}}],)"
                                                R"("tool_choice":{}}})",
                                                choice)))
        .message;
  };
  EXPECT_EQ(ask("\"required\""), "");
  EXPECT_EQ(ask(R"({"type":"function","name":"f"})"), "");
  EXPECT_NE(ask(R"({"type":"function","name":"g"})"), "");
  EXPECT_EQ(ask(R"({"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"f"}]})"), "");
  EXPECT_NE(ask(R"({"type":"allowed_tools","mode":"some","tools":[{"type":"function","name":"f"}]})"), "");
}

}  // namespace
}  // namespace tandem::server

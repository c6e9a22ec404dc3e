// Tools: what the template sees of them, when a call is forced, and that a forced call is one that the parser reads.
#include "server/api/chat_tools.h"

#include <functional>

#include "model/template/chat_template.h"
#include "server/api/chat_call.h"
#include "unit/server/api/fixture.h"

namespace tandem::server {
namespace {

constexpr const char* kTools =
    R"("tools":[{"type":"function","function":{"name":"add","description":"d","parameters":{"type":"object",)"
    R"("properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}}},)"
    R"({"type":"function","function":{"name":"now \"x\""}}])";

struct Read {
  ChatTools tools;
  FieldError error;
};
Read read(const std::string& members) {
  const json::object document = parsed("{" + members + "}").as_object();
  Read result;
  JsonFields fields(document, result.error);
  result.tools = read_tools(fields);
  return result;
}

std::string chat_body(const std::string& members) {
  return R"({"messages":[{"role":"user","content":"Hi"}],)" + members + "}";
}

TEST(Tools, ChoicesSayWhichToolsAndWhetherOneMust) {
  struct Case {
    const char* choice;
    ToolUse use;
    std::size_t shown;
    bool parallel;
  };
  const Case cases[] = {
      {"", ToolUse::kAuto, 2, true},
      {R"(,"tool_choice":null)", ToolUse::kAuto, 2, true},
      {R"(,"tool_choice":"none")", ToolUse::kNone, 2, true},
      {R"(,"tool_choice":"auto","parallel_tool_calls":false)", ToolUse::kAuto, 2, false},
      {R"(,"tool_choice":"required")", ToolUse::kRequired, 2, true},
      {R"(,"tool_choice":{"type":"function","function":{"name":"add"}})", ToolUse::kRequired, 1, false},
      {R"(,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[{"type":"function","function":{"name":"add"}}]}})",
       ToolUse::kAuto, 1, true},
      {R"(,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":{"name":"add"}}]}})",
       ToolUse::kRequired, 1, true},
  };
  for (const Case& one : cases) {
    const Read result = read(std::string(kTools) + one.choice);
    EXPECT_TRUE(result.error.ok()) << one.choice << result.error.message;
    EXPECT_EQ(result.tools.use, one.use) << one.choice;
    EXPECT_EQ(result.tools.shown.size(), one.shown) << one.choice;
    EXPECT_EQ(result.tools.parallel, one.parallel) << one.choice;
  }
  EXPECT_EQ(read(R"("tools":[])").tools.use, ToolUse::kNone);
  EXPECT_EQ(read(R"("tool_choice":"auto")").tools.use, ToolUse::kNone);
}

TEST(Tools, BadOnesAreNamed) {
  const std::pair<std::string, const char*> cases[] = {
      {R"("tools":{})", "tools"},
      {R"("tools":[1])", "tools[0]"},
      {R"("tools":[{}])", "tools[0].type"},
      {R"("tools":[{"type":"custom","custom":{"name":"x"}}])", "tools[0].type"},
      {R"("tools":[{"type":"web_search"}])", "tools[0].type"},
      {R"("tools":[{"type":"function"}])", "tools[0].function"},
      {R"("tools":[{"type":"function","function":{}}])", "tools[0].function.name"},
      {R"("tools":[{"type":"function","function":{"name":""}}])", "tools[0].function.name"},
      {R"("tools":[{"type":"function","function":{"name":5}}])", "tools[0].function.name"},
      {R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}])", "tools[0].function.parameters"},
      {R"("tool_choice":"required")", "tool_choice"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice"},
      {std::string(kTools) + R"(,"tool_choice":{"type":"function","function":{"name":"sub"}})", "tool_choice"},
      {std::string(kTools) + R"(,"tool_choice":"any")", "tool_choice"},
      {std::string(kTools) + R"(,"tool_choice":5)", "tool_choice"},
      {std::string(kTools) + R"(,"tool_choice":{"type":"custom"})", "tool_choice.type"},
      {std::string(kTools) + R"(,"tool_choice":{"type":"allowed_tools","allowed_tools":{"tools":[]}})",
       "tool_choice.allowed_tools.mode"},
      {std::string(kTools) + R"(,"parallel_tool_calls":1)", "parallel_tool_calls"},
  };
  for (const auto& [members, path] : cases) EXPECT_EQ(read(members).error.path, path) << members;
}

TEST(Tools, AModelThatCannotCallIsSaidSoUnlessACallIsForced) {
  ApiContext context = tinyworld_context();
  const auto ask = [&](const std::string& choice) {
    return refusal(prepare_chat_completion(context, kInfo, chat_body(kTools + choice)));
  };
  EXPECT_EQ(ask("").param, "tools");
  EXPECT_EQ(ask("").code, "unsupported_parameter");
  EXPECT_EQ(ask(R"(,"tool_choice":"none")").message, "");
  EXPECT_EQ(ask(R"(,"tool_choice":"required")").message, "");
  context.tool_format = ToolFormat::kLlama3;
  EXPECT_EQ(ask("").message, "");
}

TEST(Tools, FreeTextBesideToolsIsNotBound) {
  FieldError error;
  const json::object empty;
  JsonFields fields(empty, error);
  const ChatTools tools = read(kTools).tools;
  EXPECT_EQ(make_grammar(tools, ToolFormat::kHermes, {}, fields), nullptr);
  EXPECT_NE(make_grammar(tools, ToolFormat::kHermes, {.form = AnswerForm::kJsonObject}, fields), nullptr);
  EXPECT_TRUE(error.ok());
  EXPECT_EQ(make_grammar(tools, ToolFormat::kHermes, {.form = AnswerForm::kRegex, .text = "a"}, fields), nullptr);
  EXPECT_EQ(error.path, "tools");
}

TEST(Tools, StreamedCallsBeginOnceAndGoOnInPieces) {
  ApiContext context = tinyworld_context();
  context.tool_format = ToolFormat::kHermes;
  PreparedCall call = prepared(prepare_chat_completion, context, chat_body(std::string(kTools) + R"(,"stream":true)"));
  std::string body;
  for (const char* piece : {"<tool_call>", "{\"name\": \"add\", \"argu", "ments\": {", "\"a\"", ": 1}}</tool_call>"})
    call.writer->write(0, token_event(piece, {1}), body);
  call.writer->write(0, ending(token_event("", {6}), engine::FinishReason::kStop), body);
  std::vector<std::string> deltas;
  for (const std::string& data : sse_data(body))
    if (data != "[DONE]") deltas.push_back(text_at(parsed(data), "choices", 0, "delta"));
  const std::vector<std::string> calls(deltas.begin() + 1, deltas.end());
  EXPECT_EQ(deltas.front(), R"({"role":"assistant","content":""})");
  const std::string id = std::string(at(parsed(calls.at(0)), "tool_calls", 0, "id").as_string());
  EXPECT_EQ(calls, (std::vector<std::string>{R"({"tool_calls":[{"index":0,"id":")" + id +
                                                 R"(","type":"function","function":{"name":"add","arguments":"{"}}]})",
                                             R"({"tool_calls":[{"index":0,"function":{"arguments":"\"a\""}}]})",
                                             R"({"tool_calls":[{"index":0,"function":{"arguments":": 1}"}}]})", "{}"}));
  EXPECT_TRUE(id.starts_with("call_"));
}

}  // namespace
}  // namespace tandem::server

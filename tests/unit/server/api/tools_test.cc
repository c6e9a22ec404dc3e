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

// The calls in a text, as "name(arguments)".
std::vector<std::string> calls_in(const std::string& text, ToolFormat format) {
  const auto parser = OutputParser::create({.tools = format});
  OutputDelta delta;
  parser->push(text, delta);
  parser->finish(delta);
  EXPECT_EQ(delta.content, "");
  std::vector<std::string> calls;
  for (const ToolCallDelta& piece : delta.tool_calls) {
    if (static_cast<std::size_t>(piece.index) == calls.size()) calls.push_back(piece.name + "(");
    calls.back() += piece.arguments;
  }
  for (std::string& call : calls) call += ")";
  return calls;
}

TEST(Tools, ForcedCallsAreWhatTheParserReads) {
  const std::string add = R"("name": "add", "%": {"a":1}})", now = R"("name": "now \"x\"", "%": {"b":[true]}})";
  struct Syntax {
    ToolFormat format;
    std::string begin, end, arguments;
    const char* separator;  // null: one call only
  };
  const Syntax syntaxes[] = {{ToolFormat::kHermes, "<tool_call>\n{", "\n</tool_call>", "arguments", "\n"},
                             {ToolFormat::kLlama3, "{", "", "parameters", "; "},
                             {ToolFormat::kMistral, "[TOOL_CALLS][{", "]", "arguments", nullptr}};
  for (const Syntax& syntax : syntaxes) {
    const auto written = [&](std::string call) {
      call.replace(call.find('%'), 1, syntax.arguments);
      return syntax.begin + call + syntax.end;
    };
    FieldError error;
    const json::object empty;
    JsonFields fields(empty, error);
    const ChatTools required = read(std::string(kTools) + R"(,"tool_choice":"required")").tools;
    const auto grammar = make_grammar(required, syntax.format, {}, fields);
    ASSERT_NE(grammar, nullptr) << error.message;
    EXPECT_TRUE(grammar->matches(written(add))) << written(add);
    EXPECT_TRUE(grammar->matches(written(now)));
    EXPECT_EQ(calls_in(written(add), syntax.format), std::vector<std::string>{R"(add({"a":1}))"});
    EXPECT_EQ(calls_in(written(now), syntax.format), std::vector<std::string>{R"(now "x"({"b":[true]}))"});
    for (const std::string& other :
         {std::string(), std::string("text"), written(add) + "x", "x" + written(add),
          written(R"("name": "add", "%": {"a":"1"}})"), written(R"("name": "sub", "%": {}})")})
      EXPECT_FALSE(grammar->matches(other)) << other;
    const std::string both = written(add) + (syntax.separator != nullptr ? syntax.separator : "") + written(now);
    EXPECT_EQ(grammar->matches(both), syntax.separator != nullptr) << both;
    if (syntax.separator != nullptr) {
      EXPECT_EQ(calls_in(both, syntax.format).size(), 2u);
    }

    ChatTools one = required;
    one.parallel = false;
    EXPECT_FALSE(make_grammar(one, syntax.format, {}, fields)->matches(both));
    const ChatTools named =
        read(std::string(kTools) + R"(,"tool_choice":{"type":"function","function":{"name":"add"}})").tools;
    const auto only_add = make_grammar(named, syntax.format, {}, fields);
    EXPECT_TRUE(only_add->matches(written(add)));
    EXPECT_FALSE(only_add->matches(written(now)));

    const AnswerFormat format{.form = AnswerForm::kJsonSchema, .schema = parsed(R"({"type":"boolean"})")};
    const auto either = make_grammar(read(kTools).tools, syntax.format, format, fields);
    EXPECT_TRUE(either->matches("true"));
    EXPECT_TRUE(either->matches(written(add)));
    EXPECT_FALSE(either->matches("text"));
  }
}

TEST(Tools, ASchemaThatIsNoneIsSaidSo) {
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"colour"}}}],"tool_choice":"required")";
  const ApiError error = refusal(prepare_chat_completion(tinyworld_context(), kInfo, chat_body(tools)));
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.param, "tools");
  EXPECT_TRUE(error.message.starts_with("tools: ")) << error.message;
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

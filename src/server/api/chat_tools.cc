#include "server/api/chat_tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/api/json_text.h"

namespace tandem::server {
namespace {

constexpr std::size_t kToolsMax = 512;
constexpr std::size_t kNameBytesMax = 256;

using engine::GrammarPart;

std::string_view name_of(const json::value& tool) {
  const json::string& name = tool.at("function").at("name").get_string();
  return {name.data(), name.size()};
}

// Only functions can be called: the client runs them. "custom", "web_search"... would be run here.
bool check_function_type(JsonFields& tool) {
  std::string type;
  if (!tool.require("type", "\"function\"") || !tool.read_string("type", kNameBytesMax, type)) return false;
  if (type == "function") return true;
  tool.fail_with("type", "unsupported_parameter",
                 fmt::format("{} is {}: only tools of type \"function\" are supported", tool.path_of("type"),
                             describe_json(json::string(type))));
  return false;
}

bool check_tool(JsonFields& tool) {
  if (!check_function_type(tool) || !tool.require("function", "an object with a name")) return false;
  std::optional<JsonFields> function = tool.object("function");
  std::string name, unused;
  bool strict = false;
  if (!function || !function->require("name", "a string") || !function->read_string("name", kNameBytesMax, name))
    return false;
  if (name.empty()) function->fail("name", "at least one character");
  function->read_string("description", std::size_t{1} << 20, unused);
  function->read_bool("strict", strict);
  function->object("parameters");
  return tool.ok();
}

// The name of a function that a choice names.
std::optional<std::string> chosen_name(JsonFields& choice) {
  std::string name;
  if (!check_function_type(choice) || !choice.require("function", "an object with a name")) return std::nullopt;
  std::optional<JsonFields> function = choice.object("function");
  if (!function || !function->require("name", "a string") || !function->read_string("name", kNameBytesMax, name))
    return std::nullopt;
  return name;
}

// Leaves only the named tools, and refuses a name that no tool has.
void keep_only(JsonFields& fields, const std::vector<std::string>& names, ChatTools& tools) {
  json::array kept;
  for (const std::string& name : names) {
    const auto found =
        std::ranges::find_if(tools.shown, [&](const json::value& tool) { return name_of(tool) == name; });
    if (found == tools.shown.end()) {
      fields.fail_with(
          "tool_choice", "invalid_value",
          fmt::format("tool_choice names {}, which is not among tools", describe_json(json::string(name))));
      return;
    }
    kept.push_back(*found);
  }
  tools.shown = std::move(kept);
}

void read_allowed(JsonFields& fields, JsonFields& choice, ChatTools& tools) {
  if (!choice.require("allowed_tools", "an object with a mode and tools")) return;
  std::optional<JsonFields> allowed = choice.object("allowed_tools");
  if (!allowed) return;
  const auto mode = allowed->read_choice("mode", {"auto", "required"});
  const json::array* list = allowed->array("tools", "an array of tools");
  if (!allowed->require("mode", "\"auto\" or \"required\"") || !allowed->require("tools", "an array of tools")) return;
  std::vector<std::string> names;
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    std::optional<JsonFields> tool = allowed->element("tools", i, (*list)[i]);
    const std::optional<std::string> name = tool ? chosen_name(*tool) : std::nullopt;
    if (!name) return;
    names.push_back(*name);
  }
  tools.use = mode && *mode == 1 ? ToolUse::kRequired : ToolUse::kAuto;
  keep_only(fields, names, tools);
}

void read_choice_of_tool(JsonFields& fields, ChatTools& tools) {
  const json::value* choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object()) {
    JsonFields object = *fields.object("tool_choice");
    if (const json::value* type = object.find("type"); type && *type == json::value("allowed_tools"))
      return read_allowed(fields, object, tools);
    const std::optional<std::string> name = chosen_name(object);
    tools.use = ToolUse::kRequired;
    tools.parallel = false;
    if (name) keep_only(fields, {*name}, tools);
    return;
  }
  if (!choice->is_string())
    return fields.fail("tool_choice", "\"none\", \"auto\", \"required\" or an object that names a function");
  const auto word = fields.read_choice("tool_choice", {"none", "auto", "required"});
  if (word) tools.use = static_cast<ToolUse>(*word);
}

// How a call of a tool is written, up to its arguments and after them.
struct CallSyntax {
  std::string begin, end;
};

CallSyntax call_syntax(ToolFormat format, std::string_view name) {
  std::string begin = format == ToolFormat::kMistral ? "[TOOL_CALLS][" : "";
  if (format == ToolFormat::kHermes) begin = "<tool_call>\n";
  const char* arguments = format == ToolFormat::kLlama3 ? R"(, "parameters": )" : R"(, "arguments": )";
  append(begin, R"({"name": )", Quoted{name}, arguments);
  switch (format) {
    case ToolFormat::kHermes: return {begin, "}\n</tool_call>"};
    case ToolFormat::kMistral: return {begin, "}]"};
    default: return {begin, "}"};
  }
}

// What stands between two calls; nothing where a format keeps them in one list, which alternatives cannot say.
std::optional<std::string> call_separator(ToolFormat format) {
  if (format == ToolFormat::kHermes) return "\n";
  if (format == ToolFormat::kLlama3) return "; ";
  return std::nullopt;
}

std::vector<GrammarPart> call_of(const json::value& tool, ToolFormat format) {
  const json::value* parameters = find_member(tool.at("function").get_object(), "parameters");
  CallSyntax syntax = call_syntax(format, name_of(tool));
  const bool described = parameters != nullptr && parameters->is_object() && !parameters->get_object().empty();
  return {{.literal = std::move(syntax.begin), .schema = std::nullopt},
          {.literal = {}, .schema = described ? *parameters : json::value{{"type", "object"}}},
          {.literal = std::move(syntax.end), .schema = std::nullopt}};
}

}  // namespace

ChatTools read_tools(JsonFields& fields) {
  ChatTools tools;
  fields.read_bool("parallel_tool_calls", tools.parallel);
  const json::array* given = fields.array("tools", "an array of tools");
  if (given != nullptr && given->size() > kToolsMax) fields.fail("tools", fmt::format("at most {}", kToolsMax));
  for (std::size_t i = 0; given != nullptr && fields.ok() && i < given->size(); ++i) {
    std::optional<JsonFields> tool = fields.element("tools", i, (*given)[i]);
    if (!tool || !check_tool(*tool)) break;
    tools.shown.push_back((*given)[i]);
  }
  if (!tools.shown.empty()) tools.use = ToolUse::kAuto;
  read_choice_of_tool(fields, tools);
  if (tools.use == ToolUse::kRequired && tools.shown.empty())
    fields.fail_with("tool_choice", "invalid_value", "tool_choice asks for a call, but there are no tools: give some");
  if (tools.shown.empty()) tools.use = ToolUse::kNone;
  return tools;
}

std::shared_ptr<const engine::Grammar> make_grammar(const ChatTools& tools, ToolFormat tools_format,
                                                    const AnswerFormat& format, JsonFields& fields) {
  if (!fields.ok()) return nullptr;
  const bool formatted = format.form != AnswerForm::kFree;
  if (tools.use == ToolUse::kNone || (tools.use == ToolUse::kAuto && !formatted))
    return formatted ? compile_format(format, fields) : nullptr;
  std::vector<std::vector<GrammarPart>> alternatives;
  if (tools.use == ToolUse::kAuto) {
    if (format.form != AnswerForm::kJsonObject && format.form != AnswerForm::kJsonSchema) {
      fields.fail_with(
          "tools", "unsupported_parameter",
          fmt::format("tools beside {} are not supported: use a JSON schema or leave the tools out", format.field));
      return nullptr;
    }
    const json::value any_object = {{"type", "object"}};
    alternatives.push_back(
        {{.literal = {}, .schema = format.form == AnswerForm::kJsonSchema ? format.schema : any_object}});
  }
  for (const json::value& tool : tools.shown) alternatives.push_back(call_of(tool, tools_format));
  const bool several = tools.use == ToolUse::kRequired && tools.parallel;
  auto grammar =
      engine::Grammar::from_alternatives(alternatives, several ? call_separator(tools_format) : std::nullopt);
  if (grammar.ok()) return std::move(*grammar);
  fields.fail_with("tools", "invalid_value", fmt::format("tools: {}", grammar.status().message()));
  return nullptr;
}

}  // namespace tandem::server

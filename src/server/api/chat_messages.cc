#include "server/api/chat_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/api/call_ids.h"

namespace tandem::server {
namespace {

constexpr std::size_t kNameBytesMax = 1024;
constexpr std::size_t kTextBytesMax = std::size_t{1} << 30;  // bodies are bounded before they come here
constexpr int kArgumentsDepthMax = 32;

// One part of a message's content: its text, appended.
void read_part(JsonFields& part, std::string& text) {
  std::string type, piece;
  if (!part.require("type", "\"text\"") || !part.read_string("type", kNameBytesMax, type)) return;
  const bool refusal = type == "refusal";
  if (!refusal && type != "text" && type != "input_text" && type != "output_text") {
    part.fail_with("type", "unsupported_parameter",
                   fmt::format("{} is {}: this model reads only text; send parts of type \"text\"",
                               part.path_of("type"), describe_json(json::string(type))));
    return;
  }
  const char* name = refusal ? "refusal" : "text";
  if (part.require(name, "a string") && part.read_string(name, kTextBytesMax, piece)) text += piece;
}

// A string, or parts joined.
std::string read_content(JsonFields& message) {
  std::string text;
  const json::value* content = message.find("content");
  if (content == nullptr) return text;
  if (content->is_string()) return std::string(content->get_string());
  const json::array* parts = message.array("content", "a string or an array of parts");
  for (std::size_t i = 0; parts != nullptr && i < parts->size(); ++i) {
    std::optional<JsonFields> part = message.element("content", i, (*parts)[i]);
    if (!part) break;
    if (i > 0) text += '\n';
    read_part(*part, text);
  }
  return text;
}

// Mistral's templates insist on nine letters or digits; conversations begun with another model have other ids.
std::string fit_call_id(std::string id, ToolFormat format) {
  if (format != ToolFormat::kMistral || id.empty()) return id;
  const bool fits = id.size() == 9 && std::ranges::all_of(id, [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
                    });
  return fits ? id : derived_name(id, 0, 0, 9);
}

// Clients send a text, templates write an object.
json::value parse_arguments(const std::string& text) {
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return json::object();
  Result<json::value> parsed = parse_json(text, "arguments", kArgumentsDepthMax);
  return parsed.ok() && parsed->is_object() ? std::move(*parsed) : json::value(text);
}

void read_call(JsonFields& call, ToolFormat format, json::array& calls) {
  std::string id, name;
  call.read_string("id", kNameBytesMax, id);
  if (const auto type = call.find("type"); type != nullptr && *type != json::value("function")) {
    call.fail("type", "\"function\"");
    return;
  }
  if (!call.require("function", "an object with a name and arguments")) return;
  std::optional<JsonFields> function = call.object("function");
  if (!function || !function->require("name", "a string") || !function->read_string("name", kNameBytesMax, name))
    return;
  json::value arguments = json::object();
  if (const json::value* given = function->find("arguments")) {
    if (given->is_object()) {
      arguments = *given;
    } else {
      std::string text;
      if (!function->read_string("arguments", kTextBytesMax, text)) return;
      arguments = parse_arguments(text);
    }
  }
  json::object written = {{"type", "function"}, {"function", {{"name", name}, {"arguments", std::move(arguments)}}}};
  if (!id.empty()) written["id"] = fit_call_id(std::move(id), format);
  calls.push_back(std::move(written));
}

void read_calls(JsonFields& message, ToolFormat format, json::object& written) {
  const json::array* given = message.array("tool_calls", "an array of calls");
  if (given == nullptr || given->empty()) return;
  json::array calls;
  for (std::size_t i = 0; i < given->size(); ++i)
    if (std::optional<JsonFields> call = message.element("tool_calls", i, (*given)[i])) read_call(*call, format, calls);
  written["tool_calls"] = std::move(calls);
}

json::object read_message(JsonFields& message, ToolFormat format) {
  if (!message.require("role", "\"system\", \"user\", \"assistant\" or \"tool\"")) return {};
  const auto role = message.read_choice("role", {"system", "user", "assistant", "tool", "developer", "function"});
  if (!role) return {};
  constexpr const char* kRoles[] = {"system", "user", "assistant", "tool", "system", "tool"};
  const std::string_view role_name = kRoles[*role];
  json::object written = {{"role", json::string_view(role_name.data(), role_name.size())}};
  written["content"] = read_content(message);
  if (message.ok() && role_name == "assistant") {
    std::string reasoning;
    if (message.read_string("reasoning_content", kTextBytesMax, reasoning) ||
        message.read_string("reasoning", kTextBytesMax, reasoning))
      written["reasoning_content"] = reasoning;
    read_calls(message, format, written);
    if (message.has("function_call"))
      message.fail_with("function_call", "unsupported_parameter",
                        message.path_of("function_call") + " is the old form of a call: use tool_calls");
    if (message.has("audio"))
      message.fail_with("audio", "unsupported_parameter", message.path_of("audio") + ": this model reads only text");
  }
  const bool may_be_empty = written.contains("tool_calls") || written.contains("reasoning_content");
  if (!may_be_empty) message.require("content", "a string or an array of parts");
  std::string name;
  if (message.read_string("name", kNameBytesMax, name)) written["name"] = name;
  if (role_name == "tool" && message.read_string("tool_call_id", kNameBytesMax, name))
    written["tool_call_id"] = fit_call_id(name, format);
  return written;
}

}  // namespace

json::array read_messages(JsonFields& fields, ToolFormat format) {
  if (!fields.require("messages", "an array of messages")) return {};
  const json::array* messages = fields.array("messages", "an array of messages");
  if (messages != nullptr && messages->empty()) fields.fail("messages", "at least one message");
  json::array written;
  for (std::size_t i = 0; messages != nullptr && fields.ok() && i < messages->size(); ++i) {
    std::optional<JsonFields> message = fields.element("messages", i, (*messages)[i]);
    if (message) written.push_back(read_message(*message, format));
  }
  return written;
}

}  // namespace tandem::server

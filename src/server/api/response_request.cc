#include "server/api/response_request.h"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "server/api/json_text.h"
#include "server/api/request_fields.h"

namespace tandem::server {
namespace {

constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);
constexpr std::size_t kNameBytesMax = 1024;
constexpr std::size_t kTextBytesMax = std::size_t{1} << 30;  // bodies are bounded before they come here

// Fields that mean the same in both.
constexpr std::string_view kSharedFields[] = {"model",
                                              "stream",
                                              "temperature",
                                              "top_p",
                                              "top_k",
                                              "min_p",
                                              "seed",
                                              "presence_penalty",
                                              "frequency_penalty",
                                              "logit_bias",
                                              "stop",
                                              "repetition_penalty",
                                              "stop_token_ids",
                                              "min_tokens",
                                              "include_stop_str_in_output",
                                              "ignore_eos",
                                              "bad_words",
                                              "skip_special_tokens",
                                              "priority",
                                              "cache_salt",
                                              "allowed_token_ids",
                                              "logprobs_mode",
                                              "top_logprobs",
                                              "chat_template_kwargs",
                                              "cache_prompt",
                                              "n",
                                              "parallel_tool_calls",
                                              "grammar",
                                              "json_schema",
                                              "structured_outputs"};

struct Renamed {
  std::string_view chat, response;
};
constexpr Renamed kRenamed[] = {{"max_completion_tokens", "max_output_tokens"},
                                {"reasoning_effort", "reasoning.effort"},
                                {"response_format.json_schema", "text.format"},
                                {"response_format", "text.format"},
                                {"messages", "input"}};

void copy(JsonFields& from, std::string_view name, json::object& to, std::string_view new_name) {
  if (const json::value* value = from.find(name)) to[json::string_view(new_name.data(), new_name.size())] = *value;
}

// Items become messages; calls that follow one another, or their assistant's text, are one message.
class ItemReader {
 public:
  ItemReader(JsonFields& fields, ChatDocument& chat) : fields_(fields), chat_(chat) {}

  void read() {
    std::string instructions;
    if (fields_.read_string("instructions", kTextBytesMax, instructions))
      add({{"role", "system"}, {"content", instructions}}, kNowhere);
    if (!fields_.require("input", "a string or an array of items")) return;
    const json::value& input = *fields_.find("input");
    if (input.is_string()) {
      add({{"role", "user"}, {"content", input}}, kNowhere);
    } else if (const json::array* items = fields_.array("input", "a string or an array of items")) {
      if (items->empty()) fields_.fail("input", "at least one item");
      for (std::size_t i = 0; i < items->size(); ++i)
        if (std::optional<JsonFields> item = fields_.element("input", i, (*items)[i])) read_item(*item, i);
    }
    chat_.body["messages"] = std::move(messages_);
  }

 private:
  void add(json::object message, std::size_t place) {
    messages_.push_back(std::move(message));
    chat_.inputs.push_back(place);
  }

  void read_item(JsonFields& item, std::size_t place) {
    std::string type = "message";
    item.read_string("type", kNameBytesMax, type);
    if (type == "reasoning") return;  // templates drop the reasoning of earlier turns
    if (type == "message") return add_message(item, place);
    if (type == "function_call") return add_call(item, place);
    if (type == "function_call_output") return add_result(item, place);
    item.fail_with(
        "type", "unsupported_parameter",
        fmt::format("{} is {}: give \"message\", \"function_call\", \"function_call_output\" or \"reasoning\"",
                    item.path_of("type"), describe_json(json::string(type))));
  }

  void add_message(JsonFields& item, std::size_t place) {
    json::object message;
    copy(item, "role", message, "role");
    copy(item, "content", message, "content");
    add(std::move(message), place);
  }

  void add_call(JsonFields& item, std::size_t place) {
    json::object function;
    if (!item.require("name", "a string") || !item.require("arguments", "a string")) return;
    std::string text;
    item.read_string("name", kNameBytesMax, text);
    item.read_string("arguments", kTextBytesMax, text);
    item.read_string("call_id", kNameBytesMax, text);
    if (!item.ok()) return;
    copy(item, "name", function, "name");
    copy(item, "arguments", function, "arguments");
    json::object call = {{"type", "function"}, {"function", std::move(function)}};
    copy(item, "call_id", call, "id");
    const bool continues = !messages_.empty() && find_member(messages_.back().get_object(), "role") != nullptr &&
                           messages_.back().get_object()["role"] == json::value("assistant");
    if (!continues) add({{"role", "assistant"}, {"content", ""}}, place);
    json::value& calls = messages_.back().get_object()["tool_calls"];
    if (!calls.is_array()) calls = json::array();
    calls.get_array().push_back(std::move(call));
  }

  void add_result(JsonFields& item, std::size_t place) {
    if (!item.require("output", "a string or an array of parts")) return;
    json::object message = {{"role", "tool"}};
    copy(item, "output", message, "content");
    copy(item, "call_id", message, "tool_call_id");
    add(std::move(message), place);
  }

  JsonFields& fields_;
  ChatDocument& chat_;
  json::array messages_;
};

// {"type","name",...} becomes {"type","function":{"name",...}}.
json::value nest_function(const json::value& flat) {
  const json::object* object = flat.if_object();
  if (object == nullptr || find_member(*object, "function") != nullptr) return flat;
  json::object function = *object;
  function.erase("type");
  json::object nested;
  if (const json::value* type = find_member(*object, "type")) nested["type"] = *type;
  if (nested.contains("type") && nested["type"] == json::value("function")) nested["function"] = std::move(function);
  return nested;
}

json::array nest_functions(const json::array& flat) {
  json::array nested;
  for (const json::value& tool : flat) nested.push_back(nest_function(tool));
  return nested;
}

void read_tools(JsonFields& fields, json::object& chat) {
  if (const json::array* tools = fields.array("tools", "an array of tools")) chat["tools"] = nest_functions(*tools);
  const json::value* choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  const json::object* object = choice->if_object();
  const json::value* type = object != nullptr ? find_member(*object, "type") : nullptr;
  if (type == nullptr || *type != json::value("allowed_tools")) {
    chat["tool_choice"] = nest_function(*choice);
    return;
  }
  JsonFields allowed = *fields.object("tool_choice");
  json::object written;
  copy(allowed, "mode", written, "mode");
  if (const json::array* tools = allowed.array("tools", "an array of tools")) written["tools"] = nest_functions(*tools);
  chat["tool_choice"] = {{"type", "allowed_tools"}, {"allowed_tools", std::move(written)}};
}

// text.format holds the schema's members directly.
void read_text_format(JsonFields& fields, json::object& chat) {
  std::optional<JsonFields> text = fields.object("text");
  std::optional<JsonFields> format = text ? text->object("format") : std::nullopt;
  if (!format || !format->require("type", "\"text\", \"json_object\" or \"json_schema\"")) return;
  json::object written;
  copy(*format, "type", written, "type");
  if (written["type"] == json::value("json_schema")) {
    if (!format->require("schema", "a JSON schema")) return;
    json::object schema;
    copy(*format, "name", schema, "name");
    copy(*format, "schema", schema, "schema");
    written["json_schema"] = std::move(schema);
  }
  chat["response_format"] = std::move(written);
}

void read_include(JsonFields& fields, json::object& chat) {
  const json::array* include = fields.array("include", "an array of names");
  bool logprobs = false;
  for (std::size_t i = 0; include != nullptr && i < include->size(); ++i)
    logprobs = logprobs || (*include)[i] == json::value("message.output_text.logprobs");
  if (logprobs) chat["logprobs"] = true;
}

// The call's own words, for the answer to repeat; null or the default where it said nothing.
std::string settings_of(const json::object& document) {
  std::string settings;
  const auto add = [&](std::string_view name, std::string_view otherwise) {
    const json::value* value = find_member(document, name);
    const bool given = value != nullptr && !value->is_null();
    append(settings, ",", Quoted{name}, ":", given ? std::string_view(to_json_text(*value)) : otherwise);
  };
  add("instructions", "null");
  add("max_output_tokens", "null");
  add("metadata", "{}");
  add("parallel_tool_calls", "true");
  add("reasoning", R"({"effort":null,"summary":null})");
  add("temperature", "null");
  add("text", R"({"format":{"type":"text"}})");
  add("tool_choice", R"("auto")");
  add("tools", "[]");
  add("top_p", "null");
  add("user", "null");
  settings += R"(,"background":false,"previous_response_id":null,"store":false,"truncation":"disabled")";
  return settings;
}

}  // namespace

ChatDocument chat_of_response(JsonFields& fields) {
  ChatDocument chat;
  for (const std::string_view name : kSharedFields) copy(fields, name, chat.body, name);
  copy(fields, "max_output_tokens", chat.body, "max_completion_tokens");
  if (std::optional<JsonFields> reasoning = fields.object("reasoning"))
    copy(*reasoning, "effort", chat.body, "reasoning_effort");
  read_tools(fields, chat.body);
  read_text_format(fields, chat.body);
  read_include(fields, chat.body);
  refuse_fields(fields, {{"previous_response_id", "no answers are kept; send the whole conversation as input"},
                         {"conversation", "no conversations are kept; send the whole conversation as input"},
                         {"background", "answers are not kept; set stream to true instead"},
                         {"prompt", "no prompts are kept; send instructions and input"}});
  int n = 1;
  fields.read_integer("n", {1, 1}, n);
  accept_without_effect(fields, {"truncation", "max_tool_calls", "stream_options", "verbosity"});
  read_foreign_fields(fields);
  ItemReader(fields, chat).read();
  if (fields.ok()) chat.settings = settings_of(fields.source());
  return chat;
}

ApiError error_of_response(ApiError error, const ChatDocument& chat) {
  const std::string before = error.param;
  for (const Renamed& name : kRenamed) {
    if (!error.param.starts_with(name.chat)) continue;
    error.param = std::string(name.response) + error.param.substr(name.chat.size());
    break;
  }
  std::size_t message = 0;
  int end = 0;
  if (std::sscanf(before.c_str(), "messages[%zu]%n", &message, &end) == 1 && end > 0 && message < chat.inputs.size()) {
    const std::size_t item = chat.inputs[message];
    error.param =
        item == kNowhere ? "input" : fmt::format("input[{}]{}", item, before.substr(static_cast<std::size_t>(end)));
  }
  if (error.param.starts_with("tool")) {
    if (const std::size_t nested = error.param.find(".function"); nested != std::string::npos)
      error.param.erase(nested, std::string_view(".function").size());
  }
  if (!before.empty() && error.message.starts_with(before))
    error.message = error.param + error.message.substr(before.size());
  return error;
}

}  // namespace tandem::server

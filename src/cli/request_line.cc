#include "cli/request_line.h"

#include <cmath>
#include <functional>
#include <limits>
#include <map>

namespace tandem::cli {
namespace {

using engine::Request;

Status wrong(std::string_view field, const char* expected) {
  return invalid_argument("\"{}\": expected {}", field, expected);
}

Result<double> to_number(const json::value& value, std::string_view field) {
  if (!value.is_number()) return wrong(field, "a number");
  return value.to_number<double>();
}

Result<std::int64_t> to_integer(const json::value& value, std::string_view field) {
  if (const std::int64_t* integer = value.if_int64()) return *integer;
  if (const double* number = value.if_double();
      number && std::nearbyint(*number) == *number && std::abs(*number) < 9e15) {
    return static_cast<std::int64_t>(*number);
  }
  return wrong(field, "an integer");
}

Result<int> to_int(const json::value& value, std::string_view field) {
  const std::int64_t integer = TD_TRY(to_integer(value, field));
  if (integer < std::numeric_limits<int>::min() || integer > std::numeric_limits<int>::max()) {
    return wrong(field, "a smaller number");
  }
  return static_cast<int>(integer);
}

Result<bool> to_bool(const json::value& value, std::string_view field) {
  if (!value.is_bool()) return wrong(field, "true or false");
  return value.get_bool();
}

Result<std::vector<TokenId>> to_token_ids(const json::value& value, std::string_view field) {
  if (!value.is_array()) return wrong(field, "an array of token ids");
  std::vector<TokenId> ids;
  for (const json::value& element : value.get_array()) ids.push_back(TD_TRY(to_int(element, field)));
  return ids;
}

Result<std::vector<std::string>> to_strings(const json::value& value, std::string_view field) {
  std::vector<std::string> strings;
  if (const json::string* one = value.if_string()) {
    strings.emplace_back(*one);
  } else if (const json::array* many = value.if_array()) {
    for (const json::value& element : *many) {
      if (!element.is_string()) return wrong(field, "a string or an array of strings");
      strings.emplace_back(element.get_string());
    }
  } else {
    return wrong(field, "a string or an array of strings");
  }
  return strings;
}

Result<std::uint64_t> to_seed(const json::value& value, std::string_view field) {
  if (const std::uint64_t* seed = value.if_uint64()) return *seed;
  return static_cast<std::uint64_t>(TD_TRY(to_integer(value, field)));
}

// {"17": -5.0} as OpenAI writes it.
Status set_logit_bias(const json::value& value, Request& request) {
  if (!value.is_object()) return wrong("logit_bias", "an object of token id to number");
  request.sampling.logit_bias.clear();
  for (const auto& [key, bias] : value.get_object()) {
    const std::vector<TokenId> id = TD_TRY(parse_token_ids(std::string(key)));
    if (id.size() != 1) return wrong("logit_bias", "one token id as each key");
    request.sampling.logit_bias.emplace_back(id[0], static_cast<float>(TD_TRY(to_number(bias, "logit_bias"))));
  }
  return ok_status();
}

// true: each token's own; a number: so many alternatives; false or null: none.
Result<std::optional<int>> to_logprobs(const json::value& value, std::string_view field) {
  if (value.is_bool()) return value.get_bool() ? std::optional<int>(0) : std::nullopt;
  return std::optional<int>(TD_TRY(to_int(value, field)));
}

using Setter = std::function<Status(const json::value&, std::string_view field, Request&)>;

// A setter from a converter and the member it fills.
template <class Convert, class Member>
Setter field(Convert convert, Member member) {
  return [=](const json::value& value, std::string_view name, Request& request) -> Status {
    auto* target = member(request);
    *target = static_cast<std::remove_reference_t<decltype(*target)>>(TD_TRY(convert(value, name)));
    return ok_status();
  };
}

const std::map<std::string_view, Setter>& setters() {
  static const std::map<std::string_view, Setter> table = {
      {"temperature", field(to_number, [](Request& r) { return &r.sampling.temperature; })},
      {"top_k", field(to_int, [](Request& r) { return &r.sampling.top_k; })},
      {"top_p", field(to_number, [](Request& r) { return &r.sampling.top_p; })},
      {"min_p", field(to_number, [](Request& r) { return &r.sampling.min_p; })},
      {"repetition_penalty", field(to_number, [](Request& r) { return &r.sampling.repetition_penalty; })},
      {"presence_penalty", field(to_number, [](Request& r) { return &r.sampling.presence_penalty; })},
      {"frequency_penalty", field(to_number, [](Request& r) { return &r.sampling.frequency_penalty; })},
      {"seed", field(to_seed, [](Request& r) { return &r.sampling.seed; })},
      {"allowed_token_ids", field(to_token_ids, [](Request& r) { return &r.sampling.allowed_token_ids; })},
      {"n", field(to_int, [](Request& r) { return &r.samples_count; })},
      {"max_tokens", field(to_integer, [](Request& r) { return &r.max_tokens; })},
      {"min_tokens", field(to_integer, [](Request& r) { return &r.min_tokens; })},
      {"stop", field(to_strings, [](Request& r) { return &r.stop_strings; })},
      {"stop_ids", field(to_token_ids, [](Request& r) { return &r.stop_token_ids; })},
      {"stop_token_ids", field(to_token_ids, [](Request& r) { return &r.stop_token_ids; })},
      {"include_stop_string", field(to_bool, [](Request& r) { return &r.include_stop_string; })},
      {"ignore_eos", field(to_bool, [](Request& r) { return &r.ignore_eos; })},
      {"skip_special_tokens", field(to_bool, [](Request& r) { return &r.skip_special_tokens; })},
      {"logprobs", field(to_logprobs, [](Request& r) { return &r.logprobs; })},
      {"prompt_logprobs", field(to_logprobs, [](Request& r) { return &r.prompt_logprobs; })},
      {"priority", field(to_int, [](Request& r) { return &r.priority; })},
      {"logit_bias",
       [](const json::value& value, std::string_view, Request& request) { return set_logit_bias(value, request); }},
  };
  return table;
}

constexpr std::string_view kOwnFields[] = {"id", "prompt", "messages", "prompt_ids", "chat", "system"};

Result<Request> parse_request(const json::object& object, const Request& defaults, const ModelHost& host,
                              const Result<model::ChatPrompt>& chat, bool chat_default) {
  Request request = defaults;
  const json::value *prompt = nullptr, *messages = nullptr, *prompt_ids = nullptr;
  bool as_chat = chat_default;
  std::string system;
  for (const auto& [key, value] : object) {
    const std::string_view name(key.data(), key.size());
    if (value.is_null()) continue;
    if (name == "prompt") prompt = &value;
    if (name == "messages") messages = &value;
    if (name == "prompt_ids") prompt_ids = &value;
    if (name == "chat") as_chat = TD_TRY(to_bool(value, name));
    if (name == "system") {
      if (!value.is_string()) return wrong(name, "a string");
      system = std::string(value.get_string());
    }
    if (std::find(std::begin(kOwnFields), std::end(kOwnFields), name) != std::end(kOwnFields)) continue;
    const auto setter = setters().find(name);
    if (setter == setters().end())
      return invalid_argument("\"{}\": unknown field; remove it or check its spelling", name);
    TD_TRY(setter->second(value, name, request));
  }
  if ((prompt != nullptr) + (messages != nullptr) + (prompt_ids != nullptr) != 1) {
    return invalid_argument("give exactly one of \"prompt\", \"messages\" and \"prompt_ids\"");
  }
  if (prompt_ids != nullptr) {
    request.prompt = TD_TRY(to_token_ids(*prompt_ids, "prompt_ids"));
    return request;
  }
  if (prompt != nullptr && !prompt->is_string()) return wrong("prompt", "a string");
  if (prompt != nullptr && !as_chat) {
    request.prompt = TD_TRY(encode_text(host, std::string(prompt->get_string())));
    return request;
  }
  if (messages != nullptr && !messages->is_array()) return wrong("messages", "an array of messages");
  json::array conversation = messages != nullptr ? messages->get_array() : json::array();
  if (!system.empty()) conversation.insert(conversation.begin(), model::make_message("system", system));
  if (prompt != nullptr) conversation.push_back(model::make_message("user", std::string(prompt->get_string())));
  if (!chat.ok()) return chat.status();
  request.prompt = TD_TRY(chat->encode(conversation));
  return request;
}

}  // namespace

RequestLine parse_request_line(std::string_view line, const Request& defaults, const ModelHost& host,
                               const Result<model::ChatPrompt>& chat, bool chat_default) {
  RequestLine parsed;
  const Result<json::value> value = parse_json(line, "line");
  if (!value.ok()) {
    parsed.request = value.status();
    return parsed;
  }
  const json::object* object = value->if_object();
  if (object == nullptr) {
    parsed.request = invalid_argument("a line must be a JSON object with \"prompt\", \"messages\" or \"prompt_ids\"");
    return parsed;
  }
  if (const json::value* id = find_member(*object, "id")) parsed.id = *id;
  parsed.request = parse_request(*object, defaults, host, chat, chat_default);
  return parsed;
}

}  // namespace tandem::cli

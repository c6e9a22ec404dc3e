#include "cli/request_line.h"

#include <fmt/format.h>

#include "base/json_fields.h"

namespace tandem::cli {
namespace {

using engine::Request;

// A line is as long as its writer likes.
constexpr std::size_t kTextBytesMax = std::numeric_limits<std::size_t>::max(), kIdsMax = kTextBytesMax;

// true: each token's own; a number: so many alternatives; false: none.
void read_logprobs(JsonFields& fields, const char* name, std::optional<int>& target) {
  const json::value* value = fields.find(name);
  int count = 0;
  if (value != nullptr && value->is_bool()) {
    target = value->get_bool() ? std::optional<int>(0) : std::nullopt;
  } else if (fields.read_integer(name, {0, engine::kLogprobsMax}, count)) {
    target = count;
  }
}

// What the engine checks is read without a range.
void read_parameters(JsonFields& fields, Request& request) {
  engine::SamplingParams& sampling = request.sampling;
  fields.read_number("temperature", {}, sampling.temperature);
  fields.read_integer("top_k", {}, sampling.top_k);
  fields.read_number("top_p", {}, sampling.top_p);
  fields.read_number("min_p", {}, sampling.min_p);
  fields.read_number("repetition_penalty", {}, sampling.repetition_penalty);
  fields.read_number("presence_penalty", {}, sampling.presence_penalty);
  fields.read_number("frequency_penalty", {}, sampling.frequency_penalty);
  fields.read_bits("seed", sampling.seed);
  fields.read_number_map("logit_bias", {}, {}, kIdsMax, sampling.logit_bias);
  fields.read_integers("allowed_token_ids", {}, kIdsMax, sampling.allowed_token_ids);
  fields.read_integer("n", {}, request.samples_count);
  fields.read_integer("max_tokens", {}, request.max_tokens);
  fields.read_integer("min_tokens", {}, request.min_tokens);
  fields.read_strings("stop", {.bytes_max = engine::kStopStringBytesMax, .count_max = engine::kStopStringsMax},
                      request.stop_strings);
  fields.read_integers("stop_ids", {}, engine::kStopTokenIdsMax, request.stop_token_ids);
  fields.read_integers("stop_token_ids", {}, engine::kStopTokenIdsMax, request.stop_token_ids);
  fields.read_bool("include_stop_string", request.include_stop_string);
  fields.read_bool("ignore_eos", request.ignore_eos);
  fields.read_bool("skip_special_tokens", request.skip_special_tokens);
  read_logprobs(fields, "logprobs", request.logprobs);
  read_logprobs(fields, "prompt_logprobs", request.prompt_logprobs);
  fields.read_integer("priority", {}, request.priority);
}

Result<Request> parse_request(const json::object& object, const Request& defaults, const ModelHost& host,
                              const Result<model::ChatPrompt>& chat, bool chat_default) {
  Request request = defaults;
  FieldError error;
  JsonFields fields(object, error);
  fields.find("id");
  read_parameters(fields, request);
  bool as_chat = chat_default;
  std::string system, prompt;
  fields.read_bool("chat", as_chat);
  fields.read_string("system", kTextBytesMax, system);
  const bool has_prompt = fields.read_string("prompt", kTextBytesMax, prompt);
  const bool has_ids = fields.read_integers("prompt_ids", {}, kIdsMax, request.prompt);
  const json::array* messages = fields.array("messages", "an array of messages");
  if (const std::optional<std::string> name = fields.first_unread())
    fields.fail_with(*name, "unknown_parameter",
                     fmt::format("\"{}\": unknown field; remove it or check its spelling", *name));
  TD_TRY(error.status());
  if (has_prompt + (messages != nullptr) + has_ids != 1)
    return invalid_argument("give exactly one of \"prompt\", \"messages\" and \"prompt_ids\"");
  if (has_ids) return request;
  if (has_prompt && !as_chat) {
    request.prompt = TD_TRY(encode_text(host, prompt));
    return request;
  }
  json::array conversation = messages != nullptr ? *messages : json::array();
  if (!system.empty()) conversation.insert(conversation.begin(), model::make_message("system", system));
  if (has_prompt) conversation.push_back(model::make_message("user", prompt));
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

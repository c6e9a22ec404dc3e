#include "server/api/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/api/call_ids.h"

namespace tandem::server {
namespace {

constexpr int kBodyDepthMax = 32;
constexpr std::size_t kLogitBiasMax = 1024;
constexpr std::size_t kBadWordBytesMax = 1024;
constexpr std::size_t kSaltBytesMax = engine::kCacheSaltBytesMax / 2;  // the transport adds who calls
constexpr float kBiasMax = 100;

// A word is forbidden both at the start of a text and after a space, where that is a token of its own; the same
// sequences as vLLM makes.
void read_bad_words(const ApiContext& context, JsonFields& fields, engine::SamplingParams& sampling) {
  std::vector<std::string> words;
  const StringBounds bounds{
      .bytes_max = kBadWordBytesMax, .count_max = engine::kBadWordsMax / 2, .empty_allowed = false};
  if (!fields.read_strings("bad_words", bounds, words)) return;
  if (!words.empty() && context.tokenizer == nullptr)
    return fields.fail_with("bad_words", "unsupported_parameter",
                            "bad_words needs a tokenizer, and the model has none");
  sampling.bad_words.clear();
  for (const std::string& word : words) {
    const std::string bare = word.substr(std::min(word.find_first_not_of(" \t\r\n"), word.size()));
    std::vector<TokenId> first;
    for (const char* prefix : {"", " "}) {
      auto ids = context.tokenizer->encode(prefix + bare, {.add_special = false});
      if (!ids.ok()) return fields.fail_with("bad_words", "invalid_value", ids.status().message());
      if (ids->empty()) continue;
      if (!first.empty() && (ids->front() == first.front() || ids->size() != first.size())) continue;
      first = *ids;
      sampling.bad_words.push_back(std::move(*ids));
    }
  }
}

bool asks_for_nothing(const json::value& value) {
  if (const bool* flag = value.if_bool()) return !*flag;
  if (value.is_number()) return value.to_number<double>() == 0;
  if (const json::array* list = value.if_array()) return list->empty();
  if (const json::object* object = value.if_object()) return object->empty();
  return value.is_string() && value.get_string().empty();
}

}  // namespace

ApiResult<json::object> parse_body(std::string_view body) {
  Result<json::value> value = parse_json(body, "request body", kBodyDepthMax);
  if (!value.ok()) return bad_request("invalid_json", "", value.status().message());
  if (!value->is_object())
    return bad_request("invalid_json", "", fmt::format("request body is {}: give an object", describe_json(*value)));
  return std::move(value->get_object());
}

ApiResult<std::monostate> check_model(const ApiContext& context, JsonFields& fields) {
  std::string model;
  const bool given = fields.read_string("model", 1024, model);
  if (!fields.ok()) return error_of(fields.error());
  if (!given) return std::monostate();
  return check_model_name(context, model);
}

ApiResult<std::monostate> check_model_name(const ApiContext& context, std::string_view name) {
  if (std::ranges::count(context.model_ids, name) > 0) return std::monostate();
  return ApiError{.status = 404,
                  .type = "not_found_error",
                  .code = "model_not_found",
                  .param = "model",
                  .message = fmt::format("there is no model {} here: give {}",
                                         describe_json(json::string(json::string_view(name.data(), name.size()))),
                                         fmt::join(context.model_ids, " or "))};
}

void read_sampling(const ApiContext& context, const CallInfo& info, JsonFields& fields, engine::Request& request,
                   AnswerOptions& options) {
  engine::SamplingParams& sampling = request.sampling;
  const std::int64_t token_max = context.vocab_size - 1;
  fields.read_number("temperature", {0, 2}, sampling.temperature);
  fields.read_number("top_p", {0, 1, true}, sampling.top_p);
  fields.read_number("min_p", {0, 1}, sampling.min_p);
  fields.read_number("presence_penalty", {-2, 2}, sampling.presence_penalty);
  fields.read_number("frequency_penalty", {-2, 2}, sampling.frequency_penalty);
  fields.read_number("repetition_penalty", {0, 100, true}, sampling.repetition_penalty);
  if (fields.read_integer("top_k", {-1}, sampling.top_k)) sampling.top_k = std::max(sampling.top_k, 0);
  if (!fields.read_bits("seed", sampling.seed)) sampling.seed = derived_seed(info.id, 0);
  fields.read_number_map("logit_bias", {0, token_max}, {-kBiasMax, kBiasMax}, kLogitBiasMax, sampling.logit_bias);
  fields.read_integers("allowed_token_ids", {0, token_max}, static_cast<std::size_t>(context.vocab_size),
                       sampling.allowed_token_ids);
  read_bad_words(context, fields, sampling);
  fields.read_integer("n", {1, context.samples_max}, request.samples_count);
  fields.read_integer("min_tokens", {0, context.context_tokens}, request.min_tokens);
  const StringBounds stops{
      .bytes_max = engine::kStopStringBytesMax, .count_max = engine::kStopStringsMax, .empty_allowed = false};
  fields.read_strings("stop", stops, request.stop_strings);
  fields.read_integers("stop_token_ids", {0, token_max}, engine::kStopTokenIdsMax, request.stop_token_ids);
  options.stop_token_ids = request.stop_token_ids;
  fields.read_bool("include_stop_str_in_output", request.include_stop_string);
  fields.read_bool("ignore_eos", request.ignore_eos);
  fields.read_bool("skip_special_tokens", request.skip_special_tokens);
  fields.read_integer("priority", {}, request.priority);
  fields.read_string("cache_salt", kSaltBytesMax, request.cache_salt);
  fields.read_bool("cache_prompt", request.cache_prefix);
}

void read_answer_options(JsonFields& fields, engine::Request& request, AnswerOptions& options) {
  fields.read_bool("stream", options.stream);
  if (std::optional<JsonFields> stream = fields.object("stream_options")) {
    if (!options.stream)
      fields.fail_with("stream_options", "invalid_value", "stream_options is only for streams: set stream to true");
    stream->read_bool("include_usage", options.include_usage);
    stream->read_bool("continuous_usage_stats", options.continuous_usage);
    options.include_usage = options.include_usage || options.continuous_usage;
  }
  fields.read_bool("return_token_ids", options.return_token_ids);
  fields.read_bool("return_tokens_as_token_ids", options.tokens_as_ids);
  if (const auto mode = fields.read_choice("logprobs_mode", {"raw", "processed", "raw_logprobs", "processed_logprobs"}))
    request.logprobs_mode = *mode % 2 == 0 ? engine::LogprobsMode::kRaw : engine::LogprobsMode::kProcessed;
  int prompt_logprobs = 0;
  if (fields.read_integer("prompt_logprobs", {0, engine::kLogprobsMax}, prompt_logprobs)) {
    request.prompt_logprobs = prompt_logprobs;
    options.prompt_logprobs = true;
    if (options.stream)
      fields.fail_with("prompt_logprobs", "unsupported_parameter",
                       "prompt_logprobs cannot be streamed: set stream to false");
  }
}

void accept_without_effect(JsonFields& fields, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) fields.find(name);
}

void refuse_fields(JsonFields& fields, std::initializer_list<Refusal> refusals) {
  for (const Refusal& refusal : refusals) {
    const json::value* value = fields.find(refusal.name);
    if (value == nullptr || asks_for_nothing(*value)) continue;
    fields.fail_with(refusal.name, "unsupported_parameter",
                     fmt::format("{} is not supported: {}", refusal.name, refusal.remedy));
  }
}

void read_foreign_fields(JsonFields& fields) {
  accept_without_effect(fields, {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
                                 "prompt_cache_retention", "request_id", "id_slot", "timings_per_token",
                                 "return_progress", "sse_ping_interval", "spaces_between_special_tokens",
                                 "include_reasoning", "guided_decoding_backend", "guided_whitespace_pattern"});
  refuse_fields(fields, {{"use_beam_search", "answers are sampled; use n or best_of"},
                         {"truncate_prompt_tokens", "shorten the prompt before sending it"},
                         {"logits_processors", "use logit_bias, bad_words or allowed_token_ids"},
                         {"prompt_embeds", "send text or token ids"},
                         {"mirostat", "use temperature, top_p or min_p"},
                         {"dynatemp_range", "use temperature"},
                         {"xtc_probability", "use temperature, top_p or min_p"},
                         {"dry_multiplier", "use repetition_penalty or frequency_penalty"},
                         {"samplers", "samplers always run in the order top_k, top_p, min_p"},
                         {"kv_transfer_params", "leave it out"},
                         {"logprob_token_ids", "use top_logprobs"}});
}

void check_unknown(const ApiContext& context, JsonFields& fields) {
  if (!context.strict) return;
  if (const std::optional<std::string> name = fields.first_unread())
    fields.fail_with(*name, "unknown_parameter",
                     fmt::format("{} is not a field that is known here: remove it or check its spelling",
                                 describe_json(json::string(*name))));
}

ApiResult<std::monostate> check_request(const ApiContext& context, const engine::Request& request,
                                        std::string_view prompt_field) {
  const std::int64_t prompt_tokens = std::ssize(request.prompt);
  if (prompt_tokens == 0)
    return bad_request("invalid_value", std::string(prompt_field),
                       fmt::format("{} has no tokens: give at least one", prompt_field));
  if (prompt_tokens >= context.context_tokens)
    return bad_request("context_length_exceeded", std::string(prompt_field),
                       fmt::format("this model's context is {} tokens, and {} has {}, which leaves no room for an "
                                   "answer: shorten it",
                                   context.context_tokens, prompt_field, prompt_tokens));
  const std::int64_t room = context.context_tokens - prompt_tokens;
  const std::int64_t answer_max = request.max_tokens > 0 ? std::min(request.max_tokens, room) : room;
  if (request.min_tokens > answer_max)
    return bad_request("invalid_value", "min_tokens",
                       fmt::format("min_tokens is {}: give at most {}, what max_tokens and the context leave for the "
                                   "answer",
                                   request.min_tokens, answer_max));
  const Status valid =
      engine::validate_request(request, context.vocab_size, context.context_tokens, context.tokenizer != nullptr);
  if (!valid.ok()) return refused("", valid);
  return std::monostate();
}

AnswerHead make_head(const ApiContext& context, const CallInfo& info, std::string_view id_prefix) {
  return {.id = std::string(id_prefix) + info.id,
          .object = {},
          .model = context.model_ids.empty() ? std::string() : context.model_ids.front(),
          .system_fingerprint = context.system_fingerprint,
          .created_s = info.created_s};
}

Response json_response(std::string body) {
  Response response;
  response.head.headers = {{"content-type", "application/json"}};
  response.body = std::move(body);
  return response;
}

}  // namespace tandem::server

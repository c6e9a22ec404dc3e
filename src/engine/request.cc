#include "engine/request.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

namespace tandem::engine {
namespace {

// Refuses NaN with the rest: every comparison is written so that NaN fails it.
Status check_between(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return ok_status();
  return invalid_argument("{} is {}: give a number from {} to {}", field, value, low, high);
}

Status check_count(const char* field, std::size_t count, std::size_t count_max) {
  if (count <= count_max) return ok_status();
  return invalid_argument("{} has {} entries: give at most {}", field, count, count_max);
}

Status check_token(const char* field, TokenId token, std::int64_t vocab_size) {
  if (token >= 0 && token < vocab_size) return ok_status();
  return invalid_argument("{} holds token {}, but the vocabulary is 0 to {}: use this model's tokenizer", field, token,
                          vocab_size - 1);
}

Status check_tokens(const char* field, std::span<const TokenId> tokens, std::int64_t vocab_size) {
  for (const TokenId token : tokens) TD_TRY(check_token(field, token, vocab_size));
  return ok_status();
}

bool is_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    utf8proc_int32_t code_point = 0;
    const auto length = utf8proc_iterate(bytes + i, static_cast<utf8proc_ssize_t>(text.size() - i), &code_point);
    if (length <= 0) return false;
    i += static_cast<std::size_t>(length);
  }
  return true;
}

Status check_sampling(const SamplingParams& params, std::int64_t vocab_size) {
  if (!(params.temperature >= 0.0f) || !std::isfinite(params.temperature)) {
    return invalid_argument("temperature is {}: give 0 (greedy) or a positive number", params.temperature);
  }
  if (params.top_k < 0) return invalid_argument("top_k is {}: give 0 (all tokens) or a positive number", params.top_k);
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return invalid_argument("top_p is {}: give a number above 0 and at most 1", params.top_p);
  }
  TD_TRY(check_between("min_p", params.min_p, 0, 1));
  if (!(params.repetition_penalty > 0.0f) || !std::isfinite(params.repetition_penalty)) {
    return invalid_argument("repetition_penalty is {}: give a positive number, 1 for none", params.repetition_penalty);
  }
  TD_TRY(check_between("presence_penalty", params.presence_penalty, -2, 2));
  TD_TRY(check_between("frequency_penalty", params.frequency_penalty, -2, 2));

  const auto vocab_count = static_cast<std::size_t>(vocab_size);
  TD_TRY(check_count("logit_bias", params.logit_bias.size(), vocab_count));
  for (const auto& [token, bias] : params.logit_bias) {
    TD_TRY(check_token("logit_bias", token, vocab_size));
    if (!std::isfinite(bias)) {
      return invalid_argument(
          "logit_bias of token {} is {}: give a finite number, or list what is left in allowed_token_ids", token, bias);
    }
  }
  TD_TRY(check_count("allowed_token_ids", params.allowed_token_ids.size(), vocab_count));
  TD_TRY(check_tokens("allowed_token_ids", params.allowed_token_ids, vocab_size));
  TD_TRY(check_count("bad_words", params.bad_words.size(), kBadWordsMax));
  for (const std::vector<TokenId>& word : params.bad_words) {
    if (word.empty()) return invalid_argument("bad_words has an empty entry: leave it out");
    TD_TRY(check_count("an entry of bad_words", word.size(), kBadWordTokensMax));
    TD_TRY(check_tokens("bad_words", word, vocab_size));
  }
  return ok_status();
}

Status check_length(const Request& request, std::int64_t vocab_size, std::int64_t context_tokens) {
  const auto prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
  if (prompt_tokens == 0) return invalid_argument("the prompt is empty: give at least one token");
  if (prompt_tokens >= context_tokens) {
    return invalid_argument("the prompt has {} tokens and leaves no room for an answer in a context of {}: shorten it",
                            prompt_tokens, context_tokens);
  }
  TD_TRY(check_tokens("the prompt", request.prompt, vocab_size));
  if (request.max_tokens < 0) {
    return invalid_argument("max_tokens is {}: give a positive number, or 0 for as many as fit", request.max_tokens);
  }
  const std::int64_t room = context_tokens - prompt_tokens;
  const std::int64_t answer_max = request.max_tokens > 0 ? std::min(request.max_tokens, room) : room;
  if (request.min_tokens < 0 || request.min_tokens > answer_max) {
    return invalid_argument("min_tokens is {}: give 0 to {}, what max_tokens and the context leave for the answer",
                            request.min_tokens, answer_max);
  }
  return ok_status();
}

Status check_stops(const Request& request, std::int64_t vocab_size, bool has_tokenizer) {
  TD_TRY(check_count("stop_token_ids", request.stop_token_ids.size(), kStopTokenIdsMax));
  TD_TRY(check_tokens("stop_token_ids", request.stop_token_ids, vocab_size));
  TD_TRY(check_count("stop", request.stop_strings.size(), kStopStringsMax));
  if (!request.stop_strings.empty() && !has_tokenizer) {
    return invalid_argument("stop strings need a tokenizer, and none is loaded: use stop_token_ids");
  }
  for (const std::string& text : request.stop_strings) {
    if (text.empty()) return invalid_argument("stop has an empty string: leave it out");
    if (text.size() > kStopStringBytesMax) {
      return invalid_argument("a stop string has {} bytes: give at most {}", text.size(), kStopStringBytesMax);
    }
    if (!is_utf8(text)) return invalid_argument("a stop string is not valid UTF-8: it could never match the text");
  }
  return ok_status();
}

}  // namespace

Request default_request(const model::SamplingDefaults& defaults) {
  const bool sampled = defaults.do_sample.value_or(false);
  Request request;
  SamplingParams& sampling = request.sampling;
  sampling.temperature = sampled ? defaults.temperature.value_or(1.0f) : 0.0f;
  sampling.top_k = sampled ? defaults.top_k.value_or(0) : 0;
  sampling.top_p = sampled ? defaults.top_p.value_or(1.0f) : 1.0f;
  sampling.min_p = sampled ? defaults.min_p.value_or(0.0f) : 0.0f;
  sampling.repetition_penalty = defaults.repetition_penalty.value_or(1.0f);
  return request;
}

Status validate_request(const Request& request, std::int64_t vocab_size, std::int64_t context_tokens,
                        bool has_tokenizer) {
  TD_TRY(check_length(request, vocab_size, context_tokens));
  TD_TRY(check_sampling(request.sampling, vocab_size));
  TD_TRY(check_stops(request, vocab_size, has_tokenizer));
  TD_TRY(check_between("n", request.samples_count, 1, kSamplesMax));
  if (request.logprobs) TD_TRY(check_between("logprobs", *request.logprobs, 0, kLogprobsMax));
  if (request.prompt_logprobs) TD_TRY(check_between("prompt_logprobs", *request.prompt_logprobs, 0, kLogprobsMax));
  if (request.grammar && !has_tokenizer)
    return invalid_argument("a grammar needs a tokenizer, and none is loaded: leave the grammar out");
  if (request.cache_salt.size() > kCacheSaltBytesMax) {
    return invalid_argument("cache_salt has {} bytes: give at most {}", request.cache_salt.size(), kCacheSaltBytesMax);
  }
  return ok_status();
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone: return "none";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "cancelled";
    case FinishReason::kDeadline: return "deadline";
    case FinishReason::kError: return "error";
  }
  return "unknown";
}

}  // namespace tandem::engine

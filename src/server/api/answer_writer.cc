#include "server/api/answer_writer.h"

#include <algorithm>

#include "base/check.h"
#include "server/api/json_text.h"

namespace tandem::server {
namespace {

ApiError deadline_error(const engine::TokenEvent& event) {
  if (event.admitted == TimePoint())
    return {.status = 503,
            .type = "unavailable_error",
            .code = "timeout",
            .message = "the time given ran out before there was room to begin: try again later or allow more time"};
  return {.status = 408,
          .type = "timeout_error",
          .code = "timeout",
          .message = "the time given ran out before the answer was complete: allow more time or ask for fewer tokens"};
}

// Of a request that was accepted. What it lacks there is not more of after a while: clients are not to ask again.
ApiError error_of_event(const engine::TokenEvent& event) {
  if (event.finish == engine::FinishReason::kDeadline) return deadline_error(event);
  if (event.error.code() == StatusCode::kResourceExhausted) return bad_request("too_large", "", event.error.message());
  return error_of(event.error);
}

}  // namespace

void append_head(std::string& out, const AnswerHead& head) {
  append(out, R"({"id":)", Quoted{head.id}, R"(,"object":)", Quoted{head.object}, R"(,"created":)", head.created_s,
         R"(,"model":)", Quoted{head.model}, R"(,"system_fingerprint":)", QuotedOrNull{head.system_fingerprint});
}

void append_usage(std::string& out, const Usage& usage) {
  append(out, R"({"prompt_tokens":)", usage.prompt_tokens, R"(,"completion_tokens":)", usage.completion_tokens,
         R"(,"total_tokens":)", usage.prompt_tokens + usage.completion_tokens,
         R"(,"prompt_tokens_details":{"cached_tokens":)", usage.cached_tokens,
         R"(},"completion_tokens_details":{"reasoning_tokens":)", usage.reasoning_tokens, "}}");
}

void WeightVersions::add(std::int64_t version) {
  oldest = oldest ? std::min(*oldest, version) : version;
  newest = newest ? std::max(*newest, version) : version;
}

void WeightVersions::add(const WeightVersions& other) {
  if (!other.oldest) return;
  add(*other.oldest);
  add(*other.newest);
}

void append_weight_versions(std::string& out, const WeightVersions& versions) {
  if (!versions.newest) return;
  append(out, R"(,"weight_version":)", *versions.newest);
  if (*versions.oldest != *versions.newest) append(out, R"(,"weight_version_oldest":)", *versions.oldest);
}

void append_stop_reason(std::string& out, const engine::TokenEvent& event, const std::vector<TokenId>& stop_token_ids) {
  if (event.stop_string) {
    append(out, R"("stop_reason":)", Quoted{*event.stop_string});
  } else if (event.stop_token && std::ranges::count(stop_token_ids, *event.stop_token) > 0) {
    append(out, R"("stop_reason":)", *event.stop_token);
  } else {
    out += R"("stop_reason":null)";
  }
}

AnswerWriter::AnswerWriter(std::vector<std::int64_t> prompt_tokens, int samples_count)
    : cached_tokens_(prompt_tokens.size()),
      samples_count_(static_cast<std::size_t>(samples_count)),
      choices_(prompt_tokens.size() * samples_count_),
      open_count_(choices_.size()) {
  for (const std::int64_t tokens : prompt_tokens) prompt_tokens_ += tokens;
}

void AnswerWriter::write(std::size_t index, const engine::TokenEvent& event, std::string& body) {
  if (done()) return;
  TD_CHECK(index < cached_tokens_.size(), index);
  TD_CHECK(event.sample >= 0 && static_cast<std::size_t>(event.sample) < samples_count_, event.sample);
  const std::size_t place = index * samples_count_ + static_cast<std::size_t>(event.sample);
  Choice& choice = choices_[place];
  TD_CHECK(!choice.ended, place);
  // The first sample is the one that computes the prompt: the others find what it left.
  if (event.sample == 0) cached_tokens_[index] = event.cached_tokens;
  choice.tokens += static_cast<std::int64_t>(event.tokens.size());
  if (!event.tokens.empty()) choice.versions.add(event.weights_version);

  using engine::FinishReason;
  if (event.finish == FinishReason::kError || event.finish == FinishReason::kDeadline) {
    error_ = error_of_event(event);
    fail(body);
    return;
  }
  if (event.finish == FinishReason::kCancelled) {
    cancelled_ = true;
  } else {
    add(place, event, body);
  }
  if (event.finish == FinishReason::kNone) return;
  choice.ended = true;
  if (--open_count_ == 0 && !cancelled_) complete(body);
}

Usage AnswerWriter::usage() const {
  Usage usage{.prompt_tokens = prompt_tokens_};
  for (const std::int64_t tokens : cached_tokens_) usage.cached_tokens += tokens;
  for (const Choice& choice : choices_) {
    usage.completion_tokens += choice.tokens;
    usage.reasoning_tokens += choice.reasoning_tokens;
  }
  return usage;
}

WeightVersions AnswerWriter::versions() const {
  WeightVersions all;
  for (const Choice& choice : choices_) all.add(choice.versions);
  return all;
}

}  // namespace tandem::server

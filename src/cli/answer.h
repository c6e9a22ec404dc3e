// What a request's events add up to, and its JSON form.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/request.h"

namespace tandem::cli {

struct Answer {
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<engine::TokenLogprobs> logprobs, prompt_logprobs;
  engine::FinishReason finish = engine::FinishReason::kNone;
  std::optional<std::string> stop_string;
  std::int64_t cached_tokens = 0;
  Status error;

  void add(const engine::TokenEvent& event);
  bool finished() const { return finish != engine::FinishReason::kNone; }
};

// Adds text, token_ids, finish_reason and, where they were asked for, logprobs (one number per token), top_logprobs
// (the alternatives: arrays of {"id","logprob","rank"}) and the prompt's.
void write_answer(const Answer& answer, bool with_logprobs, json::object& out);

}  // namespace tandem::cli

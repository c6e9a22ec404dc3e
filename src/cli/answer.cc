#include "cli/answer.h"

namespace tandem::cli {
namespace {

json::array own_logprobs(const std::vector<engine::TokenLogprobs>& positions) {
  json::array numbers;
  for (const engine::TokenLogprobs& position : positions) {
    numbers.push_back(position.empty() ? json::value(nullptr) : json::value(position.front().logprob));
  }
  return numbers;
}

// Nothing but the tokens' own: no alternatives were asked for.
bool has_alternatives(const std::vector<engine::TokenLogprobs>& positions) {
  for (const engine::TokenLogprobs& position : positions) {
    if (position.size() > 1) return true;
  }
  return false;
}

json::array alternatives(const std::vector<engine::TokenLogprobs>& positions) {
  json::array lists;
  for (const engine::TokenLogprobs& position : positions) {
    json::array list;
    for (std::size_t i = 1; i < position.size(); ++i) {
      list.push_back(
          json::object{{"id", position[i].token}, {"logprob", position[i].logprob}, {"rank", position[i].rank}});
    }
    lists.push_back(std::move(list));
  }
  return lists;
}

}  // namespace

void Answer::add(const engine::TokenEvent& event) {
  text += event.text;
  token_ids.insert(token_ids.end(), event.tokens.begin(), event.tokens.end());
  logprobs.insert(logprobs.end(), event.logprobs.begin(), event.logprobs.end());
  prompt_logprobs.insert(prompt_logprobs.end(), event.prompt_logprobs.begin(), event.prompt_logprobs.end());
  if (event.cached_tokens > 0) cached_tokens = event.cached_tokens;
  if (event.finish != engine::FinishReason::kNone) {
    finish = event.finish;
    stop_string = event.stop_string;
    error = event.error;
  }
}

void write_answer(const Answer& answer, bool with_logprobs, json::object& out) {
  out["text"] = answer.text;
  out["token_ids"] = json::array(answer.token_ids.begin(), answer.token_ids.end());
  if (with_logprobs) {
    out["logprobs"] = own_logprobs(answer.logprobs);
    if (has_alternatives(answer.logprobs)) out["top_logprobs"] = alternatives(answer.logprobs);
  }
  if (!answer.prompt_logprobs.empty()) {
    out["prompt_logprobs"] = own_logprobs(answer.prompt_logprobs);
    if (has_alternatives(answer.prompt_logprobs)) out["prompt_top_logprobs"] = alternatives(answer.prompt_logprobs);
  }
  out["finish_reason"] = engine::finish_reason_name(answer.finish);
  if (answer.stop_string) out["stop_string"] = *answer.stop_string;
}

}  // namespace tandem::cli

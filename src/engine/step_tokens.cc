// How StepLoop comes from a step to the tokens of its samples: chosen by the runner, or here from the logits; and what
// becomes of a token.
#include <algorithm>
#include <utility>

#include "engine/step_loop.h"

namespace tandem::engine {

SampleInput StepLoop::input_of(const Sample& sample) {
  const Request& request = sample.request->request;
  const auto prompt_size = request.prompt.size();
  const std::span<const TokenId> tokens = sample.tokens;
  return {.request = &request,
          .sample = sample.index,
          .prompt = tokens.first(prompt_size),
          .generated = tokens.subspan(prompt_size),
          .forbidden_ids = sample.generated_count() < request.min_tokens
                               ? std::span<const TokenId>(sample.request->forbidden_ids)
                               : std::span<const TokenId>()};
}

bool StepLoop::fill_choices() {
  choices_.clear();
  if (!runner_.chooses({.temperature = 0.0f})) return false;
  for (const BatchEntry& entry : batch_) {
    if (entry.logits.scored_count > 0) return false;
    if (!entry.logits.last) continue;
    const SampleInput input = input_of(*entry.sample);
    const Request& request = *input.request;
    if (request.grammar || request.logprobs.value_or(0) > 0 || !leaves_logits_alone(input)) return false;
    choices_.push_back(choice_of(request, input.sample, entry.sample->tokens.size()));
    if (!runner_.chooses(choices_.back())) return false;
  }
  return true;
}

void StepLoop::take_logits(const BatchEntry& entry, const StepResult& result) {
  Sample& sample = *entry.sample;
  if (!result.chosen.empty()) {
    if (!entry.logits.last) return;
    const kernels::ChosenToken& chosen = result.chosen[static_cast<std::size_t>(entry.logits.first)];
    if (chosen.token < 0) {
      end(sample, FinishReason::kError,
          Status(StatusCode::kAborted, "the model's logits are not finite, or all -infinity: check its weights"));
      return;
    }
    SampledToken sampled{chosen.token, {}};
    if (sample.request->request.logprobs) sampled.logprobs = {{chosen.token, chosen.logprob(), chosen.rank}};
    take_token(sample, std::move(sampled));
    return;
  }
  RequestState& request = *sample.request;
  const std::int64_t vocab = runner_limits_.vocab_size;
  const float* row = result.logits + entry.logits.first * vocab;
  for (std::int64_t i = 0; i < entry.logits.scored_count; ++i, row += vocab) {
    const auto next = static_cast<std::size_t>(entry.logits.scored_position + i + 1);
    request.prompt_logprobs.push_back(sampler_.token_logprobs({row, static_cast<std::size_t>(vocab)},
                                                              sample.tokens[next], *request.request.prompt_logprobs));
  }
  if (entry.logits.last) sample_token(sample, row);
}

void StepLoop::sample_token(Sample& sample, const float* logits) {
  SampleInput input = input_of(sample);
  if (sample.constraint && !constrain(sample, input)) return;
  Result<SampledToken> sampled = sampler_.sample(input, {logits, static_cast<std::size_t>(runner_limits_.vocab_size)});
  if (!sampled.ok()) {
    end(sample, FinishReason::kError, sampled.status());
    return;
  }
  take_token(sample, std::move(*sampled));
}

void StepLoop::take_token(Sample& sample, SampledToken sampled) {
  const Request& request = sample.request->request;
  const TokenId token = sampled.token;
  sample.tokens.push_back(token);
  counts_.generated_tokens += 1;
  TokenEvent event;
  event.tokens.push_back(token);
  if (request.logprobs) event.logprobs.push_back(std::move(sampled.logprobs));

  FinishReason finish = FinishReason::kNone;
  const bool is_stop = std::ranges::count(request.stop_token_ids, token) > 0 ||
                       (!request.ignore_eos && std::ranges::count(config_.eos_token_ids, token) > 0);
  if (is_stop) {
    event.stop_token = token;
    finish = FinishReason::kStop;
  }
  if (tokenizer_ != nullptr && (!is_stop || request.include_stop_string)) {
    if (!sample.text) sample.text = std::make_unique<OutputText>(*tokenizer_, request);
    OutputText::Update update = sample.text->push(token, sample.generated_count());
    event.text = std::move(update.text);
    if (update.stopped_by) {
      event.stop_string = std::move(update.stopped_by);
      finish = FinishReason::kStop;
    }
  }
  if (finish == FinishReason::kNone && will_be_full(sample, 0)) finish = FinishReason::kLength;
  if (finish == FinishReason::kNone) {
    if (sample.constraint) constraints_->advance(sample.constraint, token);
    send(sample, std::move(event));
  } else {
    end(sample, finish, {}, std::move(event));
  }
}

bool StepLoop::constrain(Sample& sample, SampleInput& input) {
  const NextTokens& next = constraints_->wait(*sample.constraint);
  if (!next.status.ok()) {
    end(sample, FinishReason::kError, next.status);
    return false;
  }
  input.grammar_mask = next.mask->words;
  input.ending_ids = sample.request->ending_ids;
  input.may_end = next.can_end;
  if (next.mask->allowed_count > 0) return true;
  if (!next.can_end) {
    end(sample, FinishReason::kError,
        invalid_argument("no token of the vocabulary continues the text that the grammar has begun"));
    return false;
  }
  input.forbidden_ids = {};
  if (!input.ending_ids.empty()) return true;
  end(sample, FinishReason::kStop);
  return false;
}

}  // namespace tandem::engine

#include "engine/logits_processor.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tandem::engine {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

// Finite whatever the arithmetic did, so that only removed tokens are at -infinity.
float clamped(float logit) {
  constexpr float kMax = std::numeric_limits<float>::max();
  return std::clamp(logit, -kMax, kMax);
}

// Whether the sequence prompt + generated ends with `tail`.
bool ends_with(const SampleInput& input, std::span<const TokenId> tail) {
  if (tail.size() > input.prompt.size() + input.generated.size()) return false;
  const std::size_t in_answer = std::min(tail.size(), input.generated.size());
  const std::size_t in_prompt = tail.size() - in_answer;
  return std::ranges::equal(tail.last(in_answer), input.generated.last(in_answer)) &&
         std::ranges::equal(tail.first(in_prompt), input.prompt.last(in_prompt));
}

}  // namespace

bool leaves_logits_alone(const SampleInput& input) {
  const SamplingParams& params = input.request->sampling;
  return params.allowed_token_ids.empty() && input.forbidden_ids.empty() && input.grammar_mask.empty() &&
         params.bad_words.empty() && params.logit_bias.empty() && params.repetition_penalty == 1.0f &&
         (input.generated.empty() || (params.presence_penalty == 0.0f && params.frequency_penalty == 0.0f));
}

LogitsProcessor::LogitsProcessor(std::int64_t vocab_size) {
  row_.resize(static_cast<std::size_t>(vocab_size));
  counts_.resize(row_.size());
  touched_.reserve(row_.size());
}

std::span<const float> LogitsProcessor::process(const SampleInput& input, std::span<const float> logits) {
  TD_CHECK(logits.size() == row_.size(), logits.size(), row_.size());
  if (leaves_logits_alone(input)) return logits;
  const SamplingParams& params = input.request->sampling;
  if (params.allowed_token_ids.empty()) {
    std::ranges::copy(logits, row_.begin());
  } else {
    std::ranges::fill(row_, kRemoved);
    for (const TokenId token : params.allowed_token_ids) row_[token] = logits[token];
  }
  if (!input.grammar_mask.empty()) apply_grammar(input, logits);
  for (const TokenId token : input.forbidden_ids) row_[token] = kRemoved;
  remove_bad_words(input);
  for (const auto& [token, bias] : params.logit_bias) {
    if (row_[token] != kRemoved) row_[token] = clamped(row_[token] + bias);
  }
  add_penalties(input);
  return row_;
}

void LogitsProcessor::apply_grammar(const SampleInput& input, std::span<const float> logits) {
  constexpr std::size_t kBits = 32;
  TD_CHECK(input.grammar_mask.size() == (row_.size() + kBits - 1) / kBits, input.grammar_mask.size(), row_.size());
  for (std::size_t begin = 0; begin < row_.size(); begin += kBits) {
    const std::uint32_t word = input.grammar_mask[begin / kBits];
    const std::size_t count = std::min(kBits, row_.size() - begin);
    if (word == 0) {
      std::fill_n(row_.begin() + static_cast<std::ptrdiff_t>(begin), count, kRemoved);
    } else if (word != ~std::uint32_t{0}) {
      for (std::size_t i = 0; i < count; ++i) row_[begin + i] = (word >> i & 1) != 0 ? row_[begin + i] : kRemoved;
    }
  }
  for (const TokenId token : input.ending_ids) row_[token] = input.may_end ? logits[token] : kRemoved;
}

void LogitsProcessor::remove_bad_words(const SampleInput& input) {
  for (const std::vector<TokenId>& word : input.request->sampling.bad_words) {
    if (ends_with(input, std::span(word).first(word.size() - 1))) row_[word.back()] = kRemoved;
  }
}

// counts_[t] is twice the number of times t is in the answer, plus 1 if t was seen at all.
void LogitsProcessor::add_penalties(const SampleInput& input) {
  const SamplingParams& params = input.request->sampling;
  const bool repetition = params.repetition_penalty != 1.0f;
  if (!repetition && params.presence_penalty == 0.0f && params.frequency_penalty == 0.0f) return;

  const auto see = [this](TokenId token, std::int32_t times) {
    if (counts_[token] == 0) {
      touched_.push_back(token);
      counts_[token] = 1;
    }
    counts_[token] += 2 * times;
  };
  for (const TokenId token : input.generated) see(token, 1);
  if (repetition) {
    for (const TokenId token : input.prompt) see(token, 0);
  }
  for (const TokenId token : touched_) {
    const std::int32_t count = counts_[token] / 2;
    counts_[token] = 0;
    float logit = row_[token];
    if (logit == kRemoved) continue;
    if (repetition) logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) logit -= params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
    row_[token] = clamped(logit);
  }
  touched_.clear();
}

}  // namespace tandem::engine

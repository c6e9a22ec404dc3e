// Turns the model's logits into those a request asked to sample from, up to temperature and truncation.
//
// In this order (a token once removed, at -infinity, stays removed):
//   allowed    tokens outside allowed_token_ids are removed, if any are listed; and those that the grammar does not
//              allow, if there is one
//   forbidden  end-of-sequence and stop ids below min_tokens are removed (the caller lists them)
//   bad words  the last token of a bad word is removed when those before it end prompt + answer; the beginning of a bad
//              word may lie in the prompt (as in Hugging Face transformers)
//   bias       logit += bias; entries for one token add up
//   penalties  repetition, once per distinct token of prompt + answer: logit > 0 ? logit / r : logit * r
//              (CTRL, arXiv:1909.05858); then, for tokens of the answer, logit -= frequency * count + presence
// Results stay finite: what would overflow is held at the largest float.
// Cost: O(tokens touched), plus one copy of the row where anything changes; a repetition penalty reads the whole
// prompt. Threads: one at a time.   Memory: sized in the constructor; none allocated later.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/strong_id.h"
#include "engine/request.h"

namespace tandem::engine {

// Everything about the sequence that the choice of its next token depends on, borrowed for the call.
struct SampleInput {
  const Request* request = nullptr;
  int sample = 0;  // which of the request's answers
  std::span<const TokenId> prompt;
  std::span<const TokenId> generated;      // the answer so far; the new token's position is after it
  std::span<const TokenId> forbidden_ids;  // not to be sampled now: eos and stop ids while below min_tokens

  // With a grammar: bit t % 32 of word t / 32 is set for each token t that may come; empty: no grammar.
  std::span<const std::uint32_t> grammar_mask;
  std::span<const TokenId> ending_ids;  // eos and stop ids, whatever the mask says of them
  bool may_end = false;                 // and whether they may come
};

// Whether what is sampled from are the model's own logits.
bool leaves_logits_alone(const SampleInput& input);

class LogitsProcessor {
 public:
  explicit LogitsProcessor(std::int64_t vocab_size);

  // The processed logits [V]: `logits` itself where nothing changes, else a copy that the next call overwrites.
  // Every id in `input` is inside the vocabulary (validate_request() saw to it).
  std::span<const float> process(const SampleInput& input, std::span<const float> logits);

 private:
  void apply_grammar(const SampleInput& input, std::span<const float> logits);
  void remove_bad_words(const SampleInput& input);
  void add_penalties(const SampleInput& input);

  std::vector<float> row_;            // [V]
  std::vector<std::int32_t> counts_;  // [V] all 0 between calls; see add_penalties()
  std::vector<TokenId> touched_;      // tokens whose count is not 0; capacity V
};

}  // namespace tandem::engine

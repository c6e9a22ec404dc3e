// Chooses a sequence's next token from the model's logits, and says how likely it was.
//
// The kept set is always a head of the order "falling logit, ties by rising id": top_k keeps k tokens of it, top_p the
// shortest head whose probability (among what top_k kept) reaches p, min_p the tokens at least min_p times as likely as
// the first; at least one is kept. The draw is one uniform, keyed by (seed, sample, position), through the inverse of
// the cumulative distribution in token order. Weights are integers (kernels/sampling/choose.h), so a choice depends on
// its own row and key, bit for bit, and is the one that a CUDA device makes.
// Temperature 0 takes the largest processed logit, ties to the lower id; truncation then changes nothing.
// Threads: one at a time.   Memory: sized in the constructor; a call allocates the log-probabilities it returns.
// Cost: passes over the row (logits_row.h); truncation looks closer only where the largest logits are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/logits_processor.h"
#include "engine/logits_row.h"
#include "engine/request.h"
#include "kernels/sampling/choose.h"

namespace tandem::engine {

// What `request` says of how to choose the token at `position` of its `sample`-th answer, once its logits are
// processed; of log-probabilities, only the token's own. The position is the number of tokens before it, the prompt's
// included.
kernels::TokenChoice choice_of(const Request& request, int sample, std::uint64_t position);

struct SampledToken {
  TokenId token = 0;
  TokenLogprobs logprobs;  // filled if request->logprobs
};

class Sampler {
 public:
  explicit Sampler(std::int64_t vocab_size) : Sampler(vocab_size, best_row_passes()) {}
  Sampler(std::int64_t vocab_size, const RowPasses& passes);

  // The next token of a sequence. Pure in its inputs; its position is prompt.size() + generated.size().
  //   logits  [V] f32, the model's own
  // Log-probabilities are those of request->logprobs_mode: kRaw, log-softmax of `logits`; kProcessed, of the
  // distribution drawn from (greedy: of the processed logits at temperature 1, untruncated).
  // Errors: kAborted (a logit is NaN or +infinity, or all are -infinity), kInvalidArgument (allowed_token_ids,
  // bad_words, min_tokens and the grammar together leave no token).
  [[nodiscard]] Result<SampledToken> sample(const SampleInput& input, std::span<const float> logits);

  // What kernels::choose_tokens_cuda() gives for one row, but for its error. Errors: kAborted, as sample().
  [[nodiscard]] Result<kernels::ChosenToken> choose(const kernels::TokenChoice& choice, std::span<const float> logits);

  // Log-softmax of `logits` [V] at `token` (its rank: 1 + how many logits are larger), then at the top_k largest, ties
  // to the lower id; alternatives of probability 0 are left out. NaN, and no alternatives, where a logit is NaN or
  // +infinity.
  TokenLogprobs token_logprobs(std::span<const float> logits, TokenId token, int top_k);

 private:
  struct Candidate {
    float logit = 0;
    TokenId token = 0;
  };
  static bool before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }

  // A token, and the distribution that it is from.
  struct Drawn {
    TokenId token = 0;
    RowScale scale;
    RowCut cut;
    Weight total = 0;  // 0: not summed yet
  };
  Result<RowMax> largest_logit(const LogitsRow& row);
  Drawn draw_from(const LogitsRow& row, float max, const kernels::TokenChoice& choice);
  TokenId largest(const LogitsRow& row, float max) const;
  TokenId draw(const LogitsRow& row, const Drawn& from, std::uint64_t uniform) const;
  RowCut truncate(const LogitsRow& row, const kernels::TokenChoice& choice, const RowScale& scale);
  RowCut top_k_cut(const LogitsRow& row, std::int64_t top_k);
  RowCut top_p_cut(const LogitsRow& row, const RowScale& scale, const RowCut& within, Weight mass);
  RowCut top_p_cut_by_bins(const LogitsRow& row, const RowScale& scale, const RowCut& within, Weight mass);
  RowCut head_of_mass(const RowScale& scale, Weight mass);
  float reached_by(std::int64_t tokens);
  void gather(const LogitsRow& row, const RowCut& cut);
  TokenLogprobs logprobs_of(const LogitsRow& row, const Drawn& from, int top_k);

  const RowPasses* passes_;
  LogitsProcessor processor_;
  std::vector<float> block_max_, lane_max_;  // of the row in hand: largest logits, see row_max()
  std::vector<float> max_order_;             // a copy of one of them to select from
  std::vector<Weight> block_sums_;           // weight of each block's kept tokens
  std::vector<Weight> bin_sums_;             // weight by distance from the largest logit
  std::vector<Candidate> candidates_;        // capacity V
};

}  // namespace tandem::engine

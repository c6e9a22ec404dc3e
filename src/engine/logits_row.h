// Vectorised passes over one row of logits: what the sampler's speed is made of.
//
// A row [V] is seen as blocks of 256 tokens, the last one padded with -infinity. Within a block, token 16 r + j belongs
// to lane j, so every reduction is 16 independent chains joined in a fixed order: the same bits from each instruction
// set (exp is our own polynomial, no product is fused with a sum).
// Threads: pure functions of their arguments.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "base/strong_id.h"
#include "kernels/sampling/choose.h"

namespace tandem::engine {

inline constexpr std::int64_t kRowLanes = 16;
inline constexpr std::int64_t kRowBlockTokens = 256;

// The passes compiled for one instruction set.
struct RowPasses;
const RowPasses& best_row_passes();   // the widest this processor has
const RowPasses& plain_row_passes();  // what every processor has; tests compare the two

// A row of logits in whole blocks. Borrows the logits; owns the padded copy of what is left after the last full block.
class LogitsRow {
 public:
  LogitsRow(std::span<const float> logits, const RowPasses& passes);
  const RowPasses& passes() const { return *passes_; }
  std::int64_t size() const { return static_cast<std::int64_t>(logits_.size()); }
  std::int64_t blocks_count() const { return (size() + kRowBlockTokens - 1) / kRowBlockTokens; }
  float operator[](std::int64_t token) const { return logits_[static_cast<std::size_t>(token)]; }
  // kRowBlockTokens floats.
  const float* block(std::int64_t block) const {
    const std::int64_t begin = block * kRowBlockTokens;
    return begin + kRowBlockTokens <= size() ? logits_.data() + begin : tail_.data();
  }

 private:
  std::span<const float> logits_;
  const RowPasses* passes_;
  std::array<float, kRowBlockTokens> tail_;
};

struct RowMax {
  float value = -std::numeric_limits<float>::infinity();
  bool has_bad = false;  // a NaN or +infinity is in the row; the rest is then unspecified
};

// The largest logit; and that of each block, and of each lane of each block.
//   block_max [blocks]   lane_max [blocks * kRowLanes]
RowMax row_max(const LogitsRow& row, std::span<float> block_max, std::span<float> lane_max);

// Tokens in the order of falling logit, ties by rising id, up to and including this place: what truncation keeps.
struct RowCut {
  float logit = -std::numeric_limits<float>::infinity();
  TokenId token = std::numeric_limits<TokenId>::max();
  bool keeps(float other_logit, TokenId other) const {
    return other_logit > logit || (other_logit == logit && other <= token);
  }
};

// How a logit becomes a weight: e^((logit - max) * inverse_temperature), at most 1, computed in f32 and rounded to the
// nearest kWeightUnit. So weights are integers, and sums of them exact in any order.
struct RowScale {
  float max = 0;
  float inverse_temperature = 1;
  float exponent(float logit) const { return (logit - max) * inverse_temperature; }
};
using Weight = std::uint64_t;  // of one token or, in a vocabulary below kWeighedTokensMax, of any number of them
inline constexpr std::int64_t kWeighedTokensMax = std::int64_t{1} << 19;

Weight weight_of(const RowScale& scale, float logit);

// The weights of one block, as fractions of 1; 0 for tokens that `cut` drops.   weights [kRowBlockTokens]
void block_weights(const LogitsRow& row, std::int64_t block, const RowScale& scale, const RowCut& cut, float* weights);
inline Weight weight_of_fraction(double fraction) {
  return static_cast<Weight>(fraction * (1.0 / kernels::kWeightUnit));
}

// Sums the weights of the tokens that `cut` keeps, by block, skipping blocks whose `block_max` shows none.
//   returns   the sum of block_sums [blocks]
Weight weight_sums(const LogitsRow& row, std::span<const float> block_max, const RowScale& scale, const RowCut& cut,
                   std::span<Weight> block_sums);

// How many logits of the row are larger than `logit`.
std::int64_t count_larger(const LogitsRow& row, float logit);

}  // namespace tandem::engine

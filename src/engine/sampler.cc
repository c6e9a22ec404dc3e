#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"
#include "base/rng.h"

namespace tandem::engine {

using kernels::ChoiceLogprob;
using kernels::ChosenToken;
using kernels::TokenChoice;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLowestLogit = std::numeric_limits<float>::lowest();
constexpr TokenId kLastToken = std::numeric_limits<TokenId>::max();
constexpr std::int64_t kHeadTokens = 256;  // top_p first looks at about so many of the likeliest
constexpr int kBins = 1024;
constexpr float kBinsPerNat = 32;

// The bin of a logit: never falls as the logit falls.
int bin_of(const RowScale& scale, float logit) {
  const float nats = -scale.exponent(logit);
  return nats < kBins / kBinsPerNat ? static_cast<int>(nats * kBinsPerNat) : kBins - 1;
}

double exponent_of(const RowScale& scale, float logit) {
  return (static_cast<double>(logit) - scale.max) * scale.inverse_temperature;
}

// The one that keeps less.
const RowCut& tighter(const RowCut& a, const RowCut& b) { return a.keeps(b.logit, b.token) ? b : a; }

}  // namespace

kernels::TokenChoice choice_of(const Request& request, int sample, std::uint64_t position) {
  const SamplingParams& params = request.sampling;
  TokenChoice choice;
  choice.temperature = params.temperature;
  if (request.logprobs) {
    choice.logprob = request.logprobs_mode == LogprobsMode::kRaw ? ChoiceLogprob::kRaw : ChoiceLogprob::kKept;
  }
  if (params.temperature == 0.0f) return choice;
  const PhiloxKey key = {params.seed, static_cast<std::uint64_t>(sample)};
  choice.uniform = static_cast<std::uint64_t>(philox_uniform(key, position) * 0x1p64);
  choice.top_k = params.top_k;
  choice.top_p = params.top_p;
  if (params.min_p > 0.0f) {
    choice.min_p_logit = std::log(static_cast<double>(params.min_p)) * static_cast<double>(params.temperature);
  }
  return choice;
}

Sampler::Sampler(std::int64_t vocab_size, const RowPasses& passes) : passes_(&passes), processor_(vocab_size) {
  TD_CHECK(vocab_size > 0 && vocab_size < kWeighedTokensMax, vocab_size);
  const auto blocks = static_cast<std::size_t>((vocab_size + kRowBlockTokens - 1) / kRowBlockTokens);
  lane_max_.resize(blocks * kRowLanes);
  block_max_.resize(blocks);
  max_order_.resize(blocks * kRowLanes);
  block_sums_.resize(blocks);
  bin_sums_.resize(kBins);
  candidates_.reserve(static_cast<std::size_t>(vocab_size));
}

Result<RowMax> Sampler::largest_logit(const LogitsRow& row) {
  const RowMax max = row_max(row, block_max_, lane_max_);
  if (max.has_bad) return Status(StatusCode::kAborted, "the model's logits are not finite: check its weights");
  if (max.value == -kInfinity) return Status(StatusCode::kAborted, "the model's logits are all -infinity");
  return max;
}

Result<SampledToken> Sampler::sample(const SampleInput& input, std::span<const float> logits) {
  const std::span<const float> processed = processor_.process(input, logits);
  const bool same = processed.data() == logits.data();
  const LogitsRow raw(logits, *passes_), row(processed, *passes_);
  float max = TD_TRY(largest_logit(raw)).value;
  if (!same) max = row_max(row, block_max_, lane_max_).value;
  const std::uint64_t position = input.prompt.size() + input.generated.size();
  if (max == -kInfinity) {
    return invalid_argument(
        "no token is left to sample at position {}: relax allowed_token_ids, bad_words, min_tokens or the grammar",
        position);
  }

  const TokenChoice choice = choice_of(*input.request, input.sample, position);
  Drawn drawn = draw_from(row, max, choice);
  SampledToken sampled{drawn.token, {}};
  if (!input.request->logprobs) return sampled;
  // What was drawn from is often the model's own distribution; then its sum is at hand.
  const bool drew_raw = same && drawn.scale.inverse_temperature == 1.0f && drawn.cut.logit == -kInfinity;
  if (choice.logprob == ChoiceLogprob::kRaw && !drew_raw) {
    sampled.logprobs = token_logprobs(logits, sampled.token, *input.request->logprobs);
  } else {
    if (drawn.total == 0) drawn.total = weight_sums(row, block_max_, drawn.scale, drawn.cut, block_sums_);
    sampled.logprobs = logprobs_of(row, drawn, *input.request->logprobs);
  }
  return sampled;
}

Result<ChosenToken> Sampler::choose(const TokenChoice& choice, std::span<const float> logits) {
  const LogitsRow row(logits, *passes_);
  Drawn drawn = draw_from(row, TD_TRY(largest_logit(row)).value, choice);
  ChosenToken chosen;
  chosen.token = drawn.token;
  if (choice.logprob == ChoiceLogprob::kNone) return chosen;
  if (choice.logprob == ChoiceLogprob::kRaw) drawn = {drawn.token, {drawn.scale.max, 1.0f}, RowCut(), 0};
  chosen.rank = static_cast<std::int32_t>(1 + count_larger(row, row[drawn.token]));
  chosen.exponent = exponent_of(drawn.scale, row[drawn.token]);
  chosen.total = drawn.total > 0 ? drawn.total : weight_sums(row, block_max_, drawn.scale, drawn.cut, block_sums_);
  return chosen;
}

TokenLogprobs Sampler::token_logprobs(std::span<const float> logits, TokenId token, int top_k) {
  TD_CHECK(token >= 0 && token < std::ssize(logits) && logits.size() <= candidates_.capacity(), token, logits.size());
  const LogitsRow row(logits, *passes_);
  const RowMax max = row_max(row, block_max_, lane_max_);
  if (max.has_bad || max.value == -kInfinity) return {{token, std::numeric_limits<float>::quiet_NaN(), 1}};
  Drawn all{token, {max.value, 1.0f}, RowCut(), 0};
  all.total = weight_sums(row, block_max_, all.scale, all.cut, block_sums_);
  return logprobs_of(row, all, top_k);
}

Sampler::Drawn Sampler::draw_from(const LogitsRow& row, float max, const TokenChoice& choice) {
  if (choice.temperature == 0.0f) return {largest(row, max), {max, 1.0f}, RowCut(), 0};
  Drawn drawn{0, {max, kernels::inverse_temperature(choice.temperature)}, RowCut(), 0};
  drawn.cut = truncate(row, choice, drawn.scale);
  drawn.total = weight_sums(row, block_max_, drawn.scale, drawn.cut, block_sums_);
  drawn.token = draw(row, drawn, choice.uniform);
  return drawn;
}

// The first token that has the largest logit.
TokenId Sampler::largest(const LogitsRow& row, float max) const {
  const std::int64_t block = std::ranges::find(block_max_, max) - block_max_.begin();
  const float* z = row.block(block);
  return static_cast<TokenId>(block * kRowBlockTokens + (std::find(z, z + kRowBlockTokens, max) - z));
}

// The first token at which the kept weights, summed in token order, exceed uniform / 2^64 of their total: the block by
// block_sums_, then the token within it.
TokenId Sampler::draw(const LogitsRow& row, const Drawn& from, std::uint64_t uniform) const {
  using Wide = unsigned __int128;
  auto left = static_cast<Weight>(Wide{uniform} * from.total >> 64);
  std::int64_t block = 0;
  for (; left >= block_sums_[block]; ++block) left -= block_sums_[block];
  float weights[kRowBlockTokens];
  block_weights(row, block, from.scale, from.cut, weights);
  std::int64_t i = 0;
  for (; left >= weight_of_fraction(weights[i]); ++i) left -= weight_of_fraction(weights[i]);
  return static_cast<TokenId>(block * kRowBlockTokens + i);
}

RowCut Sampler::truncate(const LogitsRow& row, const TokenChoice& choice, const RowScale& scale) {
  RowCut cut;
  if (choice.top_k > 0 && choice.top_k < row.size()) cut = top_k_cut(row, choice.top_k);
  if (choice.top_p < 1.0f) {
    const Weight total = weight_sums(row, block_max_, scale, cut, block_sums_);
    const double mass = std::ceil(static_cast<double>(choice.top_p) * static_cast<double>(total));
    cut = tighter(cut, top_p_cut(row, scale, cut, std::clamp(static_cast<Weight>(mass), Weight{1}, total)));
  }
  if (choice.min_p_logit > -kInfinity) {
    const double lowest = static_cast<double>(scale.max) + choice.min_p_logit;
    cut = tighter(cut, {static_cast<float>(std::max(lowest, kLowestLogit)), kLastToken});
  }
  return cut;
}

// A logit that at least `tokens` tokens reach, if so many are above -infinity, and not many more: the tokens-th largest
// of the blocks' largest or, where there are too few blocks for that to be close, of the lanes' largest.
float Sampler::reached_by(std::int64_t tokens) {
  const std::vector<float>& maxima = 2 * tokens <= std::ssize(block_max_) ? block_max_ : lane_max_;
  if (tokens > std::ssize(maxima)) return -kInfinity;
  std::ranges::copy(maxima, max_order_.begin());
  const auto nth = max_order_.begin() + (tokens - 1);
  std::nth_element(max_order_.begin(), nth, max_order_.begin() + std::ssize(maxima), std::greater<>());
  return *nth;
}

// Fills candidates_ with the tokens that `cut` keeps and whose logit is above -infinity, lane by lane.
void Sampler::gather(const LogitsRow& row, const RowCut& cut) {
  candidates_.clear();
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) {
    if (block_max_[b] < cut.logit) continue;
    const float* z = row.block(b);
    for (std::int64_t lane = 0; lane < kRowLanes; ++lane) {
      const float lane_max = lane_max_[b * kRowLanes + lane];
      if (lane_max < cut.logit || lane_max == -kInfinity) continue;
      for (std::int64_t i = lane; i < kRowBlockTokens; i += kRowLanes) {
        const auto token = static_cast<TokenId>(b * kRowBlockTokens + i);
        if (z[i] > -kInfinity && cut.keeps(z[i], token)) candidates_.push_back({z[i], token});
      }
    }
  }
}

RowCut Sampler::top_k_cut(const LogitsRow& row, std::int64_t top_k) {
  gather(row, {reached_by(top_k), kLastToken});
  if (std::ssize(candidates_) < top_k) return RowCut();  // the others have probability 0
  const auto last = candidates_.begin() + (top_k - 1);
  std::nth_element(candidates_.begin(), last, candidates_.end(), before);
  return {last->logit, last->token};
}

// The shortest head of the tokens `within` whose weight reaches `mass`.
RowCut Sampler::top_p_cut(const LogitsRow& row, const RowScale& scale, const RowCut& within, Weight mass) {
  const RowCut head = {reached_by(kHeadTokens), kLastToken};
  gather(row, tighter(within, head));
  Weight weight = 0;
  for (const Candidate& candidate : candidates_) weight += weight_of(scale, candidate.logit);
  return weight >= mass ? head_of_mass(scale, mass) : top_p_cut_by_bins(row, scale, within, mass);
}

// For flat distributions: weighs the whole row by bins of the logit, then looks into the bin where the mass is reached.
RowCut Sampler::top_p_cut_by_bins(const LogitsRow& row, const RowScale& scale, const RowCut& within, Weight mass) {
  std::ranges::fill(bin_sums_, Weight{0});
  float weights[kRowBlockTokens];
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) {
    if (block_sums_[b] == 0) continue;
    const float* z = row.block(b);
    block_weights(row, b, scale, within, weights);
    for (std::int64_t i = 0; i < kRowBlockTokens; ++i) {
      bin_sums_[bin_of(scale, z[i])] += weight_of_fraction(weights[i]);
    }
  }
  int bin = 0;
  for (; bin < kBins - 1 && bin_sums_[bin] < mass; ++bin) mass -= bin_sums_[bin];

  candidates_.clear();
  for (std::int64_t b = 0; b < row.blocks_count(); ++b) {
    if (block_sums_[b] == 0) continue;
    const float* z = row.block(b);
    for (std::int64_t i = 0; i < kRowBlockTokens; ++i) {
      const auto token = static_cast<TokenId>(b * kRowBlockTokens + i);
      if (z[i] > -kInfinity && bin_of(scale, z[i]) == bin && within.keeps(z[i], token)) {
        candidates_.push_back({z[i], token});
      }
    }
  }
  return candidates_.empty() ? within : head_of_mass(scale, mass);
}

// The shortest head of candidates_ whose weight reaches `mass` (all of them where none does), by halving.
RowCut Sampler::head_of_mass(const RowScale& scale, Weight mass) {
  constexpr std::ptrdiff_t kSortedMax = 32;
  auto begin = candidates_.begin(), end = candidates_.end();
  while (end - begin > kSortedMax) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    Weight weight = 0;
    for (auto it = begin; it != middle; ++it) weight += weight_of(scale, it->logit);
    if (weight >= mass) {
      end = middle;
    } else {
      mass -= weight;
      begin = middle;
    }
  }
  std::sort(begin, end, before);
  for (auto it = begin;; ++it) {
    const Weight weight = weight_of(scale, it->logit);
    if (weight >= mass || it + 1 == end) return {it->logit, it->token};
    mass -= weight;
  }
}

TokenLogprobs Sampler::logprobs_of(const LogitsRow& row, const Drawn& from, int top_k) {
  const TokenId token = from.token;
  const auto logprob = [&](float logit, TokenId id) {
    if (!from.cut.keeps(logit, id)) return -kInfinity;
    return ChosenToken{.exponent = exponent_of(from.scale, logit), .total = from.total}.logprob();
  };
  TokenLogprobs logprobs;
  logprobs.reserve(static_cast<std::size_t>(top_k) + 1);
  logprobs.push_back({token, logprob(row[token], token), 1 + count_larger(row, row[token])});
  if (top_k == 0) return logprobs;

  gather(row, tighter(from.cut, {reached_by(top_k), kLastToken}));
  const auto end = candidates_.begin() + std::min<std::ptrdiff_t>(top_k, std::ssize(candidates_));
  std::partial_sort(candidates_.begin(), end, candidates_.end(), before);
  for (auto it = candidates_.begin(); it != end; ++it) {
    const bool tied = it != candidates_.begin() && it->logit == (it - 1)->logit;
    const std::int64_t rank = tied ? logprobs.back().rank : 1 + (it - candidates_.begin());
    const float value = logprob(it->logit, it->token);
    if (value == -kInfinity) break;
    logprobs.push_back({it->token, value, rank});
  }
  return logprobs;
}

}  // namespace tandem::engine

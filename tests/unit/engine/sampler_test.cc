#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "base/rng.h"

namespace tandem::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> normal_logits(std::mt19937& random, std::int64_t vocab, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(static_cast<std::size_t>(vocab));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The plain way to do it: sort everything, in double precision.
struct Reference {
  std::vector<double> weights;   // [V]; 0 for what is cut off
  std::vector<double> logprobs;  // [V]; -infinity for what is cut off
  std::vector<TokenId> order;    // falling logit, ties by id
  double total = 0;              // of weights
  bool near_cut = false;         // rounding could move a cut by one token
  std::vector<float> logits;     // processed
  bool near_draw = false;        // rounding could move the draw by one token
  TokenId token = -1;
};

std::vector<float> reference_process(const SampleInput& input, std::span<const float> raw) {
  const SamplingParams& params = input.request->sampling;
  std::vector<float> z(raw.begin(), raw.end());
  std::vector<TokenId> sequence(input.prompt.begin(), input.prompt.end());
  sequence.insert(sequence.end(), input.generated.begin(), input.generated.end());
  for (TokenId t = 0; t < std::ssize(z); ++t) {
    const auto is_in = [t](const auto& list) { return std::ranges::find(list, t) != list.end(); };
    if (!params.allowed_token_ids.empty() && !is_in(params.allowed_token_ids)) z[t] = -kInfinity;
    if (is_in(input.forbidden_ids)) z[t] = -kInfinity;
    for (auto word : params.bad_words) {
      if (word.back() != t) continue;
      word.pop_back();
      if (word.size() <= sequence.size() && std::equal(word.rbegin(), word.rend(), sequence.rbegin()))
        z[t] = -kInfinity;
    }
    for (const auto& [token, bias] : params.logit_bias) z[t] += token == t ? bias : 0.0f;
    if (is_in(sequence)) z[t] = z[t] > 0 ? z[t] / params.repetition_penalty : z[t] * params.repetition_penalty;
    const auto count = std::ranges::count(input.generated, t);
    if (count > 0) z[t] -= params.frequency_penalty * static_cast<float>(count) + params.presence_penalty;
  }
  return z;
}

Reference reference_sample(const SampleInput& input, std::span<const float> raw) {
  const SamplingParams& params = input.request->sampling;
  Reference ref;
  ref.logits = reference_process(input, raw);
  const auto& z = ref.logits;
  const auto vocab = static_cast<std::int64_t>(z.size());
  for (TokenId t = 0; t < vocab; ++t) ref.order.push_back(t);
  std::ranges::stable_sort(ref.order, [&](TokenId a, TokenId b) { return z[a] > z[b]; });
  const double max = z[ref.order[0]];
  const double temperature = params.temperature == 0 ? 1.0 : params.temperature;
  ref.weights.assign(z.size(), 0.0);
  std::int64_t kept = vocab;
  const bool greedy = params.temperature == 0;
  if (!greedy && params.top_k > 0) kept = std::min<std::int64_t>(kept, params.top_k);
  double total = 0;
  const auto weight = [&](std::int64_t place) { return std::exp((z[ref.order[place]] - max) / temperature); };
  for (std::int64_t i = 0; i < kept; ++i) total += weight(i);
  if (!greedy && params.top_p < 1) {
    double sum = 0;
    for (std::int64_t i = 0; i < kept; ++i) {
      sum += weight(i);
      const double over = sum - static_cast<double>(params.top_p) * total;
      ref.near_cut |= std::abs(over) < 2e-6 * total;
      if (over >= 0) kept = i + 1;
    }
  }
  if (!greedy && params.min_p > 0) {
    std::int64_t last = kept;
    while (last > 1 && weight(last - 1) < params.min_p) --last;
    ref.near_cut |= last < kept && weight(last) > params.min_p * (1 - 1e-5);
    ref.near_cut |= last > 1 && weight(last - 1) < params.min_p * (1 + 1e-5);
    kept = last;
  }
  for (std::int64_t i = 0; i < kept; ++i) ref.total += ref.weights[ref.order[i]] = weight(i);
  ref.logprobs.assign(z.size(), -kInfinity);
  for (std::int64_t i = 0; i < kept; ++i) {
    ref.logprobs[ref.order[i]] = (z[ref.order[i]] - max) / temperature - std::log(ref.total);
  }
  if (greedy) {
    ref.token = ref.order[0];
    return ref;
  }
  const std::uint64_t position = input.prompt.size() + input.generated.size();
  const double u = philox_uniform({params.seed, static_cast<std::uint64_t>(input.sample)}, position) * ref.total;
  double sum = 0;
  for (TokenId t = 0; t < vocab; ++t) {
    sum += ref.weights[t];
    ref.near_draw |= ref.weights[t] > 0 && std::abs(sum - u) < 2e-6 * ref.total;
    if (ref.token < 0 && sum > u) ref.token = t;
  }
  return ref;
}

void expect_logprobs(const TokenLogprobs& found, TokenId token, int top_k, const std::vector<float>& z,
                     const std::vector<double>& logprobs) {
  std::vector<TokenId> order;
  for (TokenId t = 0; t < std::ssize(z); ++t) {
    if (logprobs[t] > -kInfinity) order.push_back(t);
  }
  std::ranges::stable_sort(order, [&](TokenId a, TokenId b) { return z[a] > z[b]; });
  ASSERT_EQ(found.size(), 1 + std::min<std::size_t>(order.size(), static_cast<std::size_t>(top_k)));
  for (std::size_t i = 0; i < found.size(); ++i) {
    const TokenId expected = i == 0 ? token : order[i - 1];
    ASSERT_EQ(found[i].token, expected);
    ASSERT_EQ(found[i].rank, 1 + std::ranges::count_if(z, [&](float other) { return other > z[expected]; }));
    ASSERT_NEAR(found[i].logprob, logprobs[expected], 2e-6 * (1 + std::abs(logprobs[expected]))) << i;
  }
}

struct Case {
  Request request;
  std::vector<TokenId> prompt, generated, forbidden;
  std::vector<float> logits;
  int sample = 0;
  SampleInput input() const { return {&request, sample, prompt, generated, forbidden}; }
};

Case random_case(std::mt19937& random, std::int64_t vocab) {
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  const auto chance = [&](int one_in) { return below(one_in) == 0; };
  const auto tokens = [&](std::int64_t count) {
    std::vector<TokenId> list;
    for (std::int64_t i = 0; i < count; ++i) list.push_back(static_cast<TokenId>(below(vocab)));
    return list;
  };
  Case c;
  c.logits = normal_logits(random, vocab, std::array{0.0f, 0.3f, 1.0f, 3.0f, 10.0f}[below(5)]);
  if (chance(3)) {  // ties
    for (float& logit : c.logits) logit = std::round(logit);
  }
  if (chance(4)) {
    for (float& logit : c.logits) logit = chance(3) ? -kInfinity : logit;
    c.logits[below(vocab)] = 0.5f;
  }
  c.prompt = tokens(1 + below(6));
  c.generated = tokens(below(8));
  c.sample = static_cast<int>(below(4));
  SamplingParams& params = c.request.sampling;
  params.seed = random();
  params.temperature = std::array{0.0f, 1e-6f, 0.3f, 0.7f, 1.0f, 1.0f, 2.5f, 100.0f}[below(8)];
  if (chance(2)) params.top_k = 1 + static_cast<int>(below(vocab + 3));
  if (chance(2)) params.top_p = static_cast<float>(1 + below(1000)) / 1000;
  if (chance(3)) params.min_p = std::array{1e-3f, 0.05f, 0.3f, 1.0f}[below(4)];
  if (chance(3)) params.repetition_penalty = std::array{0.5f, 1.1f, 1.5f, 20.0f}[below(4)];
  if (chance(3)) params.presence_penalty = static_cast<float>(below(41) - 20) / 10;
  if (chance(3)) params.frequency_penalty = static_cast<float>(below(41) - 20) / 10;
  if (chance(4)) params.logit_bias = {{tokens(1)[0], 3.0f}, {tokens(1)[0], -100.0f}};
  if (chance(5)) params.allowed_token_ids = tokens(1 + below(vocab));
  if (chance(4)) {
    params.bad_words = {tokens(1), tokens(2), {c.prompt.back(), tokens(1)[0]}};
    if (!c.generated.empty()) params.bad_words.push_back({c.generated.back(), tokens(1)[0]});
  }
  if (chance(4)) c.forbidden = tokens(1 + below(2));
  c.request.logprobs = static_cast<int>(below(21));
  c.request.logprobs_mode = chance(2) ? LogprobsMode::kRaw : LogprobsMode::kProcessed;
  return c;
}

// Returns false where rounding leaves the answer open.
bool check_against_reference(Sampler& sampler, const Case& c) {
  const auto sampled = sampler.sample(c.input(), c.logits);
  const Reference ref = reference_sample(c.input(), c.logits);
  if (ref.logits[ref.order[0]] == -kInfinity) {
    EXPECT_EQ(sampled.code(), StatusCode::kInvalidArgument);
    return true;
  }
  EXPECT_TRUE(sampled.ok()) << sampled.status().to_string();
  if (!sampled.ok() || ref.near_cut || ref.near_draw) return false;
  EXPECT_EQ(sampled->token, ref.token);
  if (c.request.logprobs_mode == LogprobsMode::kProcessed) {
    expect_logprobs(sampled->logprobs, ref.token, *c.request.logprobs, ref.logits, ref.logprobs);
  } else {
    double total = 0;
    for (const float logit : c.logits) total += std::exp(static_cast<double>(logit));
    std::vector<double> logprobs;
    for (const float logit : c.logits) logprobs.push_back(logit - std::log(total));
    expect_logprobs(sampled->logprobs, ref.token, *c.request.logprobs, c.logits, logprobs);
  }
  return true;
}

TEST(Sampler, AgreesWithSortingInDoublePrecision) {
  std::mt19937 random(1);
  for (const std::int64_t vocab : {1, 2, 7, 40, 255, 256, 257, 700}) {
    Sampler sampler(vocab);
    int decided = 0;
    const int cases = vocab > 100 ? 600 : 4000;
    for (int i = 0; i < cases; ++i) {
      const Case c = random_case(random, vocab);
      decided += check_against_reference(sampler, c) ? 1 : 0;
      ASSERT_FALSE(HasFailure()) << "vocabulary " << vocab << ", case " << i << ": temperature "
                                 << c.request.sampling.temperature << " top_k " << c.request.sampling.top_k << " top_p "
                                 << c.request.sampling.top_p << " min_p " << c.request.sampling.min_p;
    }
    EXPECT_GT(decided, cases * 8 / 10) << vocab;
  }
}

TEST(Sampler, TopPOfFlatAndTiedRowsAgreesWithSorting) {
  std::mt19937 random(2);
  constexpr std::int64_t kVocab = 20000;
  Sampler sampler(kVocab);
  int decided = 0, cases = 0;
  for (const float deviation : {0.0f, 0.01f, 1.0f, 2.0f, 30.0f}) {
    for (const float top_p : {0.01f, 0.5f, 0.95f, 0.9999f}) {
      for (const int top_k : {0, 5, 900, 15000}) {
        Case c;
        c.prompt = {static_cast<TokenId>(cases)};
        c.logits = normal_logits(random, kVocab, deviation);
        if (top_k == 5) std::fill(c.logits.begin(), c.logits.begin() + kVocab / 2, 1.0f);
        c.request.sampling = {.top_k = top_k, .top_p = top_p, .seed = 3};
        c.request.logprobs = 20;
        c.request.logprobs_mode = LogprobsMode::kProcessed;
        // Near a cut, a flat row is one token off, which total and draw hardly notice: compare those instead.
        const auto sampled = sampler.sample(c.input(), c.logits);
        ASSERT_TRUE(sampled.ok());
        const Reference ref = reference_sample(c.input(), c.logits);
        ++cases;
        const TokenId first = ref.order[0];
        EXPECT_EQ(sampled->logprobs.at(1).token, first);
        EXPECT_NEAR(sampled->logprobs.at(1).logprob, -std::log(ref.total), 1e-6 + 1.5 / ref.total);
        if (ref.near_cut || ref.near_draw) continue;
        ++decided;
        EXPECT_EQ(sampled->token, ref.token);
        expect_logprobs(sampled->logprobs, ref.token, 20, ref.logits, ref.logprobs);
      }
    }
  }
  EXPECT_GT(decided, cases / 4);
}

TEST(Sampler, EqualLogitsKeepTheLowerIds) {
  constexpr std::int64_t kVocab = 3000;
  const std::vector<float> logits(kVocab, 2.0f);
  Sampler sampler(kVocab);
  Request request;
  request.sampling.top_k = 10;
  for (TokenId position = 1; position < 200; ++position) {
    const std::vector<TokenId> prompt(static_cast<std::size_t>(position), 0);
    EXPECT_LT(sampler.sample({&request, 0, prompt, {}, {}}, logits).value().token, 10);
  }
  request.sampling = {.top_p = 0.25f};  // 750 tokens of equal weight, exactly
  request.logprobs = 0;
  request.logprobs_mode = LogprobsMode::kProcessed;
  const std::vector<TokenId> prompt = {0};
  const auto sampled = sampler.sample({&request, 0, prompt, {}, {}}, logits).value();
  EXPECT_LT(sampled.token, 750);
  EXPECT_FLOAT_EQ(sampled.logprobs[0].logprob, -std::log(750.0f));
  request.sampling = {.temperature = 0};
  EXPECT_EQ(sampler.sample({&request, 0, prompt, {}, {}}, logits).value().token, 0);
  Sampler small(8);
  request.sampling = {.top_p = 0.25f};
  const auto two = small.sample({&request, 0, prompt, {}, {}}, std::span(logits).first(8)).value();
  EXPECT_FLOAT_EQ(two.logprobs[0].logprob, -std::log(2.0f));
}

double chi_square(Sampler& sampler, Request& request, std::span<const float> logits, const std::vector<double>& chances,
                  int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    const std::vector<TokenId> prompt(static_cast<std::size_t>(1 + i % 16), 0);
    request.sampling.seed = static_cast<std::uint64_t>(i / 64);
    const int sample = i / 16 % 4;
    ++counts[sampler.sample({&request, sample, prompt, {}, {}}, logits).value().token];
  }
  double sum = 0;
  for (std::size_t t = 0; t < counts.size(); ++t) {
    const double expected = chances[t] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[t], 0) << t;
    } else {
      sum += (counts[t] - expected) * (counts[t] - expected) / expected;
    }
  }
  return sum;
}

TEST(Sampler, DrawsFollowTheDistribution) {
  std::mt19937 random(4);
  constexpr int kVocab = 300, kDraws = 60000;
  const auto logits = normal_logits(random, kVocab, 0.7f);
  Sampler sampler(kVocab);
  const std::vector<TokenId> prompt = {0};
  for (const SamplingParams& params : {SamplingParams{}, SamplingParams{.temperature = 0.5f, .top_k = 60},
                                       SamplingParams{.temperature = 1.3f, .top_p = 0.8f}}) {
    Request request;
    request.sampling = params;
    const Reference ref = reference_sample({&request, 0, prompt, {}, {}}, logits);
    std::vector<double> chances;
    double freedom = -1;
    for (const double weight : ref.weights) {
      chances.push_back(weight / ref.total);
      freedom += weight > 0 ? 1 : 0;
    }
    const double statistic = chi_square(sampler, request, logits, chances, kDraws);
    EXPECT_LT(std::abs(statistic - freedom), 4 * std::sqrt(2 * freedom)) << freedom;
  }
}

TEST(Sampler, DrawIsKeyedBySeedSampleAndPositionAlone) {
  std::mt19937 random(5);
  constexpr std::int64_t kVocab = 5000;
  const auto logits = normal_logits(random, kVocab, 0.5f), others = normal_logits(random, kVocab, 3.0f);
  Sampler sampler(kVocab), fresh(kVocab);
  Request request;
  request.sampling.seed = 7;
  const std::vector<TokenId> five = {1, 2, 3, 4, 5}, three = {9, 9, 9}, two = {8, 8}, six = {1, 2, 3, 4, 5, 6};
  const TokenId token = sampler.sample({&request, 0, five, {}, {}}, logits).value().token;
  Request busy;
  busy.sampling = {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .repetition_penalty = 1.2f};
  ASSERT_TRUE(sampler.sample({&busy, 0, five, two, {}}, others).ok());
  EXPECT_EQ(sampler.sample({&request, 0, five, {}, {}}, logits).value().token, token);
  EXPECT_EQ(sampler.sample({&request, 0, three, two, {}}, logits).value().token, token);
  EXPECT_EQ(fresh.sample({&request, 0, three, two, {}}, logits).value().token, token);
  EXPECT_NE(sampler.sample({&request, 1, five, {}, {}}, logits).value().token, token);
  EXPECT_NE(sampler.sample({&request, 0, six, {}, {}}, logits).value().token, token);
  request.sampling.seed = 8;
  EXPECT_NE(sampler.sample({&request, 0, five, {}, {}}, logits).value().token, token);
}

TEST(Sampler, InstructionSetsAgreeBitForBit) {
  std::mt19937 random(6);
  for (const std::int64_t vocab : {33, 1000, 4099}) {
    Sampler best(vocab), plain(vocab, plain_row_passes());
    for (int i = 0; i < 400; ++i) {
      const Case c = random_case(random, vocab);
      const auto a = best.sample(c.input(), c.logits), b = plain.sample(c.input(), c.logits);
      ASSERT_EQ(a.code(), b.code());
      if (!a.ok()) continue;
      ASSERT_EQ(a->token, b->token);
      ASSERT_EQ(a->logprobs.size(), b->logprobs.size());
      for (std::size_t k = 0; k < a->logprobs.size(); ++k) {
        ASSERT_EQ(std::memcmp(&a->logprobs[k].logprob, &b->logprobs[k].logprob, sizeof(float)), 0);
      }
    }
  }
}

TEST(Sampler, WeightsAreAccurateAndExactAtTheLargestLogit) {
  constexpr double kUnits = 1 / kernels::kWeightUnit;
  const RowScale scale{.max = 3.0f, .inverse_temperature = 1.0f};
  EXPECT_EQ(static_cast<double>(weight_of(scale, 3.0f)), kUnits);
  EXPECT_EQ(weight_of(scale, -kInfinity), 0u);
  EXPECT_EQ(weight_of(scale, -84.5f), 0u);
  for (float x = 0; x > -87; x -= 0.00137f) {
    const float logit = x + 3.0f;
    const double exact = std::exp(static_cast<double>(logit - 3.0f)) * kUnits;
    ASSERT_NEAR(static_cast<double>(weight_of(scale, logit)), exact, 1.2e-7 * exact + 0.5) << x;
  }
}

TEST(Sampler, RawLogprobsAreTheSameHoweverTheTokenWasDrawn) {
  std::mt19937 random(7);
  const auto logits = normal_logits(random, 1000, 2.0f);
  Sampler sampler(1000);
  const std::vector<TokenId> prompt = {1};
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 0}, SamplingParams{.temperature = 0.5f},
        SamplingParams{.top_p = 0.9f}, SamplingParams{.logit_bias = {{3, 1.0f}}}}) {
    Request request;
    request.sampling = params;
    request.logprobs = 5;
    const auto sampled = sampler.sample({&request, 0, prompt, {}, {}}, logits).value();
    const auto alone = sampler.token_logprobs(logits, sampled.token, 5);
    ASSERT_EQ(sampled.logprobs.size(), 6u);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(alone[i].token, sampled.logprobs[i].token);
      EXPECT_EQ(alone[i].rank, sampled.logprobs[i].rank);
      EXPECT_EQ(std::memcmp(&alone[i].logprob, &sampled.logprobs[i].logprob, sizeof(float)), 0);
    }
  }
}

TEST(Sampler, ExtremeLogitsAndTemperatures) {
  const float max = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> logits = {-max, 0.0f, max, -kInfinity, max / 2};
  Sampler sampler(5);
  const std::vector<TokenId> prompt = {1}, generated = {2, 4};
  for (const float temperature : {0.0f, tiny, 1e-6f, 1.0f, 1e6f}) {
    for (const float penalty : {tiny, 1.0f}) {
      Request request;
      request.sampling = {.temperature = temperature, .min_p = 0.5f, .repetition_penalty = penalty};
      request.logprobs = 5;
      request.logprobs_mode = LogprobsMode::kProcessed;
      const auto sampled = sampler.sample({&request, 0, prompt, generated, {}}, logits);
      ASSERT_TRUE(sampled.ok());
      EXPECT_TRUE(sampled->token == 2 || (penalty == tiny && sampled->token == 4)) << sampled->token;
      EXPECT_FALSE(std::isnan(sampled->logprobs[0].logprob));
    }
  }
}

TEST(Sampler, BadLogitsAndEmptyChoicesAreErrors) {
  Sampler sampler(300);
  Request request;
  const std::vector<TokenId> prompt = {1};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    for (const std::size_t place : {0u, 17u, 255u, 256u, 299u}) {
      std::vector<float> logits(300, 1.0f);
      logits[place] = bad;
      for (const float temperature : {0.0f, 1.0f}) {
        request.sampling = {.temperature = temperature, .logit_bias = {{2, 1.0f}}};
        EXPECT_EQ(sampler.sample({&request, 0, prompt, {}, {}}, logits).code(), StatusCode::kAborted);
      }
      const auto logprobs = sampler.token_logprobs(logits, 3, 4);
      ASSERT_EQ(logprobs.size(), 1u);
      EXPECT_TRUE(std::isnan(logprobs[0].logprob));
    }
  }
  EXPECT_EQ(sampler.sample({&request, 0, prompt, {}, {}}, std::vector<float>(300, -kInfinity)).code(),
            StatusCode::kAborted);
  request.sampling = {.allowed_token_ids = {4, 5}};
  const std::vector<TokenId> forbidden = {4, 5};
  EXPECT_EQ(sampler.sample({&request, 0, prompt, {}, forbidden}, std::vector<float>(300, 1.0f)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(sampler.sample({&request, 0, prompt, {}, {}}, std::vector<float>(300, 1.0f)).ok());
}

}  // namespace
}  // namespace tandem::engine

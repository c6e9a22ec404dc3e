#include "kernels/sampling/choose.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "engine/sampler.h"
#include "unit/kernels/cuda_rows.h"

namespace tandem::kernels {
namespace {

using namespace testing;

constexpr float kInf = std::numeric_limits<float>::infinity();

#define TANDEM_HOPPER_STREAM(stream) \
  TANDEM_CUDA_STREAM(stream);        \
  if (device::cuda_compute_capability(0).value() != 90) GTEST_SKIP() << "not a Hopper device"

// One choice for each row of `logits`.
std::vector<ChosenToken> choose(const std::vector<float>& logits, const std::vector<TokenChoice>& choices,
                                device::Stream& stream) {
  const auto N = std::ssize(choices), V = std::ssize(logits) / N;
  const std::size_t count = choices.size();
  const CudaRows rows(DType::kF32, N, V, logits, stream);
  const device::Memory there = device::Memory::create(kCuda, count * sizeof(TokenChoice)).value();
  EXPECT_TRUE(device::copy(there.data(), choices.data(), there.bytes(), stream).ok());
  const CudaInts ids(std::vector<std::int32_t>(count + 1, 77), stream);
  const device::Memory on_host = device::Memory::create_pinned((count + 1) * sizeof(ChosenToken)).value();
  const std::span chosen(reinterpret_cast<ChosenToken*>(on_host.span().data()), count + 1);
  chosen[count].token = 77;
  const Status status =
      choose_tokens_cuda(rows.view(), {static_cast<const TokenChoice*>(there.data()), count},
                         TensorView(ids.view({N}).data(), DType::kI32, Shape{N}, kCuda), chosen.first(count), stream);
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<std::int32_t> out(count + 1);
  EXPECT_TRUE(device::copy(out.data(), ids.view({N + 1}).data(), out.size() * 4, stream).ok());
  EXPECT_TRUE(stream.synchronize().ok());
  for (std::size_t n = 0; n <= count; ++n) EXPECT_EQ(chosen[n].token, out[n]);
  EXPECT_EQ(out[count], 77);
  return {chosen.begin(), chosen.end() - 1};
}

std::vector<float> row(const std::vector<float>& logits, std::int64_t V, std::size_t n) {
  const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(n) * V;
  return {begin, begin + V};
}

std::string bits(const ChosenToken& chosen) {
  return std::string(reinterpret_cast<const char*>(&chosen), sizeof(chosen));
}

class Cases {
 public:
  explicit Cases(std::uint64_t seed) : random_(seed) {}
  std::uint64_t below(std::uint64_t n) { return random_() % n; }

  // [N,V] logits, and a choice for each row.
  std::pair<std::vector<float>, std::vector<TokenChoice>> rows(std::size_t N, std::int64_t V) {
    std::pair<std::vector<float>, std::vector<TokenChoice>> made;
    for (std::size_t n = 0; n < N; ++n) {
      add_row(V, made.first);
      made.second.push_back(choice(V));
    }
    return made;
  }

  void add_row(std::int64_t V, std::vector<float>& logits) {
    const auto begin = logits.size();
    const float deviation = std::array{0.0f, 0.3f, 1.0f, 3.0f, 10.0f}[below(5)];
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < V; ++i) logits.push_back(deviation * normal(random_));
    const std::span own = std::span(logits).subspan(begin);
    if (below(3) == 0) {  // ties
      for (float& logit : own) logit = std::round(logit);
    }
    if (below(4) == 0) {
      for (float& logit : own) logit = below(3) == 0 ? -kInf : logit;
      own[below(own.size())] = 0.5f;
    }
    if (below(4) == 0) {  // as a language model's
      for (std::size_t i = 0; i < own.size(); ++i)
        own[i] = 20.0f - 2.2f * std::log(static_cast<float>(i + 1)) + own[i] / 16;
      std::shuffle(own.begin(), own.end(), random_);
    }
  }

  TokenChoice choice(std::int64_t V) {
    TokenChoice choice;
    choice.temperature = std::array{0.0f, 1e-6f, 0.3f, 0.7f, 1.0f, 1.0f, 2.5f, 100.0f}[below(8)];
    choice.uniform = random_() & ~std::uint64_t{2047};
    if (below(12) == 0) choice.uniform = below(2) == 0 ? 0 : ~std::uint64_t{2047};
    if (below(2) == 0)
      choice.top_k = static_cast<std::int32_t>(1 + below(below(2) == 0 ? 60 : static_cast<std::uint64_t>(V) + 3));
    if (below(2) == 0) choice.top_p = static_cast<float>(1 + below(1000)) / 1000.0f;
    if (below(3) == 0) {
      choice.min_p_logit =
          std::log(std::array{1e-3, 0.05, 0.3, 1.0}[below(4)]) * static_cast<double>(choice.temperature);
    }
    choice.logprob = static_cast<ChoiceLogprob>(below(3));
    return choice;
  }

 private:
  std::mt19937_64 random_;
};

constexpr std::int64_t kVocabs[] = {1, 2, 7, 31, 257, 1000, 5003, 4096, 50257, 128256, 128257, 151936, 262144};

TEST(ChooseTokensCuda, AsTheSamplerOnTheHost) {
  TANDEM_HOPPER_STREAM(stream);
  for (const std::int64_t V : kVocabs) {
    Cases cases(static_cast<std::uint64_t>(V));
    engine::Sampler sampler(V);
    const std::size_t N = V > 10000 ? 24 : 150;
    const auto [logits, choices] = cases.rows(N, V);
    const std::vector<ChosenToken> got = choose(logits, choices, stream);
    for (std::size_t n = 0; n < N; ++n) {
      const ChosenToken want = sampler.choose(choices[n], row(logits, V, n)).value();
      SCOPED_TRACE(::testing::Message() << "V " << V << " row " << n << " T " << choices[n].temperature << " top_k "
                                        << choices[n].top_k << " top_p " << choices[n].top_p << " min_p "
                                        << choices[n].min_p_logit);
      EXPECT_EQ(got[n].token, want.token);
      if (choices[n].logprob == ChoiceLogprob::kNone) continue;
      EXPECT_EQ(got[n].rank, want.rank);
      EXPECT_EQ(got[n].exponent, want.exponent);
      EXPECT_EQ(got[n].total, want.total);
    }
  }
}

// The header's words in double precision. A choice may be another only where the uniform, or what top_p asks for, lies
// within 1e-5 of the boundary between two tokens.
TEST(ChooseTokensCuda, AsTheFormulaInDoublePrecision) {
  TANDEM_HOPPER_STREAM(stream);
  std::int64_t compared = 0, all = 0;
  for (const std::int64_t V : {7, 1001, 128256}) {
    Cases cases(static_cast<std::uint64_t>(V) + 1);
    const std::size_t N = V > 10000 ? 16 : 200;
    const auto [logits, choices] = cases.rows(N, V);
    const std::vector<ChosenToken> got = choose(logits, choices, stream);
    for (std::size_t n = 0; n < N; ++n, ++all) {
      const std::vector<float> z = row(logits, V, n);
      const TokenChoice& choice = choices[n];
      std::vector<std::int32_t> order(z.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
      std::ranges::stable_sort(order, [&](std::int32_t a, std::int32_t b) { return z[a] > z[b]; });
      const double max = z[order[0]], T = choice.temperature == 0.0f ? 1.0 : choice.temperature;
      const auto weight = [&](std::int32_t token, double temperature) {
        return std::exp((z[token] - max) / temperature);
      };
      std::size_t kept = order.size();
      bool is_near = false;
      if (choice.temperature == 0.0f) {
        kept = 1;
      } else {
        if (choice.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(choice.top_k));
        double total = 0, sum = 0;
        for (std::size_t i = 0; i < kept; ++i) total += weight(order[i], T);
        for (std::size_t i = 0; choice.top_p < 1.0f && i < kept; ++i) {
          sum += weight(order[i], T) / total;
          is_near |= std::abs(sum - choice.top_p) < 1e-5;
          if (sum >= choice.top_p) kept = i + 1;
        }
        const double lowest = max + choice.min_p_logit;
        while (kept > 1 && z[order[kept - 1]] < lowest) --kept;
        for (const float logit : z) is_near |= std::abs(logit - lowest) < 1e-5 * (1 + std::abs(lowest));
      }
      std::vector<bool> keeps(z.size(), false);
      double total = 0, row_total = 0, sum = 0;
      for (std::size_t i = 0; i < kept; ++i) {
        keeps[static_cast<std::size_t>(order[i])] = true;
        total += weight(order[i], T);
      }
      for (const std::int32_t token : order) row_total += weight(token, 1.0);
      const double uniform = static_cast<double>(choice.uniform) * 0x1p-64;
      std::int32_t want = -1;
      for (std::int32_t token = 0; token < V; ++token) {
        if (!keeps[static_cast<std::size_t>(token)]) continue;
        sum += weight(token, T) / total;
        is_near |= kept > 1 && weight(token, T) > 0 && std::abs(sum - uniform) < 1e-5;
        if (want < 0 && sum > uniform) want = token;
      }
      if (is_near || want < 0) continue;
      ++compared;
      EXPECT_EQ(got[n].token, want) << "V " << V << " row " << n;
      if (got[n].token != want || choice.logprob == ChoiceLogprob::kNone) continue;
      EXPECT_EQ(got[n].rank, 1 + std::ranges::count_if(z, [&](float other) { return other > z[want]; }));
      const bool of_row = choice.logprob == ChoiceLogprob::kRaw || choice.temperature == 0.0f;
      const double logprob = of_row ? z[want] - max - std::log(row_total) : (z[want] - max) / T - std::log(total);
      EXPECT_NEAR(got[n].logprob(), logprob, 1e-6 * (1 + std::abs(logprob))) << "V " << V << " row " << n;
    }
  }
  EXPECT_GT(compared, all * 3 / 4);
}

TEST(ChooseTokensCuda, OddValues) {
  TANDEM_HOPPER_STREAM(stream);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<TokenChoice> choices;
  for (const float temperature : {0.0f, 1.0f, 0.5f}) {
    for (const float top_p : {1.0f, 0.5f}) {
      choices.push_back({.uniform = 0, .temperature = temperature, .top_p = top_p, .logprob = ChoiceLogprob::kRaw});
    }
  }
  for (const std::int64_t V : {7, 9, 3000}) {
    for (const auto& [value, at] : {std::pair(nan, 0), std::pair(-nan, 6), std::pair(kInf, 3)}) {
      std::vector<float> logits(static_cast<std::size_t>(V) * choices.size(), 1.0f);
      for (std::size_t n = 0; n < choices.size(); ++n)
        logits[n * static_cast<std::size_t>(V) + static_cast<std::size_t>(at)] = value;
      for (const ChosenToken& chosen : choose(logits, choices, stream)) EXPECT_EQ(chosen.token, -1) << value;
    }
    const std::vector<float> none(static_cast<std::size_t>(V) * choices.size(), -kInf);
    for (const ChosenToken& chosen : choose(none, choices, stream)) EXPECT_EQ(chosen.token, -1);
    std::vector<float> zeros(none.size(), 0.0f);  // -0 is 0
    for (std::size_t i = 0; i < zeros.size(); i += 2) zeros[i] = -0.0f;
    for (const ChosenToken& chosen : choose(zeros, choices, stream)) {
      EXPECT_EQ(chosen.token, 0);
      EXPECT_EQ(chosen.rank, 1);
      EXPECT_NEAR(chosen.logprob(), -std::log(static_cast<double>(V)), 1e-6);
    }
  }
}

TEST(ChooseTokensCuda, ARowDependsOnNothingElse) {
  TANDEM_HOPPER_STREAM(stream);
  for (const std::int64_t V : {1003, 128256}) {
    Cases cases(5);
    const auto [logits, choices] = cases.rows(64, V);
    const std::vector<ChosenToken> together = choose(logits, choices, stream), again = choose(logits, choices, stream);
    std::vector<float> reversed;
    for (std::size_t n = 64; n-- > 0;) {
      const auto own = row(logits, V, n);
      reversed.insert(reversed.end(), own.begin(), own.end());
    }
    const std::vector<ChosenToken> backwards = choose(reversed, {choices.rbegin(), choices.rend()}, stream);
    for (std::size_t n = 0; n < 64; ++n) {
      EXPECT_EQ(bits(again[n]), bits(together[n])) << n;
      EXPECT_EQ(bits(backwards[63 - n]), bits(together[n])) << n;
      if (n % 8 != 0) continue;
      EXPECT_EQ(bits(choose(row(logits, V, n), {choices[n]}, stream)[0]), bits(together[n])) << n;
    }
  }
}

TEST(ChooseTokensCuda, DrawsAreDistributedAsTheWeights) {
  TANDEM_HOPPER_STREAM(stream);
  constexpr std::int64_t V = 600;
  constexpr std::size_t N = 20000, kKept = 40;
  std::vector<float> one(V, -3.0f);
  for (std::size_t i = 0; i < kKept; ++i) one[i * 15] = 1.0f - 0.05f * static_cast<float>(i);
  std::mt19937_64 random(3);
  std::vector<float> logits;
  std::vector<TokenChoice> choices;
  for (std::size_t n = 0; n < N; ++n) {
    logits.insert(logits.end(), one.begin(), one.end());
    choices.push_back({.uniform = random(), .temperature = 0.8f, .top_k = kKept});
  }
  std::vector<double> times(V, 0.0);
  for (const ChosenToken& chosen : choose(logits, choices, stream))
    times.at(static_cast<std::size_t>(chosen.token)) += 1;
  double total = 0, chi_square = 0, drawn = 0;
  for (std::size_t i = 0; i < kKept; ++i) total += std::exp(one[i * 15] / 0.8);
  for (std::size_t i = 0; i < kKept; ++i) {
    const double expected = static_cast<double>(N) * std::exp(one[i * 15] / 0.8) / total;
    drawn += times[i * 15];
    chi_square += (times[i * 15] - expected) * (times[i * 15] - expected) / expected;
  }
  EXPECT_EQ(drawn, static_cast<double>(N));
  EXPECT_LT(chi_square, 39 + 5 * std::sqrt(2.0 * 39));
  EXPECT_GT(chi_square, 39 - 5 * std::sqrt(2.0 * 39));
}

TEST(ChooseTokensCuda, RefusesWrongArguments) {
  TANDEM_HOPPER_STREAM(stream);
  const CudaRows rows(DType::kF32, 2, 8, 0, 0, stream), halves(DType::kF16, 2, 8, 0, 0, stream),
      gaps(DType::kF32, 2, 8, 1, 0, stream);
  const CudaInts ids(std::vector<std::int32_t>(2), stream);
  const std::vector<TokenChoice> choices(3);
  std::vector<ChosenToken> chosen(3);
  const auto refuses = [&](const TensorView& logits, std::size_t choices_count, std::size_t chosen_count) {
    return choose_tokens_cuda(logits, std::span(choices).first(choices_count), ids.view({2}),
                              std::span(chosen).first(chosen_count), stream)
               .code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refuses(halves.view(), 2, 2));
  EXPECT_TRUE(refuses(gaps.view(), 2, 2));
  EXPECT_TRUE(refuses(rows.view(), 1, 2));
  EXPECT_TRUE(refuses(rows.view(), 2, 3));
}

}  // namespace
}  // namespace tandem::kernels

#include "kernels/moe/moe.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "unit/kernels/each_target.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels {
namespace {

using namespace testing;

TANDEM_EACH_TARGET(Router);
TANDEM_EACH_TARGET(Moe);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Routing {
  std::vector<float> weights;
  std::vector<std::int32_t> experts;
};

Routing route(const std::vector<float>& logits, std::int64_t experts_count, std::int64_t top_k, RouterNorm norm,
              int threads = 1) {
  const auto stream = device::Stream::create_cpu(threads);
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts_count;
  Routing routing{std::vector<float>(tokens * top_k), std::vector<std::int32_t>(tokens * top_k)};
  EXPECT_TRUE(router_top_k_cpu(view_of(logits, {tokens, experts_count}), norm,
                               view_of(routing.weights, {tokens, top_k}), view_of(routing.experts, {tokens, top_k}),
                               *stream)
                  .ok());
  return routing;
}

TEST_P(Router, TakesTheLargestAndWeighsThem) {
  constexpr std::int64_t kExperts = 37, kTopK = 5, kTokens = 64;
  std::vector<float> logits = random_integers(1, kTokens * kExperts, 6);  // with many ties
  const Routing all = route(logits, kExperts, kTopK, RouterNorm::kSoftmaxOverAll, 2);
  const Routing selected = route(logits, kExperts, kTopK, RouterNorm::kSoftmaxOverSelected, 1);
  EXPECT_EQ(all.experts, selected.experts);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::span<const float> row = std::span(logits).subspan(t * kExperts, kExperts);
    std::vector<std::int32_t> order(kExperts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return row[a] > row[b]; });
    const double lse = log_sum_exp_reference<double>(row);
    double chosen = 0.0;
    for (std::int64_t c = 0; c < kTopK; ++c) chosen += std::exp(row[order[c]] - lse);
    for (std::int64_t c = 0; c < kTopK; ++c) {
      ASSERT_EQ(all.experts[t * kTopK + c], order[c]);
      const double probability = std::exp(row[order[c]] - lse);
      EXPECT_LE(std::fabs(all.weights[t * kTopK + c] - probability), 5e-7);
      EXPECT_LE(std::fabs(selected.weights[t * kTopK + c] - probability / chosen), 5e-7);
    }
  }
}

TEST_P(Router, ChoosesDifferentExpertsWhateverTheLogits) {
  const float nan = std::nanf("");
  const std::vector<float> logits = {nan,  nan, nan,        nan,  -kInfinity, -kInfinity, -kInfinity, -kInfinity,
                                     1.0f, nan, -kInfinity, 2.0f, kInfinity,  0.0f,       kInfinity,  -kInfinity};
  for (const RouterNorm norm : {RouterNorm::kSoftmaxOverAll, RouterNorm::kSoftmaxOverSelected}) {
    const Routing routing = route(logits, 4, 4, norm);
    for (std::size_t t = 0; t < 4; ++t) {
      std::vector<std::int32_t> experts(routing.experts.begin() + t * 4, routing.experts.begin() + t * 4 + 4);
      std::sort(experts.begin(), experts.end());
      EXPECT_EQ(experts, (std::vector<std::int32_t>{0, 1, 2, 3}));
    }
    EXPECT_TRUE(std::isnan(routing.weights[0]));
    EXPECT_EQ(routing.weights[4], 0.0f);
    EXPECT_TRUE(std::isnan(routing.weights[8]));  // NaN among the logits is not hidden by the choice
  }
}

TEST(MoeGroup, SortsPairsStablyByExpert) {
  const auto stream = device::Stream::create_cpu(1);
  const std::vector<std::int32_t> experts = {4, 1, 1, 0, 4, 1};  // 3 tokens, 2 choices
  std::vector<std::int32_t> offsets(7, -9), tokens(6), pair_of(6);
  ASSERT_TRUE(moe_group_cpu(view_of(experts, {3, 2}), 6, view_of(offsets, {7}), view_of(tokens, {6}),
                            view_of(pair_of, {3, 2}), *stream)
                  .ok());
  EXPECT_EQ(offsets, (std::vector<std::int32_t>{0, 1, 4, 4, 4, 6, 6}));
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{1, 0, 1, 2, 0, 2}));
  EXPECT_EQ(pair_of, (std::vector<std::int32_t>{4, 1, 2, 0, 5, 3}));
}

TEST_P(Moe, GatherGroupAndCombineMakeTheWeightedSum) {
  constexpr std::int64_t kTokens = 29, kExperts = 7, kTopK = 3;
  for (const std::int64_t width : {1, 16, 17, 100}) {
    const std::vector<float> x = random_integers(2, kTokens * width, 20),
                             residual = random_integers(3, kTokens * width, 20);
    const std::vector<float> weights = random_integers(4, kTokens * kTopK, 5);
    std::vector<std::int32_t> experts(kTokens * kTopK);
    for (std::size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<std::int32_t>(i * i % kExperts);
    for (const int threads : {1, 2}) {
      const auto stream = device::Stream::create_cpu(threads);
      std::vector<std::int32_t> offsets(kExperts + 1), tokens(kTokens * kTopK), pair_of(kTokens * kTopK);
      ASSERT_TRUE(moe_group_cpu(view_of(experts, {kTokens, kTopK}), kExperts, view_of(offsets, {kExperts + 1}),
                                view_of(tokens, {kTokens * kTopK}), view_of(pair_of, {kTokens, kTopK}), *stream)
                      .ok());
      GuardedRows grouped(kTokens * kTopK, width), y(kTokens, width), bare(kTokens, width);
      ASSERT_TRUE(
          moe_gather_cpu(view_of(x, {kTokens, width}), view_of(tokens, {kTokens * kTopK}), grouped.view(), *stream)
              .ok());
      EXPECT_TRUE(grouped.guards_intact());
      for (std::int64_t e = 0; e < kExperts; ++e) {  // expert e multiplies by e + 1
        for (std::int64_t p = offsets[e]; p < offsets[e + 1]; ++p) {
          for (std::int64_t i = 0; i < width; ++i) grouped.row(p)[i] *= static_cast<float>(e + 1);
        }
      }
      y.set(residual);
      ASSERT_TRUE(moe_combine_cpu(grouped.view(), view_of(weights, {kTokens, kTopK}),
                                  view_of(pair_of, {kTokens, kTopK}), 2.0f, y.view(), y.view(), *stream)
                      .ok());
      ASSERT_TRUE(moe_combine_cpu(grouped.view(), view_of(weights, {kTokens, kTopK}),
                                  view_of(pair_of, {kTokens, kTopK}), 2.0f, TensorView(), bare.view(), *stream)
                      .ok());
      EXPECT_TRUE(y.guards_intact() && bare.guards_intact());
      for (std::int64_t t = 0; t < kTokens; ++t) {
        for (std::int64_t i = 0; i < width; ++i) {
          float sum = 0.0f;
          for (std::int64_t c = 0; c < kTopK; ++c) {
            sum += weights[t * kTopK + c] * x[t * width + i] * static_cast<float>(experts[t * kTopK + c] + 1);
          }
          ASSERT_EQ(bare.row(t)[i], 2.0f * sum);
          ASSERT_EQ(y.row(t)[i], residual[t * width + i] + 2.0f * sum);
        }
      }
    }
  }
}

TEST_P(Moe, RefusesWhatDoesNotFit) {
  const auto stream = device::Stream::create_cpu(1);
  std::vector<float> floats(64);
  std::vector<std::int32_t> ints(64, 0), bad(64, 5);
  const auto invalid = [](const Status& status) { return status.code() == StatusCode::kInvalidArgument; };
  EXPECT_TRUE(invalid(router_top_k_cpu(view_of(floats, {2, 4}), RouterNorm::kSoftmaxOverAll, view_of(floats, {2, 5}),
                                       view_of(ints, {2, 5}), *stream)));
  EXPECT_TRUE(invalid(router_top_k_cpu(view_of(floats, {2, 4}), RouterNorm::kSoftmaxOverAll, view_of(floats, {2, 2}),
                                       view_of(ints, {2, 3}), *stream)));
  EXPECT_TRUE(invalid(
      moe_group_cpu(view_of(bad, {2, 2}), 5, view_of(ints, {6}), view_of(ints, {4}), view_of(ints, {2, 2}), *stream)));
  EXPECT_TRUE(invalid(
      moe_group_cpu(view_of(ints, {2, 2}), 5, view_of(ints, {5}), view_of(ints, {4}), view_of(ints, {2, 2}), *stream)));
  GuardedRows y(4, 8);
  EXPECT_TRUE(invalid(moe_gather_cpu(view_of(floats, {5, 8}), view_of(bad, {4}), y.view(), *stream)));
  EXPECT_TRUE(invalid(moe_combine_cpu(view_of(floats, {5, 8}), view_of(floats, {4, 1}), view_of(bad, {4, 1}), 1.0f,
                                      TensorView(), y.view(), *stream)));
  EXPECT_TRUE(invalid(moe_combine_cpu(view_of(floats, {5, 8}), view_of(floats, {4, 1}), view_of(ints, {4, 1}), 1.0f,
                                      view_of(floats, {4, 7}), y.view(), *stream)));
  EXPECT_TRUE(y.untouched());
}

}  // namespace
}  // namespace tandem::kernels

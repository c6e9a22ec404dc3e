#include "replay/curriculum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::replay {
namespace {

TEST(Curriculum, DrawsAsOftenAsTheRatesSay) {
  Curriculum curriculum = Curriculum::create({.target = 0.5, .tau = 0.1}).value();
  const std::vector<double> rates = {0.0, 0.3, 0.45, 0.5, 0.5, 0.62, 1.0}, weights = {1, 1, 2, 1, 1, 1, 5};
  double total = 0;
  std::vector<double> wanted;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    ASSERT_EQ(curriculum.add(rates[i], weights[i]).value(), i);
    wanted.push_back(weights[i] * std::exp(-std::abs(0.5 - rates[i]) / 0.1));
    total += wanted.back();
  }
  constexpr int kDraws = 60000;
  std::vector<PromptId> prompts(kDraws);
  ASSERT_TRUE(curriculum.sample({7, 0}, 0, prompts).ok());
  std::vector<int> counts(rates.size());
  for (const PromptId prompt : prompts) ++counts.at(prompt);
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const double mean = kDraws * wanted[i] / total;
    EXPECT_NEAR(counts[i], mean, 5 * std::sqrt(mean) + 3) << i;
  }
  // The same numbers, the same prompts, however they are asked for.
  std::vector<PromptId> tail(10);
  ASSERT_TRUE(curriculum.sample({7, 0}, 100, tail).ok());
  EXPECT_EQ(tail, std::vector<PromptId>(prompts.begin() + 100, prompts.begin() + 110));
}

TEST(Curriculum, FollowsAPolicyThatLearns) {
  Curriculum curriculum = Curriculum::create({}).value();
  // Prompt i passes with probability sigma(skill - i / 10): the frontier moves up as the skill grows.
  constexpr int kPrompts = 200, kRounds = 400, kBatch = 16, kGroup = 8;
  for (int i = 0; i < kPrompts; ++i) ASSERT_TRUE(curriculum.add().ok());
  const auto pass_rate = [](double skill, PromptId prompt) { return 1.0 / (1.0 + std::exp(prompt / 10.0 - skill)); };
  double taught = 0, uniform_taught = 0;
  std::uint64_t draw = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double skill = 20.0 * round / kRounds;
    std::vector<PromptId> prompts(kBatch);
    ASSERT_TRUE(curriculum.sample({1, 0}, draw, prompts).ok());
    draw += kBatch;
    for (const PromptId prompt : prompts) {
      const double rate = pass_rate(skill, prompt);
      int passes = 0;
      for (int answer = 0; answer < kGroup; ++answer) passes += philox_uniform({2, 0}, draw * 100 + answer) < rate;
      ++draw;
      ASSERT_TRUE(curriculum.observe(prompt, passes, kGroup).ok());
      if (round >= kRounds / 2) taught += rate * (1 - rate);  // the variance of an answer: what an advantage is made of
    }
    if (round < kRounds / 2) continue;
    for (PromptId prompt = 0; prompt < kPrompts; ++prompt) {
      const double rate = pass_rate(skill, prompt);
      uniform_taught += rate * (1 - rate) * kBatch / kPrompts;
    }
  }
  EXPECT_GT(taught, 1.5 * uniform_taught);
}

TEST(Curriculum, ObservationsMoveTheRateAndOldOnesFade) {
  Curriculum curriculum = Curriculum::create({.prior_attempts = 2, .memory = 0.5}).value();
  const PromptId prompt = curriculum.add(0.5).value();
  ASSERT_TRUE(curriculum.observe(prompt, 8, 8).ok());
  EXPECT_DOUBLE_EQ(curriculum.rate(prompt).value(), 8.5 / 9.0);
  ASSERT_TRUE(curriculum.observe(prompt, 0, 8).ok());
  EXPECT_DOUBLE_EQ(curriculum.rate(prompt).value(), 4.25 / 12.5);
  ASSERT_TRUE(curriculum.set_rate(prompt, 1.0).ok());
  EXPECT_DOUBLE_EQ(curriculum.rate(prompt).value(), 1.0);
}

TEST(Curriculum, AttemptsThatCannotBeCountedAreRefused) {
  Curriculum curriculum = Curriculum::create({.memory = 1.0}).value();
  const PromptId prompt = curriculum.add(0.5).value();
  ASSERT_TRUE(curriculum.observe(prompt, 1e308, 1e308).ok());
  EXPECT_EQ(curriculum.observe(prompt, 1e308, 1e308).code(), StatusCode::kInvalidArgument);
  EXPECT_DOUBLE_EQ(curriculum.rate(prompt).value(), 1.0);
  ASSERT_TRUE(curriculum.observe(prompt, 0, 1).ok());
}

TEST(Curriculum, RefusalsNameWhatIsWrongAndChangeNothing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const CurriculumOptions& options :
       {CurriculumOptions{.target = 0}, CurriculumOptions{.target = nan}, CurriculumOptions{.tau = 0},
        CurriculumOptions{.prior_attempts = -1}, CurriculumOptions{.memory = 1.5}}) {
    EXPECT_EQ(Curriculum::create(options).code(), StatusCode::kInvalidArgument);
  }
  Curriculum curriculum = Curriculum::create({}).value();
  std::vector<PromptId> one(1);
  EXPECT_EQ(curriculum.sample({}, 0, one).code(), StatusCode::kNotFound);
  const PromptId prompt = curriculum.add(0.25).value();
  EXPECT_EQ(curriculum.add(1.5).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.add(0.5, 0.0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.observe(prompt, 3, 2).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.observe(prompt, nan, 2).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.observe(prompt, 0, 0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.set_rate(prompt, nan).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(curriculum.observe(prompt + 1, 1, 2).code(), StatusCode::kNotFound);
  EXPECT_DOUBLE_EQ(curriculum.rate(prompt).value(), 0.25);
  ASSERT_TRUE(curriculum.remove(prompt).ok());
  EXPECT_EQ(curriculum.remove(prompt).code(), StatusCode::kNotFound);
  EXPECT_EQ(curriculum.size(), 0);
}

}  // namespace
}  // namespace tandem::replay

#include "engine/logits_processor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::engine {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

class LogitsProcessorTest : public ::testing::Test {
 protected:
  std::vector<float> process() {
    const auto processed = processor_.process({&request_, 0, prompt_, generated_, forbidden_}, logits_);
    return {processed.begin(), processed.end()};
  }
  Request request_;
  SamplingParams& params_ = request_.sampling;
  std::vector<TokenId> prompt_ = {0, 1}, generated_ = {2, 2, 3}, forbidden_;
  std::vector<float> logits_ = {1, -1, 2, -2, 3, 0};
  LogitsProcessor processor_{6};
};

TEST_F(LogitsProcessorTest, NothingToDoBorrowsTheLogits) {
  const auto processed = processor_.process({&request_, 0, prompt_, generated_, forbidden_}, logits_);
  EXPECT_EQ(processed.data(), logits_.data());
  generated_.clear();
  params_.presence_penalty = 1;
  EXPECT_EQ(processor_.process({&request_, 0, prompt_, generated_, forbidden_}, logits_).data(), logits_.data());
}

TEST_F(LogitsProcessorTest, RepetitionPenaltyCountsPromptAndAnswerOnce) {
  params_.repetition_penalty = 2;
  EXPECT_EQ(process(), (std::vector<float>{0.5f, -2, 1, -4, 3, 0}));
  EXPECT_EQ(process(), (std::vector<float>{0.5f, -2, 1, -4, 3, 0}));  // nothing is left over from the last call
}

TEST_F(LogitsProcessorTest, PresenceAndFrequencyCountTheAnswerOnly) {
  params_.presence_penalty = 0.5f;
  params_.frequency_penalty = 0.25f;
  EXPECT_EQ(process(), (std::vector<float>{1, -1, 1, -2.75f, 3, 0}));
  params_.repetition_penalty = 2;  // comes first
  EXPECT_EQ(process(), (std::vector<float>{0.5f, -2, 0, -4.75f, 3, 0}));
}

TEST_F(LogitsProcessorTest, BiasComesBeforePenaltiesAndAddsUp) {
  params_.logit_bias = {{1, 3.0f}, {1, 1.0f}, {5, -7.0f}};
  params_.repetition_penalty = 2;
  EXPECT_EQ(process(), (std::vector<float>{0.5f, 1.5f, 1, -4, 3, -7}));
}

TEST_F(LogitsProcessorTest, RemovedTokensStayRemoved) {
  params_.allowed_token_ids = {0, 2, 4};
  params_.logit_bias = {{1, 100.0f}, {4, 1.0f}};
  forbidden_ = {4};
  params_.presence_penalty = -2;
  EXPECT_EQ(process(), (std::vector<float>{1, kRemoved, 4, kRemoved, kRemoved, kRemoved}));
}

TEST_F(LogitsProcessorTest, BadWordsRemoveTheTokenThatWouldCompleteThem) {
  params_.bad_words = {{5}, {3, 0}, {2, 1}, {1, 2, 2, 3, 4}, {0, 1, 2, 2, 3, 2}, {0, 0, 1, 2, 2, 3, 3}};
  EXPECT_EQ(process(), (std::vector<float>{kRemoved, -1, kRemoved, -2, kRemoved, kRemoved}));
  generated_.clear();
  params_.bad_words = {{1, 3}};
  EXPECT_EQ(process(), (std::vector<float>{1, -1, 2, kRemoved, 3, 0}));
}

TEST_F(LogitsProcessorTest, OverflowStaysFinite) {
  params_.repetition_penalty = 1e-38f;
  logits_ = {3e38f, -3e38f, 1e30f, 5, 0, 1};
  params_.logit_bias = {{5, 3.4e38f}, {0, 3e38f}};
  for (const float logit : process()) EXPECT_TRUE(std::isfinite(logit));
  params_.repetition_penalty = 1e38f;
  for (const float logit : process()) EXPECT_TRUE(std::isfinite(logit));
}

}  // namespace
}  // namespace tandem::engine

// A model for tests: its logits are a hash of the sequence's whole history, read back through the paged cache.
//
// Each slot keeps a token and a hash of everything before it, found through the block table, as keys and values would
// depend on it. A block that was mixed up, shared wrongly, written too early or reused too soon changes the answer.
// Checks (aborts on violation) that batches keep to the limits and that no row writes where another one reads.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "tensor/tensor.h"

namespace tandem::engine {

class FakeRunner final : public ModelRunner {
 public:
  explicit FakeRunner(const RunnerLimits& limits);

  const RunnerLimits& limits() const override { return limits_; }
  Result<tensor::TensorView> forward(const model::ForwardBatch& batch) override;
  bool chooses(const kernels::TokenChoice& choice) const override {
    return !only_greedy || (choice.temperature == 0.0f && choice.logprob == kernels::ChoiceLogprob::kNone);
  }
  Status queue(const model::ForwardBatch& batch, std::span<const kernels::TokenChoice> choices) override;
  Result<std::span<const kernels::ChosenToken>> take() override;

  // What forward() gives for the last of `tokens`, without any cache.
  static std::vector<float> logits_after(std::span<const TokenId> tokens, std::int64_t vocab_size);

  // The calls numbered first, first + 1, ..., first + count - 1 fail with fail_code and leave rubbish in the cache.
  void fail_calls(std::int64_t first, std::int64_t count) { fail_first_ = first, fail_count_ = count; }
  StatusCode fail_code = StatusCode::kAborted;
  std::int64_t spoilt_call = 0;  // of this one the first row of logits is NaN
  std::int64_t calls() const { return calls_; }
  bool only_greedy = false;        // what it chooses
  bool fails_when_queued = false;  // else when the step's tokens are taken
  // Steps that were queued with tokens of the step before.
  std::int64_t steps_ahead() const { return steps_ahead_; }
  std::size_t queued_count() const { return queued_.size(); }  // while the engine stands still
  // Called at the start of each forward(), on the engine's thread.
  std::function<void(const model::ForwardBatch&)> on_forward;

 private:
  struct Slot {
    TokenId token = -1;
    std::uint64_t history = 0;  // of the tokens before it and itself
  };

  void check(const model::ForwardBatch& batch) const;
  Result<tensor::TensorView> run(const model::ForwardBatch& batch);

  const RunnerLimits limits_;
  std::vector<Slot> cache_;
  tensor::Tensor logits_;
  Sampler sampler_;
  std::vector<kernels::ChosenToken> chosen_, taken_;  // by the last step queued; by the last one taken
  std::deque<Result<std::vector<kernels::ChosenToken>>> queued_;
  std::atomic<std::int64_t> calls_{0}, fail_first_{0}, fail_count_{0}, steps_ahead_{0};
};

// Limits of a small model: V 40, context 96, P 4. The rest as given.
RunnerLimits small_limits(std::int64_t blocks_count, std::int64_t step_tokens_max, std::int64_t sequences_max);

// All that one sample of a request said.
struct Answer {
  std::vector<TokenId> tokens;
  std::string text;
  std::vector<TokenLogprobs> logprobs, prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> stop_token;
  std::optional<std::string> stop_string;
  std::int64_t cached_tokens = 0;
  Status error;
  std::int64_t events = 0;

  // The same tokens, log-probabilities and end; where they came from does not matter.
  bool same_content(const Answer& other) const;
  std::string to_string() const;
};

// What `request` should say: the model without cache, batch or engine, and the engine's rules about ends written again.
std::vector<Answer> expected_answers(const Request& request, const RunnerLimits& limits,
                                     const std::vector<TokenId>& eos_token_ids);

// Adds an event to what its sample said before. Fails the test if the sample had already ended.
void add_event(Answer& answer, const TokenEvent& event);

// The rest is how.

namespace fake {

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ull + b + 0x632BE59BD9B4E019ull;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ull;
  return x ^ (x >> 32);
}

inline std::uint64_t extend(std::uint64_t history, TokenId token) {
  return mix(history, static_cast<std::uint64_t>(token));
}

// `seen` covers every slot that was read.
inline void write_logits(std::uint64_t seen, std::span<float> row) {
  for (std::size_t v = 0; v < row.size(); ++v) row[v] = static_cast<float>(mix(seen, v) % 1024) / 128.0f;
}

inline bool same(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  return std::ranges::equal(a, b, [](const TokenLogprobs& x, const TokenLogprobs& y) {
    return std::ranges::equal(x, y, [](const TokenLogprob& p, const TokenLogprob& q) {
      return p.token == q.token && p.logprob == q.logprob && p.rank == q.rank;
    });
  });
}

}  // namespace fake

inline FakeRunner::FakeRunner(const RunnerLimits& limits)
    : limits_(limits),
      cache_(static_cast<std::size_t>(limits.blocks_count * limits.block_tokens)),
      logits_(tensor::DType::kF32, {limits.logit_rows_max, limits.vocab_size}),
      sampler_(limits.vocab_size) {}

inline void FakeRunner::check(const model::ForwardBatch& batch) const {
  const std::int64_t rows = batch.tokens.count(), sequences = batch.context_len.count();
  TD_CHECK(rows > 0 && rows <= limits_.step_tokens_max, rows);
  TD_CHECK(sequences > 0 && sequences <= limits_.sequences_max, sequences);
  TD_CHECK(batch.logit_rows.count() <= limits_.logit_rows_max, batch.logit_rows.count());
  const auto* query_start = batch.query_start.as<const std::int32_t>();
  const auto* context_len = batch.context_len.as<const std::int32_t>();
  const auto* positions = batch.positions.as<const std::int32_t>();
  const auto* slots = batch.slots.as<const std::int64_t>();
  const auto* table = batch.block_table.as<const std::int32_t>();
  const std::int64_t table_blocks = batch.block_table.extent(1);
  const int block_tokens = limits_.block_tokens;
  std::map<std::int64_t, std::int64_t> writer_of;  // block -> sequence
  TD_CHECK(query_start[0] == 0 && query_start[sequences] == rows, query_start[sequences], rows);
  for (std::int64_t b = 0; b < sequences; ++b) {
    TD_CHECK(query_start[b] < query_start[b + 1], b);
    TD_CHECK(positions[query_start[b + 1] - 1] + 1 == context_len[b], b, context_len[b]);
    TD_CHECK(context_len[b] <= limits_.context_tokens && context_len[b] <= table_blocks * block_tokens, context_len[b]);
    for (std::int64_t t = query_start[b]; t < query_start[b + 1]; ++t) {
      TD_CHECK(positions[t] == context_len[b] - (query_start[b + 1] - t), b, t, positions[t]);
      const std::int64_t block = table[b * table_blocks + positions[t] / block_tokens];
      TD_CHECK(block >= 0 && block < limits_.blocks_count, block);
      TD_CHECK(slots[t] == block * block_tokens + positions[t] % block_tokens, slots[t], block);
      writer_of[block] = b;
    }
  }
  for (std::int64_t b = 0; b < sequences; ++b) {
    for (std::int64_t i = 0; i * block_tokens < context_len[b]; ++i) {
      const auto writer = writer_of.find(table[b * table_blocks + i]);
      TD_CHECK(writer == writer_of.end() || writer->second == b, b, i);
    }
  }
}

inline Result<tensor::TensorView> FakeRunner::forward(const model::ForwardBatch& batch) {
  TD_CHECK(queued_.empty(), queued_.size());
  return run(batch);
}

inline Result<tensor::TensorView> FakeRunner::run(const model::ForwardBatch& batch) {
  if (on_forward) on_forward(batch);
  check(batch);
  const std::int64_t call = ++calls_;
  const bool fails = call >= fail_first_ && call < fail_first_ + fail_count_;
  const auto* tokens = batch.tokens.as<const std::int32_t>();
  const auto* positions = batch.positions.as<const std::int32_t>();
  const auto* slots = batch.slots.as<const std::int64_t>();
  const auto* query_start = batch.query_start.as<const std::int32_t>();
  const auto* table = batch.block_table.as<const std::int32_t>();
  const auto* logit_rows = batch.logit_rows.as<const std::int32_t>();
  const std::int64_t table_blocks = batch.block_table.extent(1);

  std::int64_t logit_row = 0;
  for (std::int64_t b = 0; b < batch.context_len.count(); ++b) {
    auto slot_at = [&](std::int64_t position) -> Slot& {
      const std::int64_t block = table[b * table_blocks + position / limits_.block_tokens];
      return cache_[static_cast<std::size_t>(block * limits_.block_tokens + position % limits_.block_tokens)];
    };
    for (std::int64_t t = query_start[b]; t < query_start[b + 1]; ++t) {
      const std::uint64_t before = positions[t] == 0 ? 0 : slot_at(positions[t] - 1).history;
      cache_[static_cast<std::size_t>(slots[t])] = {tokens[t], fails ? 12345 : fake::extend(before, tokens[t])};
      if (logit_row == batch.logit_rows.count() || logit_rows[logit_row] != t) continue;
      std::uint64_t seen = 0;
      for (std::int64_t j = 0; j <= positions[t]; ++j)
        seen = fake::mix(fake::extend(seen, slot_at(j).token), slot_at(j).history);
      const auto vocab = static_cast<std::size_t>(limits_.vocab_size);
      fake::write_logits(seen, logits_.span<float>().subspan(static_cast<std::size_t>(logit_row++) * vocab, vocab));
    }
  }
  TD_CHECK(logit_row == batch.logit_rows.count(), logit_row);
  if (call == spoilt_call) {
    std::ranges::fill(logits_.span<float>().first(static_cast<std::size_t>(limits_.vocab_size)),
                      std::numeric_limits<float>::quiet_NaN());
  }
  if (fails) return Status(fail_code, "a test asked this step to fail");
  return logits_.view().rows(0, logit_row);
}

inline Status FakeRunner::queue(const model::ForwardBatch& batch, std::span<const kernels::TokenChoice> choices) {
  TD_CHECK(queued_.size() < kQueuedStepsMax, queued_.size());
  TD_CHECK(std::ssize(choices) == batch.logit_rows.count(), choices.size());
  const auto* first = batch.tokens.as<const std::int32_t>();
  std::vector<std::int32_t> tokens(first, first + batch.tokens.count());
  steps_ahead_ += std::ranges::any_of(tokens, [](std::int32_t token) { return token < 0; });
  for (std::int32_t& token : tokens) {
    if (token < 0) token = chosen_.at(static_cast<std::size_t>(-1 - token)).token;
  }
  model::ForwardBatch known = batch;
  known.tokens = tensor::TensorView::of(std::span(tokens));
  const Result<tensor::TensorView> logits = run(known);
  chosen_.assign(logits.ok() ? 0 : tokens.size(), {.token = 0});  // rubbish, if it failed
  for (std::int64_t row = 0; logits.ok() && row < logits->extent(0); ++row) {
    const kernels::TokenChoice& choice = choices[static_cast<std::size_t>(row)];
    TD_CHECK(chooses(choice), choice.temperature);
    const auto values = logits_.span<float>().subspan(static_cast<std::size_t>(row * limits_.vocab_size),
                                                      static_cast<std::size_t>(limits_.vocab_size));
    const auto chosen = sampler_.choose(choice, values);
    TD_CHECK(chosen.ok() || chosen.code() == StatusCode::kAborted, chosen.status().message());
    chosen_.push_back(chosen.ok() ? *chosen : kernels::ChosenToken());
  }
  if (logits.ok()) {
    queued_.emplace_back(chosen_);
  } else if (fails_when_queued) {
    return logits.status();
  } else {
    queued_.emplace_back(logits.status());
  }
  return ok_status();
}

inline Result<std::span<const kernels::ChosenToken>> FakeRunner::take() {
  TD_CHECK(!queued_.empty(), queued_.size());
  Result<std::vector<kernels::ChosenToken>> oldest = std::move(queued_.front());
  queued_.pop_front();
  taken_ = TD_TRY(std::move(oldest));
  return std::span<const kernels::ChosenToken>(taken_);
}

inline std::vector<float> FakeRunner::logits_after(std::span<const TokenId> tokens, std::int64_t vocab_size) {
  std::uint64_t seen = 0, history = 0;
  for (const TokenId token : tokens) {
    history = fake::extend(history, token);
    seen = fake::mix(fake::extend(seen, token), history);
  }
  std::vector<float> logits(static_cast<std::size_t>(vocab_size));
  fake::write_logits(seen, logits);
  return logits;
}

inline RunnerLimits small_limits(std::int64_t blocks_count, std::int64_t step_tokens_max, std::int64_t sequences_max) {
  return {.vocab_size = 40,
          .context_tokens = 96,
          .blocks_count = blocks_count,
          .block_tokens = 4,
          .step_tokens_max = step_tokens_max,
          .sequences_max = sequences_max,
          .logit_rows_max = sequences_max};
}

inline bool Answer::same_content(const Answer& other) const {
  return tokens == other.tokens && finish == other.finish && stop_token == other.stop_token &&
         fake::same(logprobs, other.logprobs) && fake::same(prompt_logprobs, other.prompt_logprobs);
}

inline std::string Answer::to_string() const {
  return fmt::format("[{}] {} {} logprobs {} prompt logprobs {} {}", fmt::join(tokens, " "), finish_reason_name(finish),
                     stop_token.value_or(-1), logprobs.size(), prompt_logprobs.size(), error.to_string());
}

inline std::vector<Answer> expected_answers(const Request& request, const RunnerLimits& limits,
                                            const std::vector<TokenId>& eos_token_ids) {
  Sampler sampler(limits.vocab_size);
  std::vector<TokenId> stops = request.stop_token_ids;
  if (!request.ignore_eos) stops.insert(stops.end(), eos_token_ids.begin(), eos_token_ids.end());
  std::vector<TokenId> forbidden = request.stop_token_ids;
  forbidden.insert(forbidden.end(), eos_token_ids.begin(), eos_token_ids.end());
  std::vector<Answer> answers;
  for (int sample = 0; sample < request.samples_count; ++sample) {
    Answer answer;
    std::vector<TokenId> tokens = request.prompt;
    for (std::size_t i = 1; request.prompt_logprobs && i < tokens.size(); ++i)
      answer.prompt_logprobs.push_back(
          sampler.token_logprobs(FakeRunner::logits_after(std::span(tokens).first(i), limits.vocab_size), tokens[i],
                                 *request.prompt_logprobs));
    while (answer.finish == FinishReason::kNone) {
      const auto logits = FakeRunner::logits_after(tokens, limits.vocab_size);
      const bool too_short = static_cast<std::int64_t>(answer.tokens.size()) < request.min_tokens;
      auto sampled = sampler.sample({.request = &request,
                                     .sample = sample,
                                     .prompt = request.prompt,
                                     .generated = answer.tokens,
                                     .forbidden_ids = too_short ? forbidden : std::vector<TokenId>()},
                                    logits);
      TD_CHECK(sampled.ok(), sampled.status().message());
      tokens.push_back(sampled->token);
      answer.tokens.push_back(sampled->token);
      if (request.logprobs) answer.logprobs.push_back(sampled->logprobs);
      const auto generated = static_cast<std::int64_t>(answer.tokens.size());
      if (std::ranges::count(stops, sampled->token) > 0) {
        answer.finish = FinishReason::kStop;
        answer.stop_token = sampled->token;
      } else if ((request.max_tokens > 0 && generated == request.max_tokens) ||
                 static_cast<std::int64_t>(tokens.size()) >=
                     std::min(limits.context_tokens, limits.blocks_count * limits.block_tokens + 1)) {
        answer.finish = FinishReason::kLength;
      }
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

inline void add_event(Answer& answer, const TokenEvent& event) {
  EXPECT_EQ(answer.finish, FinishReason::kNone) << "an event after the last one";
  if (answer.events++ == 0) {
    answer.prompt_logprobs = event.prompt_logprobs;
    answer.cached_tokens = event.cached_tokens;
  } else {
    EXPECT_TRUE(event.prompt_logprobs.empty());
  }
  answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
  answer.logprobs.insert(answer.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
  answer.finish = event.finish;
  answer.text += event.text;
  answer.stop_token = event.stop_token;
  answer.stop_string = event.stop_string;
  answer.error = event.error;
}

}  // namespace tandem::engine

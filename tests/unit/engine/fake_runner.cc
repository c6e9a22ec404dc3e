#include "unit/engine/fake_runner.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "engine/sampler.h"

namespace tandem::engine {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ull + b + 0x632BE59BD9B4E019ull;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9ull;
  return x ^ (x >> 32);
}

std::uint64_t extend(std::uint64_t history, TokenId token) { return mix(history, static_cast<std::uint64_t>(token)); }

// `seen` covers every slot that was read.
void write_logits(std::uint64_t seen, std::span<float> row) {
  for (std::size_t v = 0; v < row.size(); ++v) row[v] = static_cast<float>(mix(seen, v) % 1024) / 128.0f;
}

bool same(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  return std::ranges::equal(a, b, [](const TokenLogprobs& x, const TokenLogprobs& y) {
    return std::ranges::equal(x, y, [](const TokenLogprob& p, const TokenLogprob& q) {
      return p.token == q.token && p.logprob == q.logprob && p.rank == q.rank;
    });
  });
}

}  // namespace

FakeRunner::FakeRunner(const RunnerLimits& limits)
    : limits_(limits),
      cache_(static_cast<std::size_t>(limits.blocks_count * limits.block_tokens)),
      logits_(tensor::DType::kF32, {limits.logit_rows_max, limits.vocab_size}) {}

void FakeRunner::check(const model::ForwardBatch& batch) const {
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

Result<tensor::TensorView> FakeRunner::forward(const model::ForwardBatch& batch) {
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
      cache_[static_cast<std::size_t>(slots[t])] = {tokens[t], fails ? 12345 : extend(before, tokens[t])};
      if (logit_row == batch.logit_rows.count() || logit_rows[logit_row] != t) continue;
      std::uint64_t seen = 0;
      for (std::int64_t j = 0; j <= positions[t]; ++j) seen = mix(extend(seen, slot_at(j).token), slot_at(j).history);
      const auto vocab = static_cast<std::size_t>(limits_.vocab_size);
      write_logits(seen, logits_.span<float>().subspan(static_cast<std::size_t>(logit_row++) * vocab, vocab));
    }
  }
  TD_CHECK(logit_row == batch.logit_rows.count(), logit_row);
  if (fails) return Status(StatusCode::kAborted, "a test asked this step to fail");
  return logits_.view().rows(0, logit_row);
}

std::vector<float> FakeRunner::logits_after(std::span<const TokenId> tokens, std::int64_t vocab_size) {
  std::uint64_t seen = 0, history = 0;
  for (const TokenId token : tokens) {
    history = extend(history, token);
    seen = mix(extend(seen, token), history);
  }
  std::vector<float> logits(static_cast<std::size_t>(vocab_size));
  write_logits(seen, logits);
  return logits;
}

RunnerLimits small_limits(std::int64_t blocks_count, std::int64_t step_tokens_max, std::int64_t sequences_max) {
  return {.vocab_size = 40,
          .context_tokens = 96,
          .blocks_count = blocks_count,
          .block_tokens = 4,
          .step_tokens_max = step_tokens_max,
          .sequences_max = sequences_max,
          .logit_rows_max = sequences_max};
}

bool Answer::same_content(const Answer& other) const {
  return tokens == other.tokens && finish == other.finish && stop_token == other.stop_token &&
         same(logprobs, other.logprobs) && same(prompt_logprobs, other.prompt_logprobs);
}

std::string Answer::to_string() const {
  return fmt::format("[{}] {} {} logprobs {} prompt logprobs {} {}", fmt::join(tokens, " "), finish_reason_name(finish),
                     stop_token.value_or(-1), logprobs.size(), prompt_logprobs.size(), error.to_string());
}

std::vector<Answer> expected_answers(const Request& request, const RunnerLimits& limits,
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
                 static_cast<std::int64_t>(tokens.size()) ==
                     std::min(limits.context_tokens, limits.blocks_count * limits.block_tokens + 1)) {
        answer.finish = FinishReason::kLength;
      }
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

void add_event(Answer& answer, const TokenEvent& event) {
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
  answer.stop_token = event.stop_token;
  answer.error = event.error;
}

}  // namespace tandem::engine

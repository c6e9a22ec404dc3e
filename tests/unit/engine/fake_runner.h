// A model for tests: its logits are a hash of the sequence's whole history, read back through the paged cache.
//
// Each slot keeps a token and a hash of everything before it, found through the block table, as keys and values would
// depend on it. A block that was mixed up, shared wrongly, written too early or reused too soon changes the answer.
// Checks (aborts on violation) that batches keep to the limits and that no row writes where another one reads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/model_runner.h"
#include "engine/request.h"
#include "tensor/tensor.h"

namespace tandem::engine {

class FakeRunner final : public ModelRunner {
 public:
  explicit FakeRunner(const RunnerLimits& limits);

  const RunnerLimits& limits() const override { return limits_; }
  Result<tensor::TensorView> forward(const model::ForwardBatch& batch) override;

  // What forward() gives for the last of `tokens`, without any cache.
  static std::vector<float> logits_after(std::span<const TokenId> tokens, std::int64_t vocab_size);

  // The calls numbered first, first + 1, ..., first + count - 1 fail with kAborted and leave rubbish in the cache.
  void fail_calls(std::int64_t first, std::int64_t count) { fail_first_ = first, fail_count_ = count; }
  std::int64_t calls() const { return calls_; }
  // Called at the start of each forward(), on the engine's thread.
  std::function<void(const model::ForwardBatch&)> on_forward;

 private:
  struct Slot {
    TokenId token = -1;
    std::uint64_t history = 0;  // of the tokens before it and itself
  };

  void check(const model::ForwardBatch& batch) const;

  const RunnerLimits limits_;
  std::vector<Slot> cache_;
  tensor::Tensor logits_;
  std::atomic<std::int64_t> calls_{0}, fail_first_{0}, fail_count_{0};
};

// Limits of a small model: V 40, context 96, P 4. The rest as given.
RunnerLimits small_limits(std::int64_t blocks_count, std::int64_t step_tokens_max, std::int64_t sequences_max);

// All that one sample of a request said.
struct Answer {
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs, prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> stop_token;
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

}  // namespace tandem::engine

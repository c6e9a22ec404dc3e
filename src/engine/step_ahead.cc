// How StepLoop queues a step before the tokens of the step before it are known, and takes the tokens of queued steps.
#include <algorithm>
#include <exception>

#include "base/check.h"
#include "engine/step_loop.h"

namespace tandem::engine {

void StepLoop::settle() {
  while (queued_count_ > 0) finish_oldest();
}

bool StepLoop::may_queue_ahead() const {
  const std::vector<BatchEntry>& before = queued_[0];
  if (!waiting_.empty() || running_.size() != before.size()) return false;
  std::int64_t blocks_needed = 0;
  const TimePoint now = clock_.now();
  for (const BatchEntry& entry : before) {
    if (entry.sample == nullptr || !entry.logits.last) return false;
    const auto& deadline = entry.sample->request->request.deadline;
    if (deadline && *deadline <= now) return false;
    // Penalties begin with the answer's first token, which nobody knows yet.
    const SamplingParams& sampling = entry.sample->request->request.sampling;
    if (sampling.presence_penalty != 0.0f || sampling.frequency_penalty != 0.0f) return false;
    const auto room = static_cast<std::int64_t>(pool_.blocks(*entry.sample->sequence).size()) * limits_.block_tokens;
    blocks_needed += static_cast<std::int64_t>(entry.sample->tokens.size()) >= room;
  }
  return blocks_needed <= pool_.blocks_free();
}

bool StepLoop::will_be_full(const Sample& sample, std::int64_t more_tokens) const {
  const std::int64_t max_tokens = sample.request->request.max_tokens;
  return (max_tokens > 0 && sample.generated_count() + more_tokens >= max_tokens) ||
         static_cast<std::int64_t>(sample.tokens.size()) + more_tokens >= sequence_tokens_max_;
}

void StepLoop::queue_ahead() {
  if (!may_queue_ahead()) return;
  batch_.clear();
  std::int64_t table_blocks = 1;
  for (const BatchEntry& entry : queued_[0]) {
    Sample& sample = *entry.sample;
    if (will_be_full(sample, 1)) continue;
    const Status grown = pool_.grow(*sample.sequence, static_cast<std::int64_t>(sample.tokens.size()) + 1);
    TD_CHECK(grown.ok(), grown.message());
    batch_.push_back({&sample, 1, entry.logits});  // the row in the step before, for now
    table_blocks = std::max(table_blocks, static_cast<std::int64_t>(pool_.blocks(*sample.sequence).size()));
  }
  if (batch_.empty()) return;
  builder_.begin(table_blocks);
  choices_.clear();
  for (BatchEntry& entry : batch_) {
    const Sample& sample = *entry.sample;
    choices_.push_back(choice_of(sample.request->request, sample.index, sample.tokens.size() + 1));
    entry.logits = builder_.add_found(entry.logits.first, static_cast<std::int64_t>(sample.tokens.size()),
                                      pool_.blocks(*sample.sequence));
  }
  counts_.steps += 1;
  counts_.step_tokens += std::ssize(batch_);
  queue_batch();
}

void StepLoop::queue_batch() {
  const Status queued = [&]() -> Status {
    try {
      return runner_.queue(builder_.batch(), choices_);
    } catch (const std::exception& error) {
      return make_status(StatusCode::kAborted, "the step failed: {}", error.what());
    }
  }();
  if (queued.ok()) {
    queued_[static_cast<std::size_t>(queued_count_++)].swap(batch_);
  } else {
    std::vector<BatchEntry> failed;
    failed.swap(batch_);
    settle();  // the step before has tokens to give
    take_result(failed, queued);
  }
}

void StepLoop::finish_oldest() {
  const Result<StepResult> result = [&]() -> Result<StepResult> {
    try {
      return StepResult{nullptr, TD_TRY(runner_.take())};
    } catch (const std::exception& error) {
      return make_status(StatusCode::kAborted, "the step failed: {}", error.what());
    }
  }();
  // What ends while the result is taken is to be forgotten by the steps after it, not by this one.
  batch_.swap(queued_[0]);
  std::rotate(queued_.begin(), queued_.begin() + 1, queued_.end());
  queued_count_ -= 1;
  take_result(batch_, result);
}

void StepLoop::forget_queued(const Sample& sample) {
  for (int i = 0; i < queued_count_; ++i) {
    for (BatchEntry& entry : queued_[static_cast<std::size_t>(i)])
      if (entry.sample == &sample) entry.sample = nullptr;
  }
}

}  // namespace tandem::engine

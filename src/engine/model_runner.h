// The engine's view of a model: a forward over packed rows and the limits it was planned for. The transformer is one;
// tests and the simulator put a small deterministic function here instead.
// Threads: the engine's own thread.
#pragma once

#include <span>

#include "base/status.h"
#include "base/strong_id.h"
#include "model/forward_batch.h"
#include "tensor/tensor_view.h"

namespace tandem::engine {

struct RunnerLimits {
  std::int64_t vocab_size = 0;       // V
  std::int64_t context_tokens = 0;   // longest sequence, prompt and answer together
  std::int64_t blocks_count = 0;     // KV blocks in the pool
  int block_tokens = 0;              // P
  std::int64_t step_tokens_max = 0;  // T of one forward
  std::int64_t sequences_max = 0;    // B of one forward
  std::int64_t logit_rows_max = 0;   // N of one forward; at least sequences_max
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const RunnerLimits& limits() const = 0;
  // Runs one step; fills the KV cache at batch.slots and gives logits [N,V] f32, raw, for batch.logit_rows. N may be 0.
  // The batch's arrays and the logits are in host memory; the view is valid until the next call.
  // Errors: kDeviceLost, kAborted: the step did not happen, though slots of its rows may hold rubbish.
  [[nodiscard]] virtual Result<tensor::TensorView> forward(const model::ForwardBatch& batch) = 0;

  // A runner whose logits are far from the host may find the largest of each row where they are, and run a step while
  // the host is busy with the one before. queue_largest() has the same step run, and take_largest() gives what the
  // oldest step that was queued and not taken yet found: for each logit row the id of its largest logit, the lowest of
  // equals; -1 where a logit is NaN or +infinity, or all are -infinity. At most kQueuedStepsMax steps are queued; none
  // is when forward() is called. A token -1 - n of a queued step is what row n of the step queued before it found.
  // The batch's arrays are borrowed for the call. Errors: those of forward(), by either call; the step counts as taken,
  // and those queued after it hold rubbish.
  static constexpr int kQueuedStepsMax = 2;
  virtual bool finds_largest() const { return false; }
  [[nodiscard]] virtual Status queue_largest(const model::ForwardBatch&) {
    return invalid_argument("this runner does not find the largest logits");
  }
  // Valid until the next call.
  [[nodiscard]] virtual Result<std::span<const TokenId>> take_largest() {
    return invalid_argument("this runner does not find the largest logits");
  }
};

}  // namespace tandem::engine

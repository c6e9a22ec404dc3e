// The engine's view of a model: a forward over packed rows and the limits it was planned for. The transformer is one;
// tests and the simulator put a small deterministic function here instead.
// Threads: the engine's own thread.
#pragma once

#include <span>

#include "base/status.h"
#include "base/strong_id.h"
#include "kernels/sampling/choose.h"
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

  // A runner whose logits are far from the host may choose tokens where they are, and run a step while the host is busy
  // with the one before. queue() has the same step run, and a token chosen from each logit row as choices[row] says, of
  // which the runner chooses() each; take() gives the tokens of the oldest step that was queued and not taken yet, -1
  // where a logit is NaN or +infinity, or all are -infinity. At most kQueuedStepsMax steps are queued; none is when
  // forward() is called. A token -1 - n of a queued step is what row n of the step queued before it gave. All arrays
  // are borrowed for the call. A runner that does not choose the largest logit's token chooses none, and queues no
  // step. Errors: those of forward(), by either call; the step counts as taken, and those queued after it hold rubbish.
  static constexpr int kQueuedStepsMax = 2;
  virtual bool chooses(const kernels::TokenChoice&) const { return false; }
  [[nodiscard]] virtual Status queue(const model::ForwardBatch&, std::span<const kernels::TokenChoice>) {
    return invalid_argument("this runner does not choose tokens");
  }
  // Valid until the next call.
  [[nodiscard]] virtual Result<std::span<const kernels::ChosenToken>> take() {
    return invalid_argument("this runner does not choose tokens");
  }
};

}  // namespace tandem::engine

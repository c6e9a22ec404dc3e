// The transformer behind the engine: owns the KV cache and the step's workspace, both planned before anything is
// loaded. Threads: one at a time (the engine's own, once it runs).
#pragma once

#include <memory>
#include <optional>

#include "device/ledger.h"
#include "engine/model_runner.h"
#include "model/checkpoint/checkpoint.h"
#include "model/transformer.h"

namespace tandem::engine {

inline constexpr int kBlockTokens = 32;  // P: the grain of prefix reuse

struct RunnerOptions {
  std::optional<kernels::Compute> compute;  // absent: what the checkpoint is stored in
  int threads = 0;                          // 0: one per core
  std::int64_t kv_blocks = 0;               // 0: what sequences_max full contexts need, within a third of free memory
  std::int64_t context_tokens = 0;          // 0: the model's own
  std::int64_t step_tokens_max = 512;
  std::int64_t sequences_max = 64;
  std::int64_t logit_rows_max = 0;  // 0: sequences_max
};

// Everything decided before loading, and what it costs.
struct RunnerPlan {
  RunnerLimits limits;
  kernels::Compute compute = kernels::Compute::kF32;
  std::size_t workspace_bytes = 0;
  device::Ledger ledger;
};

class TransformerRunner final : public ModelRunner {
 public:
  // Decides limits and sizes. Touches no weights.
  // Errors: kInvalidArgument (a context beyond the model's), kResourceExhausted (it does not fit: names the largest
  // part).
  [[nodiscard]] static Result<RunnerPlan> plan(const model::Transformer& transformer, std::uint64_t weights_bytes,
                                               const RunnerOptions& options, device::Stream& stream);

  // `transformer` and `stream` are borrowed and outlive the runner. Errors: kResourceExhausted.
  [[nodiscard]] static Result<std::unique_ptr<TransformerRunner>> create(const model::Transformer& transformer,
                                                                         const RunnerPlan& plan,
                                                                         device::Stream& stream);

  const RunnerLimits& limits() const override { return limits_; }
  [[nodiscard]] Result<tensor::TensorView> forward(const model::ForwardBatch& batch) override;

 private:
  TransformerRunner(const model::Transformer& transformer, device::Stream& stream)
      : transformer_(transformer), stream_(stream) {}

  const model::Transformer& transformer_;
  device::Stream& stream_;
  RunnerLimits limits_;
  kernels::Compute compute_ = kernels::Compute::kF32;
  model::KvCache cache_;
  device::Arena workspace_;
};

}  // namespace tandem::engine

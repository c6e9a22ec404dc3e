// The transformer behind the engine: owns the KV cache and the step's workspace, both planned before anything is
// loaded. On CUDA it also owns the way there and back: a step's arrays go over in one copy, its logits come back in
// another, and steps in which every sequence brings one token are captured as graphs and launched again.
// Threads: one at a time (the engine's own, once it runs).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <tuple>

#include "device/ledger.h"
#include "device/memory.h"
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

  // `transformer` and `stream` are borrowed and outlive the runner; on CUDA the transformer is loaded there.
  // Errors: kResourceExhausted.
  [[nodiscard]] static Result<std::unique_ptr<TransformerRunner>> create(const model::Transformer& transformer,
                                                                         const RunnerPlan& plan,
                                                                         device::Stream& stream);

  const RunnerLimits& limits() const override { return limits_; }
  [[nodiscard]] Result<tensor::TensorView> forward(const model::ForwardBatch& batch) override;
  bool finds_largest() const override { return stream_.device().kind == device::DeviceKind::kCuda; }
  [[nodiscard]] Result<std::span<const TokenId>> forward_largest(const model::ForwardBatch& batch) override;

 private:
  // How a step's arrays lie one after another, in host and device memory alike. The block table comes last, its rows
  // `table_width` entries apart.
  struct StepLayout;

  TransformerRunner(const model::Transformer& transformer, device::Stream& stream)
      : transformer_(transformer), stream_(stream) {}
  [[nodiscard]] Status create_step_memory();
  [[nodiscard]] Result<tensor::TensorView> run(const model::ForwardBatch& batch);
  // Runs the batch, whose arrays are on the device, and brings its logits, or their largest, into results_on_host_.
  [[nodiscard]] Status queue_step(const model::ForwardBatch& batch, bool largest_only);
  [[nodiscard]] Status forward_on_cuda(const model::ForwardBatch& batch, bool largest_only);

  const model::Transformer& transformer_;
  device::Stream& stream_;
  RunnerLimits limits_;
  kernels::Compute compute_ = kernels::Compute::kF32;
  model::KvCache cache_;
  device::Arena workspace_;

  // On CUDA.
  std::int64_t table_width_ = 0;
  device::Memory step_on_host_, step_on_device_, results_on_host_, largest_on_device_;
  // By sequences, logit rows, and whether only the largest are wanted.
  std::map<std::tuple<std::int64_t, std::int64_t, bool>, device::Graph> captured_;
};

}  // namespace tandem::engine

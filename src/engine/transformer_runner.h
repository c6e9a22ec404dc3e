// The transformer behind the engine: owns the KV cache and the step's workspace, both planned before anything is
// loaded. On CUDA it also owns the way there and back: a step's arrays go over while another step runs, logits or the
// tokens chosen from them come back, and steps of up to 64 sequences that bring one token each are launched as graphs
// once they have come a few times (step_graphs.h). It chooses tokens there in any way on Hopper, elsewhere the largest
// logit's without log-probabilities. Threads: one at a time (the engine's own, once it runs; idle times may be asked
// for between requests).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "device/ledger.h"
#include "device/memory.h"
#include "engine/model_runner.h"
#include "engine/step_graphs.h"
#include "model/checkpoint/checkpoint.h"
#include "model/transformer.h"

namespace tandem::engine {

inline constexpr int kBlockTokens = 32;  // P: the grain of prefix reuse

struct RunnerOptions {
  std::optional<kernels::Compute> compute;  // absent: what the checkpoint is stored in
  std::optional<tensor::DType> kv_dtype;    // f32, bf16 or e4m3; absent: what `compute` needs
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
  tensor::DType kv_dtype = tensor::DType::kF32;
  std::size_t workspace_bytes = 0;
  device::Ledger ledger;
};

class TransformerRunner final : public ModelRunner {
 public:
  // Decides limits and sizes. Touches no weights.
  // Errors: kInvalidArgument (a context beyond the model's, heads that attention does not take), kResourceExhausted (it
  // does not fit: names the largest part).
  [[nodiscard]] static Result<RunnerPlan> plan(const model::Transformer& transformer, std::uint64_t weights_bytes,
                                               const RunnerOptions& options, device::Stream& stream);

  // `transformer` and `stream` are borrowed and outlive the runner; on CUDA the transformer is loaded there.
  // Errors: kResourceExhausted.
  [[nodiscard]] static Result<std::unique_ptr<TransformerRunner>> create(const model::Transformer& transformer,
                                                                         const RunnerPlan& plan,
                                                                         device::Stream& stream);

  const RunnerLimits& limits() const override { return limits_; }
  [[nodiscard]] Result<tensor::TensorView> forward(const model::ForwardBatch& batch) override;
  bool chooses(const kernels::TokenChoice& choice) const override;
  [[nodiscard]] Status queue(const model::ForwardBatch& batch, std::span<const kernels::TokenChoice> choices) override;
  [[nodiscard]] Result<std::span<const kernels::ChosenToken>> take() override;

  // On CUDA: how long the device had no work of the runner's before a step, from the end of the step before to when
  // this one's arrays had arrived.
  struct IdleTime {
    std::int64_t tokens_count = 0;  // of the step
    float us = 0.0f;
  };
  // Of each step but the first that is queued while this is on; the events that it takes make a step 2 us longer.
  void time_idleness(bool is_on) { times_idleness_ = is_on; }
  std::vector<IdleTime> take_idle_times() { return std::exchange(idle_times_, {}); }  // and forgets them

 private:
  // How a step's arrays lie one after another, in host and device memory alike. The block table comes last, its rows
  // `table_width` entries apart.
  struct StepLayout;
  // What a step gives: its logits, or tokens, either from the kernel that only finds the largest or from the other.
  enum class Gives : std::uint8_t { kLogits, kLargest, kChosen };
  // Of a step on CUDA: its arrays here and there, the tokens chosen here and there. Steps take the slots in turn.
  struct Slot {
    device::Memory on_host, on_device, ids_on_device, chosen_on_host;
    device::Event arrived;  // its arrays, there
    device::Event done;
    std::int64_t tokens_count = 0, rows_count = 0;
  };
  struct Span {  // of a step's work in the device's time
    device::Event begin, end;
    bool is_timed = false;
  };

  TransformerRunner(const model::Transformer& transformer, device::Stream& stream)
      : transformer_(transformer), stream_(stream) {}
  static std::size_t step_arrays_bytes(const RunnerLimits& limits);
  [[nodiscard]] Status create_slots();
  [[nodiscard]] Result<tensor::TensorView> run(const model::ForwardBatch& batch);
  // The ids that a slot's step chooses, on the device.
  tensor::TensorView ids_of(const Slot& slot, std::int64_t rows) const;
  // Queues the batch on the next slot.
  [[nodiscard]] Status queue_step(const model::ForwardBatch& batch, Gives gives,
                                  std::span<const kernels::TokenChoice> choices);
  // The part of it that can be captured; its batch and choices are on the device.
  [[nodiscard]] Status queue_forward(model::ForwardBatch batch, Gives gives,
                                     std::span<const kernels::TokenChoice> choices, std::size_t slot);
  // Waits for the oldest step.
  [[nodiscard]] Result<const Slot*> take_slot();

  const model::Transformer& transformer_;
  device::Stream& stream_;
  RunnerLimits limits_;
  kernels::Compute compute_ = kernels::Compute::kF32;
  model::KvCache cache_;
  device::Arena workspace_;

  // On CUDA.
  bool chooses_all_ = false;
  std::uint64_t queued_steps_ = 0, taken_steps_ = 0;  // ever
  std::unique_ptr<device::Stream> copies_;            // on which a step's arrays go over while another step runs
  std::array<Slot, kQueuedStepsMax> slots_;           // of step n: n modulo their count; and so the spans
  std::array<Span, kQueuedStepsMax + 1> spans_;       // one more, for the idle time before the oldest step
  device::Memory logits_on_host_;
  bool times_idleness_ = false;
  std::vector<IdleTime> idle_times_;
  StepGraphs<device::Graph> graphs_;
};

}  // namespace tandem::engine

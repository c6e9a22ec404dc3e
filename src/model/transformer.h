// The decoder-only transformer: one forward for every architecture, written over differentiable ops.
//
// Serving runs it without a tape, training with one; precision, device and parallelism are properties of what it is
// given, never another definition. Each row's logits depend on its own sequence only (ARCHITECTURE.md, rule 2).
// Threads: one forward at a time. Weights are borrowed: the checkpoint outlives the transformer, or load_on_device().
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "device/memory.h"
#include "model/checkpoint/device_weights.h"
#include "model/checkpoint/weights.h"
#include "model/config/model_config.h"
#include "model/forward_batch.h"
#include "model/kv_cache.h"
#include "ops/ops.h"
#include "tensor/tensor.h"

namespace tandem::model {

// How the products are taken unless the caller says otherwise: bf16 for checkpoints stored in bf16, f32 for the rest
// (f16 has bits that bf16 would drop).
kernels::Compute default_compute(const ModelWeights& weights);

// What the cache holds under each, unless the caller says otherwise: bf16 products need no more than bf16 keys and
// values.
tensor::DType kv_dtype(kernels::Compute compute);

class Transformer {
 public:
  // `context_tokens` is the longest sequence that will be run; frequencies that depend on it are fixed by it.
  [[nodiscard]] static Result<Transformer> create(ModelConfig config, ModelWeights weights,
                                                  std::int64_t context_tokens);

  // Copies the weights to the stream's device, a CUDA device, and runs there from now on. Once.
  // Errors: kResourceExhausted, kDeviceLost; the transformer is as before.
  [[nodiscard]] Status load_on_device(kernels::Compute compute, device::Stream& stream, ThreadPool& threads,
                                      const std::function<void(std::uint64_t)>& on_progress = {});

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  KvScales kv_scales() const;  // the checkpoint's

  // Runs the batch, appends its keys and values to `cache`, returns the logits [N,V] f32 of batch.logit_rows. The
  // logits live in the context's arena. Errors: kInvalidArgument (ids outside the vocabulary, shapes), kAborted.
  [[nodiscard]] Result<tensor::TensorView> forward(ops::Context& context, const ForwardBatch& batch,
                                                   const KvCache& cache, ops::Tape* tape) const;

  // Arena bytes that a forward of at most T tokens in B sequences of at most `context` tokens with at most N logit rows
  // takes, with a cache of `kv`.
  [[nodiscard]] Result<std::size_t> workspace_bytes(std::int64_t T, std::int64_t B, std::int64_t context,
                                                    std::int64_t N, device::Stream& stream, kernels::Compute compute,
                                                    tensor::DType kv) const;

 private:
  struct RopeFrequencies {
    tensor::Tensor on_host;       // [R/2] f32
    device::Memory on_device;     // the same, after load_on_device()
    tensor::TensorView inv_freq;  // that of the two where the forward runs
    float attention_factor;
  };

  Transformer() = default;
  [[nodiscard]] Result<tensor::TensorView> run_attention(ops::Context& context, std::int64_t layer,
                                                         tensor::TensorView x, const ForwardBatch& batch,
                                                         const KvCache& cache,
                                                         const std::vector<ops::RopeTable>& tables, std::int64_t spared,
                                                         ops::Tape* tape) const;
  [[nodiscard]] Result<tensor::TensorView> run_mlp(ops::Context& context, std::int64_t layer, tensor::TensorView x,
                                                   ops::Tape* tape) const;
  [[nodiscard]] Result<tensor::TensorView> norm(ops::Context& context, tensor::TensorView x, tensor::TensorView weight,
                                                ops::Tape* tape) const;

  ModelConfig config_;
  ModelWeights weights_;
  std::vector<RopeFrequencies> frequencies_;  // one per ModelConfig::ropes
  DeviceWeights on_device_;                   // after load_on_device()
};

}  // namespace tandem::model

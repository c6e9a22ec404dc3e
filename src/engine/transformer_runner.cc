#include "engine/transformer_runner.h"

#include <algorithm>

namespace tandem::engine {

using device::bytes_text;

Result<RunnerPlan> TransformerRunner::plan(const model::Transformer& transformer, std::uint64_t weights_bytes,
                                           const RunnerOptions& options, device::Stream& stream) {
  const model::ModelConfig& config = transformer.config();
  RunnerPlan plan;
  plan.compute = options.compute.value_or(model::default_compute(transformer.weights()));
  if (options.context_tokens > config.context) {
    return invalid_argument("--context {} is beyond the model's {} positions; lower it", options.context_tokens,
                            config.context);
  }
  RunnerLimits& limits = plan.limits;
  limits.vocab_size = config.V;
  limits.context_tokens = options.context_tokens > 0 ? options.context_tokens : config.context;
  limits.block_tokens = kBlockTokens;
  limits.sequences_max = options.sequences_max;
  limits.step_tokens_max = std::max(options.step_tokens_max, options.sequences_max);
  limits.logit_rows_max = std::max(options.logit_rows_max, options.sequences_max);
  plan.workspace_bytes = TD_TRY(transformer.workspace_bytes(limits.step_tokens_max, limits.sequences_max,
                                                            limits.logit_rows_max, stream, plan.compute));

  const std::uint64_t available = device::available_memory_bytes();
  const std::uint64_t block_bytes = model::kv_block_bytes(config, model::kv_dtype(plan.compute), kBlockTokens);
  const std::int64_t context_blocks = (limits.context_tokens + kBlockTokens - 1) / kBlockTokens;
  if (options.kv_blocks > 0) {
    limits.blocks_count = options.kv_blocks;
  } else {
    const auto affordable = static_cast<std::int64_t>(available / 3 / block_bytes);
    limits.blocks_count = std::max<std::int64_t>(1, std::min(context_blocks * limits.sequences_max, affordable));
  }
  std::uint64_t cache_bytes = 0;
  if (__builtin_mul_overflow(block_bytes, static_cast<std::uint64_t>(limits.blocks_count), &cache_bytes)) {
    return resource_exhausted("--kv-blocks {}: {} each do not fit any memory; lower it", limits.blocks_count,
                              bytes_text(block_bytes));
  }

  plan.ledger.add({"weights", weights_bytes, "mapped from the checkpoint", true});
  plan.ledger.add({"KV cache", cache_bytes,
                   fmt::format("{} blocks of {} tokens, {} each (--kv-blocks)", limits.blocks_count, kBlockTokens,
                               bytes_text(block_bytes))});
  plan.ledger.add({"step workspace", plan.workspace_bytes,
                   fmt::format("{} tokens, {} sequences a step (--step-tokens, --sequences)", limits.step_tokens_max,
                               limits.sequences_max)});
  TD_TRY(plan.ledger.check_fits(available));
  return plan;
}

Result<std::unique_ptr<TransformerRunner>> TransformerRunner::create(const model::Transformer& transformer,
                                                                     const RunnerPlan& plan, device::Stream& stream) {
  std::unique_ptr<TransformerRunner> runner(new TransformerRunner(transformer, stream));
  runner->limits_ = plan.limits;
  runner->compute_ = plan.compute;
  runner->cache_ = TD_TRY(model::KvCache::create(transformer.config(), model::kv_dtype(plan.compute),
                                                 plan.limits.blocks_count, plan.limits.block_tokens, stream.device()));
  runner->workspace_ = TD_TRY(device::Arena::create(stream.device(), plan.workspace_bytes));
  return runner;
}

Result<tensor::TensorView> TransformerRunner::forward(const model::ForwardBatch& batch) {
  const device::Arena::Scope scope(workspace_);  // the logits stay readable until the next step takes their place
  ops::Context context{stream_, workspace_, compute_};
  return transformer_.forward(context, batch, cache_, nullptr);
}

}  // namespace tandem::engine

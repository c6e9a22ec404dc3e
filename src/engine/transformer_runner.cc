#include "engine/transformer_runner.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "kernels/attention/attention.h"
#include "kernels/sampling/choose.h"
#include "kernels/sampling/largest.h"

namespace tandem::engine {

using device::bytes_text;
using kernels::ChosenToken;
using kernels::TokenChoice;

struct TransformerRunner::StepLayout {
  StepLayout(std::int64_t T, std::int64_t B, std::int64_t N) {
    const auto place = [this](std::int64_t count, std::size_t bytes) {
      constexpr std::size_t kAlignment = 256;
      const std::size_t at = end;
      end += (static_cast<std::size_t>(count) * bytes + kAlignment - 1) / kAlignment * kAlignment;
      return at;
    };
    tokens = place(T, 4);
    positions = place(T, 4);
    slots = place(T, 8);
    query_start = place(B + 1, 4);
    context_len = place(B, 4);
    logit_rows = place(N, 4);
    choices = place(N, sizeof(TokenChoice));
  }
  std::size_t tokens, positions, slots, query_start, context_len, logit_rows, choices, end = 0;
};

namespace {

constexpr std::int64_t kGraphRowsMax = 64;

// CUDA's own switch for finding the operation that fails: each launch then waits for its kernel. A graph would hide it.
bool launches_wait() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string_view(value) == "1";
}

// Device memory that captured steps may take, and with them the kernels' code, loaded as it is first used. Measured
// (docs/performance.md): 120 KiB each and 20 KiB a layer, 26 with experts; some models' layers have more launches.
std::uint64_t captured_steps_bytes(const model::ModelConfig& config) {
  constexpr std::uint64_t kGraph = 128 << 10, kLayer = 40 << 10;
  return StepGraphs<device::Graph>::kGraphsMax * (kGraph + static_cast<std::uint64_t>(config.L) * kLayer);
}

std::int64_t table_width(const RunnerLimits& limits) {
  return std::min((limits.context_tokens + limits.block_tokens - 1) / limits.block_tokens, limits.blocks_count);
}
std::size_t ids_bytes(const RunnerLimits& limits) {
  return static_cast<std::size_t>(limits.logit_rows_max) * sizeof(TokenId);
}
constexpr std::int64_t kFewRows = 32;  // for which the kernel that chooses in any way is also faster at the largest
bool is_largest(const TokenChoice& choice) {
  return choice.temperature == 0.0f && choice.logprob == kernels::ChoiceLogprob::kNone;
}

}  // namespace

std::size_t TransformerRunner::step_arrays_bytes(const RunnerLimits& limits) {
  return StepLayout(limits.step_tokens_max, limits.sequences_max, limits.logit_rows_max).end +
         static_cast<std::size_t>(limits.sequences_max * table_width(limits)) * 4;
}

Result<RunnerPlan> TransformerRunner::plan(const model::Transformer& transformer, std::uint64_t weights_bytes,
                                           const RunnerOptions& options, device::Stream& stream) {
  const model::ModelConfig& config = transformer.config();
  RunnerPlan plan;
  plan.compute = options.compute.value_or(model::default_compute(transformer.weights()));
  plan.kv_dtype = options.kv_dtype.value_or(model::kv_dtype(plan.compute));
  if (options.context_tokens > config.context) {
    return invalid_argument("--context {} is beyond the model's {} positions; lower it", options.context_tokens,
                            config.context);
  }
  const bool on_cuda = stream.device().kind == device::DeviceKind::kCuda;
  if (config.D % 8 != 0 || (on_cuda && config.D > kernels::kAttentionCudaWidthMax)) {
    return invalid_argument("heads of {} numbers: attention takes multiples of 8, on CUDA up to {}; use another model",
                            config.D, kernels::kAttentionCudaWidthMax);
  }
  RunnerLimits& limits = plan.limits;
  limits.vocab_size = config.V;
  limits.context_tokens = options.context_tokens > 0 ? options.context_tokens : config.context;
  limits.block_tokens = kBlockTokens;
  limits.sequences_max = options.sequences_max;
  limits.step_tokens_max = std::max(options.step_tokens_max, options.sequences_max);
  limits.logit_rows_max = std::max(options.logit_rows_max, options.sequences_max);
  const std::int64_t context_blocks = (limits.context_tokens + kBlockTokens - 1) / kBlockTokens;
  plan.workspace_bytes =
      TD_TRY(transformer.workspace_bytes(limits.step_tokens_max, limits.sequences_max, context_blocks * kBlockTokens,
                                         limits.logit_rows_max, stream, plan.compute, plan.kv_dtype));

  if (on_cuda && options.sequences_max > kernels::kAttentionCudaSequencesMax) {
    return invalid_argument("--sequences {}: attention on CUDA takes at most {} at once; lower it",
                            options.sequences_max, kernels::kAttentionCudaSequencesMax);
  }
  if (on_cuda && options.step_tokens_max > kernels::kAttentionCudaFastTokensMax) {  // else bits depend on a step's size
    return invalid_argument("--step-tokens {}: attention on CUDA takes at most {} at once; lower it",
                            options.step_tokens_max, kernels::kAttentionCudaFastTokensMax);
  }
  const std::uint64_t available =
      on_cuda ? TD_TRY(device::cuda_free_memory_bytes(stream.device().index)) : device::available_memory_bytes();
  if (on_cuda) weights_bytes = model::DeviceWeights::bytes(transformer.weights(), plan.compute);
  const std::size_t found_bytes = kernels::largest_cuda_scratch_bytes(limits.logit_rows_max) + ids_bytes(limits);
  const std::uint64_t arrays_bytes = on_cuda ? kQueuedStepsMax * (step_arrays_bytes(limits) + found_bytes) : 0;
  const std::uint64_t graphs_bytes = on_cuda ? captured_steps_bytes(config) : 0;
  // Of a machine's memory a third; of a device's, which has nothing else to do, nine tenths of what the rest leaves.
  const std::uint64_t taken = weights_bytes + plan.workspace_bytes + arrays_bytes + graphs_bytes;
  const std::uint64_t for_cache = !on_cuda ? available / 3 : available > taken ? (available - taken) / 10 * 9 : 0;
  const std::uint64_t block_bytes = model::kv_block_bytes(config, plan.kv_dtype, kBlockTokens);
  if (options.kv_blocks > 0) {
    limits.blocks_count = options.kv_blocks;
  } else {
    const auto affordable = static_cast<std::int64_t>(for_cache / block_bytes);
    limits.blocks_count = std::max<std::int64_t>(1, std::min(context_blocks * limits.sequences_max, affordable));
  }
  std::uint64_t cache_bytes = 0;
  if (__builtin_mul_overflow(block_bytes, static_cast<std::uint64_t>(limits.blocks_count), &cache_bytes)) {
    return resource_exhausted("--kv-blocks {}: {} each do not fit any memory; lower it", limits.blocks_count,
                              bytes_text(block_bytes));
  }

  if (on_cuda) {
    plan.ledger.add({"weights", weights_bytes, fmt::format("copied to {}", device::to_string(stream.device()))});
  } else {
    plan.ledger.add({"weights", weights_bytes, "mapped from the checkpoint", true});
  }
  plan.ledger.add({"KV cache", cache_bytes,
                   fmt::format("{} blocks of {} tokens of {}, {} each (--kv-blocks, --kv-dtype)", limits.blocks_count,
                               kBlockTokens, tensor::dtype_name(plan.kv_dtype), bytes_text(block_bytes))});
  plan.ledger.add({"step workspace", plan.workspace_bytes,
                   fmt::format("{} tokens, {} sequences a step (--step-tokens, --sequences)", limits.step_tokens_max,
                               limits.sequences_max)});
  if (on_cuda) {
    plan.ledger.add({"step arrays", arrays_bytes, "of two steps: token ids, slots, block tables, choices"});
    plan.ledger.add({"captured steps", graphs_bytes,
                     fmt::format("at most {} of up to {} sequences", StepGraphs<device::Graph>::kGraphsMax,
                                 std::min(kGraphRowsMax, limits.sequences_max))});
  }
  TD_TRY(plan.ledger.check_fits(available));
  return plan;
}

Result<std::unique_ptr<TransformerRunner>> TransformerRunner::create(const model::Transformer& transformer,
                                                                     const RunnerPlan& plan, device::Stream& stream) {
  std::unique_ptr<TransformerRunner> runner(new TransformerRunner(transformer, stream));
  runner->limits_ = plan.limits;
  runner->compute_ = plan.compute;
  runner->cache_ = TD_TRY(model::KvCache::create(transformer.config(), plan.kv_dtype, plan.limits.blocks_count,
                                                 plan.limits.block_tokens, transformer.kv_scales(), stream));
  runner->workspace_ = TD_TRY(device::Arena::create(stream.device(), plan.workspace_bytes));
  if (stream.device().kind == device::DeviceKind::kCuda) TD_TRY(runner->create_slots());
  return runner;
}

Status TransformerRunner::create_slots() {
  const std::size_t bytes = step_arrays_bytes(limits_);
  const std::int64_t N = limits_.logit_rows_max;
  const device::Device device = stream_.device();
  chooses_all_ =
      TD_TRY(device::cuda_compute_capability(device.index)) == 90 && limits_.vocab_size <= kernels::kChooseVocabMax;
  if (launches_wait()) graphs_.stop();
  copies_ = TD_TRY(device::Stream::create_cuda(device.index));
  for (Slot& slot : slots_) {
    slot.on_host = TD_TRY(device::Memory::create_pinned(bytes));
    slot.on_device = TD_TRY(device::Memory::create(device, bytes));
    slot.ids_on_device =
        TD_TRY(device::Memory::create(device, kernels::largest_cuda_scratch_bytes(N) + ids_bytes(limits_)));
    slot.chosen_on_host = TD_TRY(device::Memory::create_pinned(static_cast<std::size_t>(N) * sizeof(ChosenToken)));
    slot.arrived = TD_TRY(device::Event::create(device));
    slot.done = TD_TRY(device::Event::create(device));
  }
  for (Span& span : spans_) {
    span.begin = TD_TRY(device::Event::create(device, /*is_timed=*/true));
    span.end = TD_TRY(device::Event::create(device, /*is_timed=*/true));
  }
  logits_on_host_ = TD_TRY(device::Memory::create_pinned(static_cast<std::size_t>(N * limits_.vocab_size) * 4));
  return ok_status();
}

Result<tensor::TensorView> TransformerRunner::forward(const model::ForwardBatch& batch) {
  if (stream_.device().kind == device::DeviceKind::kCpu) return run(batch);
  TD_TRY(queue_step(batch, Gives::kLogits, {}));
  TD_TRY(take_slot());
  return tensor::TensorView(logits_on_host_.data(), tensor::DType::kF32,
                            tensor::Shape{batch.logit_rows.extent(0), limits_.vocab_size});
}

bool TransformerRunner::chooses(const TokenChoice& choice) const {
  return stream_.device().kind == device::DeviceKind::kCuda && (chooses_all_ || is_largest(choice));
}

Status TransformerRunner::queue(const model::ForwardBatch& batch, std::span<const TokenChoice> choices) {
  TD_CHECK(std::ssize(choices) == batch.logit_rows.count() &&
               std::ranges::all_of(choices, [&](const auto& choice) { return chooses(choice); }),
           choices.size());
  const bool all_largest = std::ranges::all_of(choices, is_largest);
  const bool has_few = std::ssize(choices) <= kFewRows && chooses_all_;
  return queue_step(batch, all_largest && !has_few ? Gives::kLargest : Gives::kChosen, choices);
}

Result<std::span<const ChosenToken>> TransformerRunner::take() {
  const Slot& slot = *TD_TRY(take_slot());
  return std::span(static_cast<const ChosenToken*>(slot.chosen_on_host.data()),
                   static_cast<std::size_t>(slot.rows_count));
}

Result<const TransformerRunner::Slot*> TransformerRunner::take_slot() {
  TD_CHECK(taken_steps_ < queued_steps_, taken_steps_);
  const std::uint64_t step = taken_steps_++;
  Slot& slot = slots_[step % slots_.size()];
  TD_TRY(slot.done.wait());
  const Span& span = spans_[step % spans_.size()];
  const Span& before = spans_[(step + spans_.size() - 1) % spans_.size()];
  if (span.is_timed && before.is_timed) {
    idle_times_.push_back({slot.tokens_count, TD_TRY(device::Event::microseconds_between(before.end, span.begin))});
  }
  return &slot;
}

Status TransformerRunner::queue_step(const model::ForwardBatch& batch, Gives gives,
                                     std::span<const TokenChoice> choices) {
  using tensor::TensorView;
  TD_CHECK(queued_steps_ - taken_steps_ < slots_.size(), queued_steps_, taken_steps_);
  TD_TRY(stream_.make_current());
  const std::size_t index = queued_steps_ % slots_.size();
  Slot& slot = slots_[index];
  Span& span = spans_[queued_steps_ % spans_.size()];
  const std::int64_t T = batch.tokens.extent(0), B = batch.context_len.extent(0), N = batch.logit_rows.extent(0);
  slot.tokens_count = T;
  slot.rows_count = N;
  const StepLayout layout(T, B, N);
  // In powers of two, so that few graphs serve all lengths.
  const auto contexts = std::span(batch.context_len.as<const std::int32_t>(), static_cast<std::size_t>(B));
  const auto longest = static_cast<std::uint64_t>(B > 0 ? *std::ranges::max_element(contexts) : 0);
  const auto context_max = static_cast<std::int64_t>(std::bit_ceil(std::max<std::uint64_t>(longest, 1024)));
  std::byte* const host = slot.on_host.span().data();
  std::byte* const device = slot.on_device.span().data();
  const auto stage = [&](const TensorView& view, std::size_t at) {
    std::memcpy(host + at, view.data(), static_cast<std::size_t>(view.bytes()));
    return TensorView(device + at, view.dtype(), view.shape(), stream_.device());
  };
  model::ForwardBatch staged{
      stage(batch.tokens, layout.tokens),
      stage(batch.positions, layout.positions),
      stage(batch.slots, layout.slots),
      stage(batch.query_start, layout.query_start),
      stage(batch.context_len, layout.context_len),
      TensorView(device + layout.end, tensor::DType::kI32, tensor::Shape{B, table_width(limits_)}, stream_.device()),
      stage(batch.logit_rows, layout.logit_rows),
      context_max};
  std::ranges::copy(choices, reinterpret_cast<TokenChoice*>(host + layout.choices));
  const std::span choices_there(reinterpret_cast<const TokenChoice*>(device + layout.choices), choices.size());
  const auto width_bytes = static_cast<std::size_t>(batch.block_table.extent(1)) * 4;
  const std::size_t table_bytes = static_cast<std::size_t>(B) * width_bytes;
  std::memcpy(host + layout.end, batch.block_table.data(), table_bytes);
  TD_TRY(device::copy(device, host, layout.end, *copies_));
  TD_TRY(device::copy_rows(device + layout.end, static_cast<std::size_t>(table_width(limits_)) * 4, host + layout.end,
                           width_bytes, width_bytes, static_cast<std::size_t>(B), *copies_));
  TD_TRY(slot.arrived.record(*copies_));
  TD_TRY(stream_.wait_for(slot.arrived));

  span.is_timed = times_idleness_;
  if (span.is_timed) TD_TRY(span.begin.record(stream_));
  const auto queue_all = [&] { return queue_forward(staged, gives, choices_there, index); };
  const auto launch = [&](device::Graph& graph) -> Status {
    if (!graph) graph = TD_TRY(device::Graph::capture(stream_, queue_all));
    return graph.launch(stream_);
  };
  device::Graph* const graph =
      T == B && T <= kGraphRowsMax ? graphs_.use({B, N, context_max, static_cast<int>(gives), index}) : nullptr;
  Status queued = graph != nullptr ? launch(*graph) : queue_all();
  if (graph != nullptr && queued.code() == StatusCode::kResourceExhausted) {  // then without graphs, from now on
    graphs_.stop();
    queued = queue_all();
  }
  TD_TRY(queued);
  if (span.is_timed) TD_TRY(span.end.record(stream_));
  TD_TRY(slot.done.record(stream_));
  queued_steps_ += 1;
  return ok_status();
}

tensor::TensorView TransformerRunner::ids_of(const Slot& slot, std::int64_t rows) const {
  const std::size_t scratch_bytes = kernels::largest_cuda_scratch_bytes(limits_.logit_rows_max);
  return tensor::TensorView(const_cast<std::byte*>(slot.ids_on_device.span().data()) + scratch_bytes,
                            tensor::DType::kI32, tensor::Shape{rows}, stream_.device());
}

Status TransformerRunner::queue_forward(model::ForwardBatch batch, Gives gives, std::span<const TokenChoice> choices,
                                        std::size_t index) {
  using tensor::TensorView;
  Slot& slot = slots_[index];
  if (gives != Gives::kLogits) {
    const Slot& before = slots_[(index + slots_.size() - 1) % slots_.size()];
    batch.found = ids_of(before, limits_.logit_rows_max);
  }
  const TensorView logits = TD_TRY(run(batch));
  const std::int64_t N = logits.extent(0);
  if (gives == Gives::kLogits) {
    return device::copy(logits_on_host_.data(), logits.data(), static_cast<std::size_t>(logits.bytes()), stream_);
  }
  if (N == 0) return ok_status();
  const TensorView ids = ids_of(slot, N);
  const std::span chosen(static_cast<ChosenToken*>(slot.chosen_on_host.data()), static_cast<std::size_t>(N));
  if (gives == Gives::kChosen) return kernels::choose_tokens_cuda(logits, choices, ids, chosen, stream_);
  return kernels::largest_cuda(logits, ids, chosen, slot.ids_on_device.span(), stream_);
}

Result<tensor::TensorView> TransformerRunner::run(const model::ForwardBatch& batch) {
  const device::Arena::Scope scope(workspace_);  // the logits stay readable until the next step takes their place
  ops::Context context{stream_, workspace_, compute_};
  return transformer_.forward(context, batch, cache_, nullptr);
}

}  // namespace tandem::engine

#include "engine/step_loop.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/check.h"

namespace tandem::engine {
namespace {

Limits limits_of(const RunnerLimits& limits) {
  return {.step_tokens_max = limits.step_tokens_max,
          .sequences_max = limits.sequences_max,
          .logit_rows_max = limits.logit_rows_max,
          .blocks_count = limits.blocks_count,
          .block_tokens = limits.block_tokens};
}

}  // namespace

StepLoop::StepLoop(const EngineConfig& config, ModelRunner& runner, const model::Tokenizer* tokenizer,
                   const Clock& clock)
    : config_(config),
      runner_(runner),
      tokenizer_(tokenizer),
      clock_(clock),
      runner_limits_(runner.limits()),
      limits_(limits_of(runner_limits_)),
      sequence_tokens_max_(
          std::min(runner_limits_.context_tokens, runner_limits_.blocks_count * runner_limits_.block_tokens + 1)),
      pool_({.blocks_count = runner_limits_.blocks_count,
             .block_tokens = runner_limits_.block_tokens,
             .sequences_max = runner_limits_.sequences_max,
             .sequence_tokens_max = runner_limits_.context_tokens}),
      sampler_(runner_limits_.vocab_size),
      builder_(runner_limits_) {
  const auto sequences_max = static_cast<std::size_t>(limits_.sequences_max);
  // Ids that the model cannot give need no watching, and the sampler takes only those that it can.
  std::erase_if(config_.eos_token_ids, [&](TokenId id) { return id < 0 || id >= runner_limits_.vocab_size; });
  if (tokenizer_ != nullptr)
    constraints_ = std::make_unique<Constraints>(*tokenizer_, runner_limits_.vocab_size, config_.grammar_threads,
                                                 config_.grammar_cache_bytes);
  running_.reserve(sequences_max);
  running_rows_.reserve(sequences_max);
  running_samples_.reserve(sequences_max);
  batch_.reserve(sequences_max);
  choices_.reserve(static_cast<std::size_t>(limits_.logit_rows_max));
  for (std::vector<BatchEntry>& batch : queued_) batch.reserve(sequences_max);
}

void StepLoop::add(RequestId id, Request request, std::shared_ptr<EventSink> sink) {
  auto state = std::make_unique<RequestState>();
  state->id = id;
  state->request = std::move(request);
  state->sink = std::move(sink);
  const Request& asked = state->request;
  state->salt = config_.prefix_cache && asked.cache_prefix ? shared_salt(asked.cache_salt) : private_salt(id.value());
  if (asked.min_tokens > 0) {
    state->forbidden_ids = config_.eos_token_ids;
    state->forbidden_ids.insert(state->forbidden_ids.end(), asked.stop_token_ids.begin(), asked.stop_token_ids.end());
  }
  if (asked.grammar) {
    state->ending_ids = asked.stop_token_ids;
    if (!asked.ignore_eos)
      state->ending_ids.insert(state->ending_ids.end(), config_.eos_token_ids.begin(), config_.eos_token_ids.end());
    const std::vector<TokenId>& allowed = asked.sampling.allowed_token_ids;
    std::erase_if(state->ending_ids,
                  [&](TokenId token) { return !allowed.empty() && !std::ranges::count(allowed, token); });
  }
  state->samples.resize(static_cast<std::size_t>(asked.samples_count));
  state->unfinished_count = asked.samples_count;
  for (int i = 0; i < asked.samples_count; ++i) {
    Sample& sample = state->samples[static_cast<std::size_t>(i)];
    sample.request = state.get();
    sample.index = i;
    waiting_.emplace(sample.key(), &sample);
  }
  queued_requests_ += 1;
  const bool is_new = requests_.emplace(id, std::move(state)).second;
  TD_CHECK(is_new, id.value());
}

void StepLoop::cancel(RequestId id) {
  if (const auto found = requests_.find(id); found != requests_.end())
    end_request(*found->second, FinishReason::kCancelled, {});
}

void StepLoop::cancel_all() {
  while (!requests_.empty()) end_request(*requests_.begin()->second, FinishReason::kCancelled, {});
  settle();
}

void StepLoop::hold(RequestId id, bool held) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  for (Sample& sample : found->second->samples) {
    if (sample.finished) continue;
    if (!held) {
      if (held_.erase(sample.key()) > 0) waiting_.emplace(sample.key(), &sample);
      continue;
    }
    if (sample.sequence) give_blocks_back(sample);
    waiting_.erase(sample.key());
    held_.emplace(sample.key(), &sample);
  }
}

void StepLoop::set_weights_version(std::int64_t version) {
  settle();
  while (!running_.empty()) {
    Sample& sample = *running_.back();
    give_blocks_back(sample);
    waiting_.emplace(sample.key(), &sample);
  }
  // A prompt that was computed is computed again by sample 0 before the others share it.
  for (const auto& [id, request] : requests_) request->prompt_computed = false;
  pool_.flush();
  counts_.weights_version = version;
}

void StepLoop::end_expired() {
  const TimePoint now = clock_.now();
  std::vector<RequestState*> expired;
  for (const auto& [id, request] : requests_)
    if (request->request.deadline && *request->request.deadline <= now) expired.push_back(request.get());
  for (RequestState* request : expired) end_request(*request, FinishReason::kDeadline, {});
}

void StepLoop::give_blocks_back(Sample& sample) {
  forget_queued(sample);
  pool_.release(*sample.sequence);
  sample.sequence.reset();
  sample.computed_tokens = 0;
  std::erase(running_, &sample);
}

void StepLoop::step() {
  if (!held_.empty()) end_expired();
  const auto is_forgotten = [](const BatchEntry& entry) { return entry.sample == nullptr; };
  while (queued_count_ > 0 && std::ranges::all_of(queued_[0], is_forgotten)) finish_oldest();
  if (queued_count_ == 0) {
    if (!can_step()) return;
    plan_batch();
    if (batch_.empty()) return;
    if (!fill_choices()) {
      take_result(batch_, forward());
      return;
    }
    queue_batch();
  }
  if (queued_count_ == 1) queue_ahead();
  if (queued_count_ > 0) finish_oldest();
}

void StepLoop::plan_batch() {
  const TimePoint now = now_ = clock_.now();
  fill_state(now);
  plan_step({running_rows_, waiting_rows_, pool_.blocks_free()}, limits_, now, plan_);
  apply_ends_and_preemptions();
  assemble_batch();
  if (batch_.empty()) return;
  counts_.steps += 1;
  for (const BatchEntry& entry : batch_) counts_.step_tokens += entry.chunk_tokens;
}

void StepLoop::take_result(std::span<const BatchEntry> batch, const Result<StepResult>& result) {
  if (!result.ok()) {
    if (result.code() == StatusCode::kDeviceLost) counts_.device_lost = result.status();
    // A request with several samples in the batch is ended by the first of them.
    for (const BatchEntry& entry : batch)
      if (entry.sample != nullptr && !entry.sample->finished)
        end_request(*entry.sample->request, FinishReason::kError, result.status());
    return;
  }
  for (const BatchEntry& entry : batch) {
    if (entry.sample == nullptr) continue;
    Sample& sample = *entry.sample;
    sample.computed_tokens += entry.chunk_tokens;
    pool_.commit(*sample.sequence, sample.tokens, sample.computed_tokens);
    if (sample.index == 0 && sample.computed_tokens >= sample.request->prompt_tokens())
      sample.request->prompt_computed = true;
  }
  for (const BatchEntry& entry : batch)
    if (entry.sample != nullptr) take_logits(entry, *result);
}

SchedRow StepLoop::row_of(const Sample& sample) const {
  const RequestState& request = *sample.request;
  SchedRow row;
  row.key = sample.key();
  row.tokens_count = static_cast<std::int64_t>(sample.known_tokens().size());
  row.scored_begin = static_cast<std::int64_t>(request.prompt_logprobs.size());
  row.scored_end = request.scored_end(sample);
  row.deadline = request.request.deadline;
  return row;
}

// Tokens taken from the cache give no logits, so whoever scores its prompt computes it.
bool StepLoop::may_share(const Sample& sample) const { return !sample.request->scoring(sample); }

void StepLoop::fill_state(TimePoint now) {
  running_samples_ = running_;
  running_rows_.clear();
  const bool scarce = pool_.blocks_free() < static_cast<std::int64_t>(running_.size());
  for (const Sample* sample : running_) {
    SchedRow& row = running_rows_.emplace_back(row_of(*sample));
    row.computed_tokens = sample->computed_tokens;
    row.blocks = static_cast<std::int64_t>(pool_.blocks(*sample->sequence).size());
    if (scarce) row.blocks_exclusive = pool_.exclusive_blocks(*sample->sequence);
  }

  waiting_samples_.clear();
  waiting_rows_.clear();
  // The cache is asked only about rows that this step could admit.
  std::int64_t rows_left = limits_.sequences_max - static_cast<std::int64_t>(running_.size());
  std::int64_t tokens_left = limits_.step_tokens_max, blocks_left = pool_.blocks_free();
  for (const auto& [key, sample] : waiting_) {
    const RequestState& request = *sample->request;
    waiting_samples_.push_back(sample);
    SchedRow& row = waiting_rows_.emplace_back(row_of(*sample));
    row.waits_for_prompt = sample->index > 0 && !request.prompt_computed && !request.samples[0].finished;
    if (row.waits_for_prompt || reason_to_end(row, limits_, now) != Reason::kNone) continue;
    row.far_back = rows_left <= 0 || tokens_left <= 0 || blocks_left <= 0;
    if (row.far_back) continue;
    const BlockPool::Need need = pool_.probe(sample->known_tokens(), request.salt, may_share(*sample));
    row.computed_tokens = need.cached_tokens;
    row.blocks = need.blocks;
    rows_left -= 1;
    tokens_left -= row.tokens_count - row.computed_tokens;
    blocks_left -= row.blocks;
  }
}

void StepLoop::apply_ends_and_preemptions() {
  auto end_row = [&](Sample& sample, Reason reason) {
    if (reason == Reason::kDeadline) {
      end(sample, FinishReason::kDeadline);
    } else if (sample.generated_count() > 0) {
      end(sample, FinishReason::kLength);
    } else {
      end(sample, FinishReason::kError,
          resource_exhausted("a prompt of {} tokens needs {} KV blocks, there are {}: raise --kv-blocks",
                             sample.request->prompt_tokens(), pool_.blocks_for(sample.request->prompt_tokens()),
                             pool_.blocks_count()));
    }
  };
  for (std::size_t i = 0; i < plan_.waiting.size(); ++i)
    if (plan_.waiting[i].decision == Decision::kEnd) end_row(*waiting_samples_[i], plan_.waiting[i].reason);
  // From the last to the first: what is preempted last is evicted last.
  for (std::size_t i = plan_.running.size(); i-- > 0;) {
    Sample& sample = *running_samples_[i];
    if (plan_.running[i].decision == Decision::kEnd) {
      end_row(sample, plan_.running[i].reason);
    } else if (plan_.running[i].decision == Decision::kPreempt) {
      give_blocks_back(sample);
      waiting_.emplace(sample.key(), &sample);
      counts_.preemptions += 1;
    }
  }
}

void StepLoop::assemble_batch() {
  batch_.clear();
  std::int64_t table_blocks = 1;
  for (const StepPlan::BatchRow& planned : plan_.batch) {
    Sample& sample = planned.admitted ? *waiting_samples_[planned.index] : *running_samples_[planned.index];
    std::int64_t chunk = 0;
    if (planned.admitted) {
      // Rows before it may have evicted what the plan counted as cached; then it stays where it is for this step.
      if (!admit(sample)) continue;
      chunk = plan_.waiting[planned.index].chunk_tokens;
    } else {
      chunk = plan_.running[planned.index].chunk_tokens;
      const Status grown = pool_.grow(*sample.sequence, sample.computed_tokens + chunk);
      TD_CHECK(grown.ok(), grown.message());
    }
    const auto remaining = static_cast<std::int64_t>(sample.tokens.size()) - sample.computed_tokens;
    batch_.push_back({&sample, std::min(chunk, remaining), {}});
    table_blocks = std::max(table_blocks, static_cast<std::int64_t>(pool_.blocks(*sample.sequence).size()));
  }
  builder_.begin(table_blocks);
  for (BatchEntry& entry : batch_) {
    const Sample& sample = *entry.sample;
    entry.logits = builder_.add(
        sample.tokens, sample.computed_tokens, entry.chunk_tokens, pool_.blocks(*sample.sequence),
        static_cast<std::int64_t>(sample.request->prompt_logprobs.size()), sample.request->scored_end(sample));
  }
}

bool StepLoop::admit(Sample& sample) {
  RequestState& request = *sample.request;
  const Result<BlockPool::Reservation> reserved = pool_.reserve(sample.known_tokens(), request.salt, may_share(sample));
  if (!reserved.ok()) return false;
  sample.sequence = reserved->sequence;
  sample.computed_tokens = reserved->cached_tokens;
  if (sample.tokens.empty()) {
    sample.tokens = request.request.prompt;
    sample.cached_tokens = reserved->cached_tokens;
    counts_.prompt_tokens += request.prompt_tokens();
    counts_.cached_prompt_tokens += reserved->cached_tokens;
  }
  if (!request.admitted) {
    request.admitted = true;
    queued_requests_ -= 1;
  }
  if (sample.admitted == TimePoint()) sample.admitted = now_;
  if (request.request.grammar && !sample.constraint) sample.constraint = constraints_->start(request.request.grammar);
  waiting_.erase(sample.key());
  const auto place = std::ranges::lower_bound(running_, sample.key(), {}, &Sample::key);
  running_.insert(place, &sample);
  return true;
}

Result<StepLoop::StepResult> StepLoop::forward() {
  try {
    auto logits = TD_TRY(runner_.forward(builder_.batch()));
    const tensor::Shape expected{builder_.logit_rows_count(), runner_limits_.vocab_size};
    TD_CHECK(logits.shape() == expected || expected[0] == 0, logits.shape().to_string(), expected.to_string());
    return StepResult{expected[0] > 0 ? logits.as<const float>() : nullptr, {}};
  } catch (const std::exception& error) {
    return make_status(StatusCode::kAborted, "the step failed: {}", error.what());
  }
}

void StepLoop::end(Sample& sample, FinishReason reason, Status error, TokenEvent event) {
  RequestState& request = *sample.request;
  TD_CHECK(!sample.finished, request.id.value(), sample.index);
  if (sample.sequence) {
    give_blocks_back(sample);
  } else {
    waiting_.erase(sample.key());
    held_.erase(sample.key());
  }
  sample.finished = true;
  if (sample.text && !event.stop_string) event.text += sample.text->finish();
  event.finish = reason;
  event.error = std::move(error);
  send(sample, std::move(event));

  if (--request.unfinished_count > 0) return;
  if (!request.admitted) queued_requests_ -= 1;
  ended_.push_back(request.id);
  ended_states_.push_back(std::move(requests_.extract(request.id).mapped()));
}

void StepLoop::end_request(RequestState& request, FinishReason reason, const Status& error) {
  for (Sample& sample : request.samples)
    if (!sample.finished) end(sample, reason, error);
}

void StepLoop::send(Sample& sample, TokenEvent event) {
  const RequestState& request = *sample.request;
  event.request = request.id;
  event.tag = request.request.tag;
  event.sample = sample.index;
  event.weights_version = counts_.weights_version;
  event.admitted = sample.admitted;
  event.cached_tokens = sample.cached_tokens;
  if (!sample.heard_of) event.prompt_logprobs = request.prompt_logprobs;
  sample.heard_of = true;
  const auto [place, is_new] = delivery_of_.try_emplace(request.sink.get(), deliveries_.size());
  if (is_new) deliveries_.push_back({request.sink, {}});
  deliveries_[place->second].events.push_back(std::move(event));
}

void StepLoop::deliver() {
  for (Delivery& delivery : deliveries_) delivery.sink->on_events(std::move(delivery.events));
  deliveries_.clear();
  delivery_of_.clear();
  ended_.clear();
  ended_states_.clear();
}

EngineStats StepLoop::stats() const {
  EngineStats stats = counts_;
  stats.held = static_cast<std::int64_t>(held_.size());
  stats.waiting = static_cast<std::int64_t>(waiting_.size()) + stats.held;
  stats.running = static_cast<std::int64_t>(running_.size());
  stats.blocks_free = pool_.blocks_free();
  stats.blocks_cached = pool_.blocks_cached();
  stats.blocks_count = pool_.blocks_count();
  return stats;
}

void StepLoop::check_invariants() const {
  pool_.check_invariants();
  std::size_t unfinished = 0, queued = 0;
  for (const auto& [id, request] : requests_) {
    std::int64_t of_request = 0;
    for (const Sample& sample : request->samples) {
      if (sample.finished) continue;
      of_request += 1;
      if (sample.sequence) {
        TD_CHECK(std::ranges::count(running_, &sample) == 1, id.value(), sample.index);
        TD_CHECK(sample.computed_tokens < static_cast<std::int64_t>(sample.tokens.size()), id.value(), sample.index);
      } else {
        TD_CHECK(waiting_.contains(sample.key()) != held_.contains(sample.key()), id.value(), sample.index);
        TD_CHECK(sample.computed_tokens == 0, id.value(), sample.index);
      }
    }
    TD_CHECK(of_request > 0 && of_request == request->unfinished_count, id.value(), of_request);
    unfinished += static_cast<std::size_t>(of_request);
    queued += !request->admitted;
  }
  TD_CHECK(unfinished == running_.size() + waiting_.size() + held_.size(), unfinished, running_.size(), waiting_.size(),
           held_.size());
  TD_CHECK(static_cast<std::int64_t>(queued) == queued_requests_, queued, queued_requests_);
  TD_CHECK(std::ranges::is_sorted(running_, {}, &Sample::key), running_.size());
}

}  // namespace tandem::engine

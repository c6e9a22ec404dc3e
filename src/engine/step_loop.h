// Everything the engine does on its own thread, without the thread: the simulator and tests drive it step by step.
//
// step(): plan rows, end and preempt, reserve blocks, run the model, commit, sample; then deliver() hands the events to
// their sinks. Between the two the caller can publish what happened, so that whoever hears a last event finds the
// request gone and its blocks free.
// Invariant: a request is in requests_ until its last sample is finished; its unfinished samples are each in running_
//            (with blocks), in waiting_ or in held_ (without).
// Threads: one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "engine/block_pool.h"
#include "engine/engine.h"
#include "engine/grammar/constraint.h"
#include "engine/model_runner.h"
#include "engine/request_state.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/step_builder.h"

namespace tandem::engine {

class StepLoop {
 public:
  // Borrows runner, tokenizer (may be null) and clock. The runner's limits must make sense: see Engine::create().
  StepLoop(const EngineConfig& config, ModelRunner& runner, const model::Tokenizer* tokenizer, const Clock& clock);

  // `request` was validated; ids rise with arrival.
  void add(RequestId id, Request request, std::shared_ptr<EventSink> sink);
  void cancel(RequestId id);  // unknown or ended: nothing
  void cancel_all();
  void hold(RequestId id, bool held);  // unknown or ended: nothing
  void flush_prefix_cache() { pool_.flush(); }
  // All samples give their blocks back, and compute their tokens again under the new weights.
  void set_weights_version(std::int64_t version);

  bool idle() const { return requests_.empty(); }
  // Else all that is left is held.
  bool can_step() const { return !running_.empty() || !waiting_.empty(); }
  // Ends with one step's tokens taken; the next step may be under way by then.
  void step();
  // Waits for what is under way and takes its tokens: afterwards nothing reads the weights.
  void settle();
  void end_expired();  // what step() does about deadlines, for times without steps
  // Requests that ended since the last deliver().
  std::span<const RequestId> ended() const { return ended_; }
  void deliver();

  EngineStats stats() const;
  std::int64_t queued_requests() const { return queued_requests_; }  // none of whose samples was ever admitted
  void check_invariants() const;

 private:
  struct BatchEntry {
    Sample* sample = nullptr;  // of a queued step: null once the sample has left running_
    std::int64_t chunk_tokens = 0;
    LogitRows logits;
  };
  struct Delivery {
    std::shared_ptr<EventSink> sink;
    std::vector<TokenEvent> events;
  };

  void fill_state(TimePoint now);
  SchedRow row_of(const Sample& sample) const;
  bool may_share(const Sample& sample) const;
  // Plans the next step into batch_, for which the builder then has the arrays.
  void plan_batch();
  // Queues the step after the only one queued, before anything is known of that one's tokens: for those of its samples
  // that will not have reached their length. Only if planning would have come to the same, whatever the tokens.
  void queue_ahead();
  bool may_queue_ahead() const;
  void queue_batch();
  void finish_oldest();
  void forget_queued(const Sample& sample);  // it takes no more tokens from steps that are queued
  bool will_be_full(const Sample& sample, std::int64_t more_tokens) const;
  void apply_ends_and_preemptions();
  void give_blocks_back(Sample& sample);  // of a running one, which leaves running_
  void assemble_batch();
  bool admit(Sample& sample);
  // What the choice of a sample's next token depends on, but for its grammar: see constrain().
  static SampleInput input_of(const Sample& sample);
  // Fills choices_ for the logit rows of batch_; false if the runner cannot choose the token of one of them, which
  // needs the logits or the tokens before it here.
  bool fill_choices();
  // What the step gives: rows of logits, or the tokens chosen from them.
  struct StepResult {
    const float* logits = nullptr;
    std::span<const kernels::ChosenToken> chosen;
  };
  Result<StepResult> forward();
  void take_result(std::span<const BatchEntry> batch, const Result<StepResult>& result);
  void take_logits(const BatchEntry& entry, const StepResult& result);
  void sample_token(Sample& sample, const float* logits);
  void take_token(Sample& sample, SampledToken sampled);
  // Lets the grammar of a sample restrict what is sampled; false if that ended the sample.
  bool constrain(Sample& sample, SampleInput& input);
  // Ends a sample with an event of its own, or with `event` if that is already under way.
  void end(Sample& sample, FinishReason reason, Status error = {}, TokenEvent event = {});
  void end_request(RequestState& request, FinishReason reason, const Status& error);
  void send(Sample& sample, TokenEvent event);

  EngineConfig config_;
  ModelRunner& runner_;
  const model::Tokenizer* const tokenizer_;
  const Clock& clock_;
  const RunnerLimits runner_limits_;
  const Limits limits_;
  const std::int64_t sequence_tokens_max_;  // prompt and answer: the context, or all blocks and one token beyond

  BlockPool pool_;
  Sampler sampler_;
  StepBuilder builder_;
  std::unique_ptr<Constraints> constraints_;  // null without a tokenizer
  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::vector<Sample*> running_;  // by rising key
  std::map<RowKey, Sample*> waiting_, held_;
  std::int64_t queued_requests_ = 0;

  // Of the step under way.
  TimePoint now_;
  std::vector<SchedRow> running_rows_, waiting_rows_;  // parallel to the next two
  std::vector<Sample*> running_samples_, waiting_samples_;
  StepPlan plan_;
  std::vector<BatchEntry> batch_;
  std::vector<kernels::TokenChoice> choices_;  // by logit row, if the runner is to choose
  // Steps that were queued and not taken yet, oldest first.
  std::array<std::vector<BatchEntry>, ModelRunner::kQueuedStepsMax> queued_;
  int queued_count_ = 0;

  // Of the steps since the last deliver().
  std::vector<Delivery> deliveries_;
  std::unordered_map<const EventSink*, std::size_t> delivery_of_;
  std::vector<RequestId> ended_;
  std::vector<std::unique_ptr<RequestState>> ended_states_;  // until deliver(): the step may still refer to them

  EngineStats counts_;  // the sums; stats() adds the levels
};

}  // namespace tandem::engine

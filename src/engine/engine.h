// Requests in, token events out: continuous batching over a paged KV cache, on the engine's own thread.
//
// Each step: take what callers posted (submissions, cancellations), let the scheduler plan rows under the token budget
// (decode rows first, then prefill chunks), reserve their blocks, run the model once, sample, send events. When blocks
// run out the lowest-priority, latest row is preempted; its tokens are kept and recomputed later, to the same bits.
// Rule: a request's tokens and log-probabilities depend on the request alone, never on what else is running.
// Threads: submit, cancel, stats from any thread; everything else happens on the engine's thread.
// Memory: queues and pools are sized in create(); a full queue refuses with kResourceExhausted.
#pragma once

#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/status.h"
#include "engine/model_runner.h"
#include "engine/request.h"

namespace tandem::model {
class Tokenizer;
}

namespace tandem::engine {

struct EngineConfig {
  std::int64_t waiting_requests_max = 4096;  // beyond this submit() refuses
  bool prefix_cache = true;
  std::vector<TokenId> eos_token_ids;
};

struct EngineStats {
  std::int64_t steps = 0, preemptions = 0;
  std::int64_t waiting = 0, running = 0;                                           // samples without and with KV blocks
  std::int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0;  // of admitted samples
  std::int64_t blocks_count = 0;
  std::int64_t blocks_free = 0;    // held by no sample
  std::int64_t blocks_cached = 0;  // of the free ones: those that hold a prefix that can be found again
};

class Engine {
 public:
  // `tokenizer` may be null: events then carry ids without text, and stop strings are refused. It, the runner and the
  // clock are borrowed and outlive the engine.
  // Errors: kInvalidArgument (limits of the runner or a config that cannot work: named).
  [[nodiscard]] static Result<std::unique_ptr<Engine>> create(const EngineConfig& config, ModelRunner& runner,
                                                              const model::Tokenizer* tokenizer, const Clock& clock);
  ~Engine();  // cancels what is left, then joins the thread; not from a sink's callback

  // Errors: kInvalidArgument (empty prompt, a token outside the vocabulary, a prompt longer than the context, a
  // parameter out of range: named), kResourceExhausted (queue full). On an error `sink` hears nothing. `sink` is kept
  // alive until the request's last event was delivered; its first may come before submit() returns.
  // A sink's callback may call submit, cancel and stats.
  [[nodiscard]] Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink);

  // Ends a request: each unfinished sample gets one event with kCancelled within one step. Unknown or finished:
  // nothing.
  void cancel(RequestId request);

  EngineStats stats() const;  // as of the last step

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::engine

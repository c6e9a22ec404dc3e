// Requests in, token events out: continuous batching over a paged KV cache, on the engine's own thread.
//
// Each step: take what callers posted (submissions, cancellations), let the scheduler plan rows under the token budget
// (decode rows first, then prefill chunks), reserve their blocks, run the model once, sample, send events. On a device,
// steps whose tokens can be chosen there are queued one ahead; pause(), cancel_all() and set_weights_version() wait for
// them. When blocks run out the lowest-priority, latest row is preempted; its tokens are kept and recomputed later, to
// the same bits.
// Rule: a request's tokens and log-probabilities depend on the request alone, never on what else is running.
// Threads: every method from any thread; everything else happens on the engine's thread.
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
  int grammar_threads = 1;                       // that find the tokens which grammars allow, beside the step
  std::size_t grammar_cache_bytes = 256u << 20;  // of what is kept of that
};

struct EngineStats {
  std::int64_t steps = 0, preemptions = 0;
  std::int64_t waiting = 0, running = 0;  // samples without and with KV blocks
  std::int64_t held = 0;                  // of the waiting ones
  bool paused = false;
  std::int64_t turn_ns = 0;  // how long the engine's thread has been at its present step; 0: it waits for work
  Status device_lost;        // kDeviceLost once a step has failed with it: no step will succeed, restart the process
  std::int64_t weights_version = 0;
  std::int64_t step_tokens = 0;                                                    // rows of all steps
  std::int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generated_tokens = 0;  // of admitted samples
  std::int64_t blocks_count = 0;
  std::int64_t blocks_free = 0;    // held by no sample
  std::int64_t blocks_cached = 0;  // of the free ones: those that hold a prefix that can be found again
};

// An interface, so that servers and trainers can be tested on a scripted engine.
class Engine {
 public:
  // `tokenizer` may be null: events then carry ids without text, and stop strings are refused. It, the runner and the
  // clock are borrowed and outlive the engine. The destructor cancels what is left, then joins the thread; it may not
  // run in a sink's callback.
  // Errors: kInvalidArgument (limits of the runner or a config that cannot work: named).
  [[nodiscard]] static Result<std::unique_ptr<Engine>> create(const EngineConfig& config, ModelRunner& runner,
                                                              const model::Tokenizer* tokenizer, const Clock& clock);
  virtual ~Engine() = default;

  // Errors: kInvalidArgument (empty prompt, a token outside the vocabulary, a prompt longer than the context, a
  // parameter out of range: named), kResourceExhausted (queue full). On an error `sink` hears nothing. `sink` is kept
  // alive until the request's last event was delivered; its first may come before submit() returns.
  // A sink's callback may call every method of the engine.
  [[nodiscard]] virtual Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink) = 0;

  // Ends a request: each unfinished sample gets one event with kCancelled within one step. Unknown or finished:
  // nothing.
  virtual void cancel(RequestId request) = 0;
  virtual void cancel_all() = 0;

  // A held request waits without blocks, out of everybody's way, until it is let go: for a client that does not read.
  // Its deadline goes on. What was computed is found in the prefix cache again, or recomputed to the same bits. Unknown
  // or finished: nothing.
  virtual void hold(RequestId request, bool held) = 0;

  // While paused no step is made: requests queue and keep their blocks; cancellations and deadlines are heeded.
  // pause() returns when no step is under way any more. Pausing twice is pausing once.
  virtual void pause() = 0;
  virtual void resume() = 0;

  // Forgets every cached prefix that no running request holds.
  virtual void flush_prefix_cache() = 0;

  // Which weights make the tokens: events carry it. A trainer sets it once new weights are in place, while paused;
  // what older weights left in the prefix cache is then no longer found.
  virtual void set_weights_version(std::int64_t version) = 0;

  virtual EngineStats stats() const = 0;  // as of the last step
};

}  // namespace tandem::engine

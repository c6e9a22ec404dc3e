#include "engine/engine.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/sampler.h"
#include "engine/step_loop.h"

namespace tandem::engine {
namespace {

// A mailbox, guarded by one mutex that is never held while the model or a sink runs, and the thread that empties it.
class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(const EngineConfig& config, ModelRunner& runner, const model::Tokenizer* tokenizer, const Clock& clock)
      : config_(config),
        vocab_size_(runner.limits().vocab_size),
        context_tokens_(runner.limits().context_tokens),
        has_tokenizer_(tokenizer != nullptr),
        clock_(clock),
        loop_(config, runner, tokenizer, clock) {
    stats_ = loop_.stats();
    thread_ = std::thread([this] { run(); });
  }

  ~ThreadedEngine() override {
    TD_CHECK(std::this_thread::get_id() != thread_.get_id());
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink) override {
    if (!sink) return invalid_argument("a request needs a sink for its events");
    TD_TRY(validate_request(request, vocab_size_, context_tokens_, has_tokenizer_));
    RequestId id;
    {
      std::lock_guard lock(mutex_);
      if (queued_requests_ >= config_.waiting_requests_max)
        return resource_exhausted("{} requests are waiting already: try again later, or raise waiting_requests_max",
                                  queued_requests_);
      id = RequestId(next_id_++);
      live_.emplace(id, false);
      submissions_.push_back({id, std::move(request), std::move(sink)});
      queued_requests_ += 1;
    }
    wake_.notify_one();
    return id;
  }

  void cancel(RequestId id) override {
    {
      std::lock_guard lock(mutex_);
      const auto found = live_.find(id);
      if (found == live_.end() || found->second) return;
      found->second = true;  // so that there is never more than one cancellation for a request
      cancels_.push_back(id);
    }
    wake_.notify_one();
  }

  void cancel_all() override {
    command([](StepLoop& loop) { loop.cancel_all(); });
  }

  void hold(RequestId id, bool held) override {
    command([id, held](StepLoop& loop) { loop.hold(id, held); });
  }

  void pause() override {
    std::unique_lock lock(mutex_);
    paused_ = true;
    wake_.notify_one();
    if (std::this_thread::get_id() != thread_.get_id())
      stood_still_.wait(lock, [&] { return standing_still_ || !paused_ || stopping_; });
  }

  void resume() override {
    {
      std::lock_guard lock(mutex_);
      paused_ = false;
    }
    stood_still_.notify_all();
    wake_.notify_one();
  }

  void flush_prefix_cache() override {
    command([](StepLoop& loop) { loop.flush_prefix_cache(); });
  }

  void set_weights_version(std::int64_t version) override {
    {
      std::lock_guard lock(mutex_);
      weights_version_ = version;
    }
    command([version](StepLoop& loop) { loop.set_weights_version(version); });
  }

  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.paused = paused_;
    if (turn_begin_) stats.turn_ns = clock_.now().ns - turn_begin_->ns;
    stats.weights_version = weights_version_;
    for (const Submission& submission : submissions_) stats.waiting += submission.request.samples_count;
    return stats;
  }

 private:
  struct Submission {
    RequestId id;
    Request request;
    std::shared_ptr<EventSink> sink;
  };

  using Command = std::function<void(StepLoop&)>;

  void command(Command command) {
    {
      std::lock_guard lock(mutex_);
      commands_.push_back(std::move(command));
    }
    wake_.notify_one();
  }

  // Waits until there is something to do. With nothing to run, deadlines are all that time can bring.
  void wait_for_work(std::unique_lock<std::mutex>& lock) {
    constexpr auto kDeadlineCheck = std::chrono::milliseconds(20);
    const auto has_work = [&] {
      return stopping_ || !submissions_.empty() || !cancels_.empty() || !commands_.empty() ||
             (!paused_ && loop_.can_step()) || (paused_ && !standing_still_);
    };
    if (loop_.idle()) {
      wake_.wait(lock, has_work);
    } else {
      wake_.wait_for(lock, kDeadlineCheck, has_work);
    }
  }

  void run() {
    std::vector<Submission> submissions;
    std::vector<RequestId> cancels;
    std::vector<Command> commands;
    for (bool stopping = false; !stopping;) {
      bool paused = false, must_stand_still = false;
      {
        std::unique_lock lock(mutex_);
        turn_begin_.reset();
        wait_for_work(lock);
        turn_begin_ = clock_.now();
        submissions.swap(submissions_);
        cancels.swap(cancels_);
        commands.swap(commands_);
        stopping = stopping_;
        paused = paused_;
        must_stand_still = paused && !standing_still_;
        if (!paused) standing_still_ = false;
      }
      for (Submission& submission : submissions)
        loop_.add(submission.id, std::move(submission.request), std::move(submission.sink));
      submissions.clear();
      if (must_stand_still) stand_still();
      for (const RequestId id : cancels) loop_.cancel(id);
      cancels.clear();
      for (const Command& command : commands) command(loop_);
      commands.clear();
      if (stopping) {
        loop_.cancel_all();
      } else if (paused || !loop_.can_step()) {
        loop_.end_expired();
      } else {
        loop_.step();
      }
      publish();
      loop_.deliver();
    }
  }

  // Nothing is under way on the device afterwards, and everybody has heard of what was.
  void stand_still() {
    loop_.settle();
    publish();
    loop_.deliver();
    {
      std::lock_guard lock(mutex_);
      standing_still_ = paused_;
    }
    stood_still_.notify_all();
  }

  // Before deliver(): whoever hears a request's last event finds its blocks free and its place in the queue too.
  void publish() {
    std::lock_guard lock(mutex_);
    stats_ = loop_.stats();
    queued_requests_ = loop_.queued_requests() + static_cast<std::int64_t>(submissions_.size());
    for (const RequestId id : loop_.ended()) live_.erase(id);
  }

  const EngineConfig config_;
  const std::int64_t vocab_size_, context_tokens_;
  const bool has_tokenizer_;
  const Clock& clock_;
  StepLoop loop_;  // engine thread only, once that runs

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_:
  std::optional<TimePoint> turn_begin_;
  std::vector<Submission> submissions_;
  std::vector<RequestId> cancels_;
  std::unordered_map<RequestId, bool> live_;  // -> its cancellation is posted
  std::int64_t queued_requests_ = 0;          // submitted, none of whose samples was ever admitted
  std::vector<Command> commands_;
  std::uint64_t next_id_ = 1;
  std::int64_t weights_version_ = 0;
  EngineStats stats_;
  bool stopping_ = false;
  bool paused_ = false;          // asked for
  bool standing_still_ = false;  // and heeded
  std::condition_variable stood_still_;

  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(const EngineConfig& config, ModelRunner& runner,
                                               const model::Tokenizer* tokenizer, const Clock& clock) {
  const RunnerLimits& limits = runner.limits();
  if (limits.vocab_size < 1 || limits.context_tokens < 1 || limits.blocks_count < 1 || limits.block_tokens < 1 ||
      limits.step_tokens_max < 1 || limits.sequences_max < 1)
    return invalid_argument(
        "the model's limits must be positive: vocabulary {}, context {}, KV blocks {} of {} tokens, tokens per step "
        "{}, "
        "sequences {}",
        limits.vocab_size, limits.context_tokens, limits.blocks_count, limits.block_tokens, limits.step_tokens_max,
        limits.sequences_max);
  if (limits.vocab_size >= kWeighedTokensMax)
    return invalid_argument("a vocabulary of {} is beyond the {} that sampling adds up exactly: use another model",
                            limits.vocab_size, kWeighedTokensMax - 1);
  if (limits.logit_rows_max < limits.sequences_max)
    return invalid_argument("{} logit rows are too few for {} sequences: give each at least one", limits.logit_rows_max,
                            limits.sequences_max);
  if (config.waiting_requests_max < 1)
    return invalid_argument("waiting_requests_max {} must be positive", config.waiting_requests_max);
  if (config.grammar_threads < 1)
    return invalid_argument("grammar_threads {} must be positive", config.grammar_threads);
  return std::make_unique<ThreadedEngine>(config, runner, tokenizer, clock);
}

}  // namespace tandem::engine

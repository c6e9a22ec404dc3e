// The engine's step loop on one thread and a clock moved by hand, under random load and faults.
//
// Each history draws its own limits and its own rates of arrivals, cancellations, deadlines and failing steps (a swarm:
// some are zero). After every step all invariants are checked; at the end every sample has ended once, its tokens are
// those (or, if it was cut short, a beginning of those) that the model gives to the request alone, and every block is
// back. A history is a function of its seed; TANDEM_SIM_SEED=n repeats one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "engine/step_loop.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {
namespace {

class Recorder final : public EventSink {
 public:
  void on_events(std::vector<TokenEvent> events) override {
    for (const TokenEvent& event : events) add_event(answers[{event.request, event.sample}], event);
  }
  std::map<std::pair<RequestId, int>, Answer> answers;
};

class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed), limits_(draw_limits()), runner_(limits_) {
    runner_.on_forward = [this](const model::ForwardBatch&) { clock_.advance_ns(1); };
    config_.prefix_cache = !chance(4);
    config_.eos_token_ids = {3};
    const auto rate = [this] { return chance(2) ? 0 : below(30); };  // per hundred steps
    cancels_ = rate(), deadlines_ = rate(), failures_ = rate() / 4;
    arrivals_ = 5 + below(95);
    host_only_ = chance(2) ? 0 : below(100);
    runner_.only_greedy = chance(4);
    runner_.fails_when_queued = chance(2);
    common_.resize(60);
    for (TokenId& token : common_) token = token_id();
  }

  void run() {
    StepLoop loop(config_, runner_, nullptr, clock_);
    const std::int64_t requests_count = 20 + below(40);
    std::int64_t steps = 0;
    while (static_cast<std::int64_t>(requests_.size()) < requests_count || !loop.idle()) {
      ASSERT_LT(++steps, 100000) << "nothing ends";
      while (static_cast<std::int64_t>(requests_.size()) < requests_count && percent(arrivals_)) submit(loop);
      if (!requests_.empty() && percent(cancels_)) cancel(loop);
      const bool fails = percent(failures_);
      runner_.fail_calls(runner_.calls() + 1, fails ? 1 : 0);
      failed_ |= fails;
      const std::int64_t calls = runner_.calls();
      loop.step();
      loop.check_invariants();
      loop.deliver();
      // A step that runs nothing ends something instead, or there is nothing to do.
      idle_steps_ = runner_.calls() == calls && !loop.idle() ? idle_steps_ + 1 : 0;
      ASSERT_LT(idle_steps_, 3);
      for (const RequestId id : cancelled_)
        for (int sample = 0; sample < requests_.at(id).samples_count; ++sample)
          ASSERT_NE((sink_->answers[{id, sample}].finish), FinishReason::kNone) << "cancelled a step ago";
    }
    EXPECT_EQ(loop.stats().blocks_free, limits_.blocks_count);
    EXPECT_EQ(loop.queued_requests(), 0);
    check_answers();
  }

 private:
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n)); }
  bool chance(std::int64_t n) { return below(n) == 0; }
  bool percent(std::int64_t p) { return below(100) < p; }
  TokenId token_id() { return static_cast<TokenId>(below(40)); }

  RunnerLimits draw_limits() {
    const std::int64_t sequences = 1 + below(10);
    return {.vocab_size = 40,
            .context_tokens = 20 + below(60),
            .blocks_count = 4 + below(chance(2) ? 20 : 200),
            .block_tokens = static_cast<int>(1 + below(7)),
            .step_tokens_max = 1 + below(chance(2) ? 10 : 100),
            .sequences_max = sequences,
            .logit_rows_max = sequences + below(5)};
  }

  void submit(StepLoop& loop) {
    Request request;
    request.prompt.assign(
        common_.begin(),
        common_.begin() + static_cast<std::ptrdiff_t>(below(std::min<std::int64_t>(60, limits_.context_tokens - 1))));
    if (chance(2)) request.prompt.clear();
    const std::int64_t room = limits_.context_tokens - 1 - static_cast<std::int64_t>(request.prompt.size());
    for (std::int64_t i = 1 + below(std::min<std::int64_t>(room, 20)); i > 0; --i) request.prompt.push_back(token_id());
    request.max_tokens = below(20);
    request.sampling.seed = static_cast<std::uint64_t>(below(3));
    request.sampling.temperature = chance(3) ? 0.0f : 1.0f;
    request.samples_count = chance(4) ? static_cast<int>(1 + below(5)) : 1;
    request.ignore_eos = chance(2);
    if (chance(4)) request.sampling.top_k = static_cast<int>(1 + below(10));
    if (chance(4)) request.sampling.top_p = 0.8f;
    if (percent(host_only_)) {
      if (chance(3)) request.logprobs = 2;
      if (chance(4)) request.prompt_logprobs = 1;
      if (chance(6)) request.sampling.presence_penalty = 1.0f;
    } else if (chance(2)) {
      request.logprobs = 0;
    }
    if (chance(4)) request.cache_salt = "other";
    request.cache_prefix = !chance(5);
    request.priority = static_cast<int>(below(3));
    if (percent(deadlines_)) request.deadline = TimePoint{clock_.now().ns + below(60)};
    const RequestId id(requests_.size() + 1);
    requests_.emplace(id, request);
    loop.add(id, request, sink_);
  }

  void cancel(StepLoop& loop) {
    const RequestId id(static_cast<std::uint64_t>(1 + below(static_cast<std::int64_t>(requests_.size()))));
    loop.cancel(id);
    cancelled_.push_back(id);
  }

  void check_answers() {
    for (const auto& [id, request] : requests_) {
      const auto expected = expected_answers(request, limits_, config_.eos_token_ids);
      for (int sample = 0; sample < request.samples_count; ++sample) {
        const Answer& answer = sink_->answers[{id, sample}];
        const Answer& want = expected[static_cast<std::size_t>(sample)];
        SCOPED_TRACE(id.value());
        switch (answer.finish) {
          case FinishReason::kNone: ADD_FAILURE() << "never ended"; break;
          case FinishReason::kStop:
          case FinishReason::kLength:
            EXPECT_TRUE(answer.same_content(want)) << answer.to_string() << "\nwant " << want.to_string();
            continue;
          case FinishReason::kCancelled: EXPECT_GT(std::ranges::count(cancelled_, id), 0); break;
          case FinishReason::kDeadline: EXPECT_TRUE(request.deadline.has_value()); break;
          case FinishReason::kError:
            if (answer.error.code() == StatusCode::kResourceExhausted) {
              EXPECT_GT(static_cast<std::int64_t>(request.prompt.size()), limits_.blocks_count * limits_.block_tokens);
            } else {
              EXPECT_TRUE(failed_);
              EXPECT_EQ(answer.error.code(), StatusCode::kAborted);
            }
            break;
        }
        ASSERT_LE(answer.tokens.size(), want.tokens.size());
        EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), want.tokens.begin()));
      }
    }
  }

  std::mt19937_64 random_;
  const RunnerLimits limits_;
  FakeRunner runner_;
  ManualClock clock_;
  EngineConfig config_;
  std::int64_t cancels_ = 0, deadlines_ = 0, failures_ = 0, arrivals_ = 0;
  std::int64_t host_only_ = 0;  // per hundred requests: what may need its logits on the host
  std::vector<TokenId> common_;
  std::map<RequestId, Request> requests_;
  std::vector<RequestId> cancelled_;
  std::shared_ptr<Recorder> sink_ = std::make_shared<Recorder>();
  std::int64_t idle_steps_ = 0;
  bool failed_ = false;
};

void run_history(std::uint64_t seed) {
  SCOPED_TRACE("TANDEM_SIM_SEED=" + std::to_string(seed));
  History(seed).run();
}

TEST(EngineSim, FixedSeeds) {
  for (std::uint64_t seed = 1; seed <= 100 && !HasFatalFailure(); ++seed) run_history(seed);
}

TEST(EngineSim, NewSeeds) {
  if (const char* given = std::getenv("TANDEM_SIM_SEED")) {
    run_history(std::strtoull(given, nullptr, 10));
    return;
  }
  std::random_device device;
  for (int i = 0; i < 30 && !HasFatalFailure(); ++i) {
    const std::uint64_t seed = device();
    // Before it runs: a failed check aborts.
    std::fprintf(stderr, "TANDEM_SIM_SEED=%llu\n", static_cast<unsigned long long>(seed));
    run_history(seed);
  }
}

}  // namespace
}  // namespace tandem::engine

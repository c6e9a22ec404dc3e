#include "engine/engine.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <ctime>
#include <future>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "engine/step_loop.h"
#include "unit/engine/collector.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {
namespace {

using namespace std::chrono_literals;

const std::vector<TokenId> kEos = {3};
const SteadyClock kClock;

EngineConfig config_of(bool prefix_cache = true) { return {.prefix_cache = prefix_cache, .eos_token_ids = kEos}; }

std::vector<TokenId> prompt_of(std::size_t length, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> tokens(length);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 40);
  return tokens;
}

Request request_of(std::size_t prompt_length, std::int64_t max_tokens, std::uint64_t seed = 1) {
  Request request;
  request.prompt = prompt_of(prompt_length, seed);
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  request.ignore_eos = true;
  return request;
}

// Requests of many kinds, many of them with a common beginning.
std::vector<Request> mixed_requests(int count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto common = prompt_of(40, 99);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request request = request_of(1 + random() % 30, static_cast<std::int64_t>(random() % 30), random());
    if (random() % 2 == 0) {
      auto prompt = std::vector<TokenId>(common.begin(), common.begin() + static_cast<std::ptrdiff_t>(random() % 41));
      prompt.insert(prompt.end(), request.prompt.begin(), request.prompt.end());
      request.prompt = prompt;
    }
    if (random() % 4 == 0) request.sampling.temperature = 0;
    if (random() % 4 == 0) request.sampling.top_k = 5;
    if (random() % 6 == 0) request.sampling.presence_penalty = 1.5f;
    if (random() % 6 == 0) request.sampling.frequency_penalty = 0.5f;
    if (random() % 5 == 0) request.samples_count = 2 + static_cast<int>(random() % 3);
    if (random() % 3 == 0) request.logprobs = static_cast<int>(random() % 4);
    if (random() % 4 == 0) request.prompt_logprobs = static_cast<int>(random() % 3);
    if (random() % 4 == 0) request.cache_salt = "tenant";
    if (random() % 6 == 0) request.cache_prefix = false;
    request.ignore_eos = random() % 2 == 0;
    if (random() % 2 == 0) request.stop_token_ids = {5, 6};
    if (random() % 3 == 0) request.min_tokens = 3;
    if (request.max_tokens > 0 && request.max_tokens < request.min_tokens) request.max_tokens = request.min_tokens;
    request.priority = static_cast<int>(random() % 3);
    requests.push_back(request);
  }
  return requests;
}

struct Outcome {
  std::vector<std::vector<Answer>> answers;  // [request][sample]
  EngineStats stats;
};

Outcome run_all(const std::vector<Request>& requests, const RunnerLimits& limits, bool prefix_cache = true) {
  FakeRunner runner(limits);
  auto engine = Engine::create(config_of(prefix_cache), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::vector<RequestId> ids;
  std::int64_t samples = 0;
  for (const Request& request : requests) {
    ids.push_back(engine->submit(request, sink).value());
    samples += request.samples_count;
  }
  EXPECT_TRUE(sink->wait_for(samples));
  Outcome outcome{{}, engine->stats()};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    outcome.answers.emplace_back();
    for (int sample = 0; sample < requests[i].samples_count; ++sample)
      outcome.answers.back().push_back(sink->answer(ids[i], sample));
  }
  EXPECT_EQ(outcome.stats.blocks_free, limits.blocks_count);
  EXPECT_EQ(outcome.stats.waiting + outcome.stats.running, 0);
  return outcome;
}

void expect_as_alone(const std::vector<Request>& requests, const Outcome& outcome, const RunnerLimits& limits) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto expected = expected_answers(requests[i], limits, kEos);
    for (std::size_t sample = 0; sample < expected.size(); ++sample)
      EXPECT_TRUE(outcome.answers[i][sample].same_content(expected[sample]))
          << "request " << i << " sample " << sample << "\n got " << outcome.answers[i][sample].to_string() << "\nwant "
          << expected[sample].to_string();
  }
}

TEST(Engine, OneRequestAlone) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  for (const Request& request : mixed_requests(20, 7)) expect_as_alone({request}, run_all({request}, limits), limits);
}

TEST(Engine, SameAnswersInCompanyAtAnyTokenBudget) {
  const auto requests = mixed_requests(64, 11);
  for (const std::int64_t step_tokens_max : {1, 7, 64, 1000}) {
    SCOPED_TRACE(step_tokens_max);
    const RunnerLimits limits = small_limits(2000, step_tokens_max, 64);
    expect_as_alone(requests, run_all(requests, limits), limits);
  }
}

TEST(Engine, SameAnswersWithoutPrefixCache) {
  const auto requests = mixed_requests(40, 12);
  const RunnerLimits limits = small_limits(1000, 50, 16);
  const Outcome with = run_all(requests, limits, true), without = run_all(requests, limits, false);
  expect_as_alone(requests, with, limits);
  expect_as_alone(requests, without, limits);
  EXPECT_GT(with.stats.cached_prompt_tokens, without.stats.cached_prompt_tokens);
  EXPECT_EQ(without.stats.blocks_cached, 0);
}

TEST(Engine, SameAnswersWhenPreempted) {
  const auto requests = mixed_requests(40, 13);
  std::int64_t preemptions = 0;
  for (const std::int64_t blocks : {24, 30, 50}) {
    for (const bool prefix_cache : {true, false}) {
      SCOPED_TRACE(blocks);
      const RunnerLimits limits = small_limits(blocks, 32, 16);
      const Outcome outcome = run_all(requests, limits, prefix_cache);
      expect_as_alone(requests, outcome, limits);
      preemptions += outcome.stats.preemptions;
    }
  }
  EXPECT_GT(preemptions, 10);
}

// Requests whose next step is queued before their tokens are known: what ends at a stop token, or is cancelled, has a
// row in a step that is under way. The answers are those of a sampler on the host.
void expect_runs_ahead(const std::vector<Request>& requests, bool only_greedy) {
  for (const std::int64_t blocks : {30, 2000}) {
    for (const std::int64_t in_company : {1, 4, 60}) {
      SCOPED_TRACE(::testing::Message() << blocks << " blocks, " << in_company << " at once");
      const RunnerLimits limits = small_limits(blocks, 64, 64);
      FakeRunner runner(limits);
      runner.only_greedy = only_greedy;
      auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
      auto sink = std::make_shared<Collector>();
      std::vector<RequestId> ids;
      std::int64_t samples = 0;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        ids.push_back(engine->submit(requests[i], sink).value());
        samples += requests[i].samples_count;
        if (std::ssize(ids) % in_company == 0) {
          ASSERT_TRUE(sink->wait_for(samples));
        }
      }
      ASSERT_TRUE(sink->wait_for(samples));
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::vector<Answer> expected = expected_answers(requests[i], limits, kEos);
        for (std::size_t sample = 0; sample < expected.size(); ++sample) {
          const Answer got = sink->answer(ids[i], static_cast<int>(sample)), &want = expected[sample];
          EXPECT_TRUE(got.same_content(want)) << i << "\n got " << got.to_string() << "\nwant " << want.to_string();
        }
      }
      EXPECT_EQ(engine->stats().blocks_free, blocks);
      EXPECT_GT(runner.steps_ahead(), 0);
    }
  }
}

TEST(Engine, GreedyStepsRunAhead) {
  auto requests = mixed_requests(60, 14);
  for (Request& request : requests) {
    request.sampling.temperature = 0;
    request.logprobs.reset();
    request.prompt_logprobs.reset();
    request.min_tokens = 0;
    request.samples_count = 1;
  }
  for (const bool only_greedy : {true, false}) expect_runs_ahead(requests, only_greedy);
}

TEST(Engine, SampledStepsRunAhead) {
  auto requests = mixed_requests(60, 15);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    request.sampling.presence_penalty = request.sampling.frequency_penalty = 0;
    request.sampling.temperature = std::array{0.0f, 0.7f, 1.0f, 2.0f}[i % 4];
    request.sampling.top_p = i % 3 == 0 ? 0.8f : 1.0f;
    request.sampling.min_p = i % 7 == 0 ? 0.1f : 0.0f;
    request.prompt_logprobs.reset();
    request.logprobs = i % 5 == 0 ? std::nullopt : std::optional(0);
    request.logprobs_mode = i % 2 == 0 ? LogprobsMode::kRaw : LogprobsMode::kProcessed;
  }
  expect_runs_ahead(requests, /*only_greedy=*/false);
}

// What a runner cannot choose, or cannot know yet, is sampled here, one step at a time.
TEST(Engine, StepsThatNeedTheirLogitsDoNotRunAhead) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  Request plain = request_of(5, 20);
  plain.logprobs = 0;
  std::vector<Request> requests(6, plain);
  requests[0].logprobs = 1;
  requests[1].sampling.repetition_penalty = 1.2f;
  requests[2].sampling.logit_bias = {{3, 1.0f}};
  requests[3].sampling.allowed_token_ids = {1, 2, 4, 5, 6};
  requests[4].sampling.bad_words = {{7}};
  requests[5].min_tokens = 20;
  for (const Request& request : requests) {
    FakeRunner runner(limits);
    auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
    auto sink = std::make_shared<Collector>();
    const RequestId id = engine->submit(request, sink).value();
    ASSERT_TRUE(sink->wait_for(1));
    EXPECT_TRUE(sink->answer(id).same_content(expected_answers(request, limits, kEos)[0]));
    EXPECT_EQ(runner.steps_ahead(), 0);
  }
  FakeRunner runner(limits);
  runner.only_greedy = true;
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  const RequestId id = engine->submit(plain, sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_TRUE(sink->answer(id).same_content(expected_answers(plain, limits, kEos)[0]));
  EXPECT_EQ(runner.steps_ahead(), 0);
}

// The step that was ahead fails, when it is queued or when its tokens are taken: the step before it has given its
// token.
TEST(Engine, AFailedStepAheadLosesNoToken) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  for (const bool when_queued : {true, false}) {
    SCOPED_TRACE(when_queued);
    FakeRunner runner(limits);
    runner.fails_when_queued = when_queued;
    runner.fail_calls(4, 1);
    auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
    auto sink = std::make_shared<Collector>();
    Request request = request_of(5, 20);
    request.sampling.temperature = 0;
    const RequestId id = engine->submit(request, sink).value();
    ASSERT_TRUE(sink->wait_for(1));
    const Answer answer = sink->answer(id), whole = expected_answers(request, limits, kEos)[0];
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_EQ(answer.tokens, std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + 3));
    const RequestId next = engine->submit(request, sink).value();
    ASSERT_TRUE(sink->wait_for(2));
    EXPECT_TRUE(sink->answer(next).same_content(whole));
    EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
  }
}

// A row of NaN ends its own request, though a step that goes on from it is queued already; its neighbour's goes on.
TEST(Engine, ARowOfNanAheadEndsItsOwnRequest) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  for (const float temperature : {0.0f, 1.0f}) {
    FakeRunner runner(limits);
    auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
    auto sink = std::make_shared<Collector>();
    Request request = request_of(5, 20);
    request.sampling.temperature = temperature;
    engine->pause();
    const RequestId spoilt = engine->submit(request, sink).value(), other = engine->submit(request, sink).value();
    runner.spoilt_call = 6;
    engine->resume();
    ASSERT_TRUE(sink->wait_for(2));
    const Answer answer = sink->answer(spoilt), whole = expected_answers(request, limits, kEos)[0];
    EXPECT_EQ(answer.finish, FinishReason::kError) << temperature;
    EXPECT_EQ(answer.error.code(), StatusCode::kAborted);
    ASSERT_LT(answer.tokens.size(), whole.tokens.size());
    EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), whole.tokens.begin()));
    EXPECT_TRUE(sink->answer(other).same_content(whole));
    EXPECT_GT(runner.steps_ahead(), 0);
    EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
  }
}

TEST(Engine, PenaltiesBeginWithTheFirstToken) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  Request request = request_of(5, 40);
  request.sampling.temperature = 0;
  request.sampling.presence_penalty = request.sampling.frequency_penalty = 2.0f;
  expect_as_alone({request}, run_all({request}, limits), limits);
}

TEST(Engine, WhatIsUnderWayEndsBeforeAPause) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  FakeRunner runner(limits);
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request request = request_of(5, 80);
  request.sampling.temperature = 0;
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(50us); };
  const RequestId id = engine->submit(request, sink).value();
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(100us);
    engine->pause();
    EXPECT_EQ(runner.queued_count(), 0u);
    engine->set_weights_version(i);
    engine->resume();
  }
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_TRUE(sink->answer(id, 0).same_content(expected_answers(request, limits, kEos)[0]));
  EXPECT_GT(runner.steps_ahead(), 0);
}

TEST(Engine, SamplesShareThePromptsBlocks) {
  for (const int how : {0, 1, 2}) {  // prefix cache on, off, refused by the request
    SCOPED_TRACE(how);
    Request request = request_of(34, 10);
    request.samples_count = 5;
    request.cache_prefix = how != 2;
    const RunnerLimits limits = small_limits(64, 40, 8);
    const Outcome outcome = run_all({request}, limits, how != 1);
    expect_as_alone({request}, outcome, limits);
    EXPECT_EQ(outcome.answers[0][0].cached_tokens, 0);
    for (std::size_t sample = 1; sample < 5; ++sample) EXPECT_EQ(outcome.answers[0][sample].cached_tokens, 32);
    EXPECT_EQ(outcome.stats.blocks_cached > 0, how == 0);
  }
}

TEST(Engine, CachedPrefixesStayWithinTheirSalt) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  FakeRunner runner(limits);
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::int64_t ended = 0;
  auto cached_tokens = [&](const Request& request) {
    const RequestId id = engine->submit(request, sink).value();
    EXPECT_TRUE(sink->wait_for(++ended));
    return sink->answer(id).cached_tokens;
  };
  Request request = request_of(21, 2);
  EXPECT_EQ(cached_tokens(request), 0);
  EXPECT_EQ(cached_tokens(request), 20);
  Request salted = request;
  salted.cache_salt = "other";
  EXPECT_EQ(cached_tokens(salted), 0);
  EXPECT_EQ(cached_tokens(salted), 20);
  Request aloof = request_of(21, 2, 2);
  aloof.cache_prefix = false;
  EXPECT_EQ(cached_tokens(aloof), 0);
  EXPECT_EQ(cached_tokens(aloof), 0);
  aloof.cache_prefix = true;
  EXPECT_EQ(cached_tokens(aloof), 0);
  Request scored = request;
  scored.prompt_logprobs = 0;
  EXPECT_EQ(cached_tokens(scored), 0);
}

TEST(Engine, SubmitAndCancelTenThousandTimes) {
  const RunnerLimits limits = small_limits(200, 64, 16);
  FakeRunner runner(limits);
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::mt19937_64 random(5);
  std::int64_t samples = 0;
  std::vector<RequestId> ids;
  for (int i = 0; i < 10000; ++i) {
    Request request = request_of(1 + random() % 40, 0, random() % 50);
    request.samples_count = 1 + static_cast<int>(random() % 2);
    auto id = engine->submit(request, sink);
    while (!id.ok()) {
      ASSERT_EQ(id.code(), StatusCode::kResourceExhausted);
      std::this_thread::yield();
      id = engine->submit(request, sink);
    }
    samples += request.samples_count;
    ids.push_back(*id);
    if (random() % 3 == 0) std::this_thread::yield();
    // Some are cancelled later, some twice, some after the end.
    engine->cancel(random() % 2 == 0 ? *id : ids[random() % ids.size()]);
  }
  for (const RequestId id : ids) engine->cancel(id);
  ASSERT_TRUE(sink->wait_for(samples));
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.blocks_free, limits.blocks_count);
  EXPECT_EQ(stats.waiting + stats.running, 0);
}

TEST(Engine, CancellingARunningRequest) {
  std::atomic<std::int64_t> tokens_after_cancel = -1;
  FakeRunner runner(small_limits(64, 64, 8));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  sink->then = [&](const TokenEvent& event) {
    if (tokens_after_cancel >= 0) tokens_after_cancel += static_cast<std::int64_t>(event.tokens.size());
    if (tokens_after_cancel < 0 && event.finish == FinishReason::kNone) {
      tokens_after_cancel = 0;
      engine->cancel(event.request);  // from the sink's own callback
    }
  };
  const RequestId id = engine->submit(request_of(8, 0), sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_EQ(sink->answer(id).finish, FinishReason::kCancelled);
  EXPECT_EQ(tokens_after_cancel, 0);
  EXPECT_EQ(engine->stats().blocks_free, 64);
  engine->cancel(id);
  engine->cancel(RequestId(12345));
}

TEST(Engine, SubmittingFromASink) {
  std::atomic<int> left = 3;
  FakeRunner runner(small_limits(64, 64, 8));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  sink->then = [&](const TokenEvent& event) {
    if (event.finish != FinishReason::kNone && left-- > 0) {
      EXPECT_TRUE(engine->submit(request_of(5, 3), sink).ok());
      EXPECT_EQ(engine->stats().blocks_free, 64);
    }
  };
  ASSERT_TRUE(engine->submit(request_of(5, 3), sink).ok());
  EXPECT_TRUE(sink->wait_for(4));
}

TEST(Engine, OneCallPerStepAndSink) {
  FakeRunner runner(small_limits(64, 256, 8));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request request = request_of(5, 10);
  request.samples_count = 4;
  ASSERT_TRUE(engine->submit(request, sink).ok());
  ASSERT_TRUE(sink->wait_for(4));
  EXPECT_EQ(sink->calls(), 11);  // the first sample is a step ahead of the others
}

TEST(Engine, FailedStepsEndTheirRequestsOnly) {
  const RunnerLimits limits = small_limits(30, 16, 4);
  const auto requests = mixed_requests(12, 14);
  bool failed = true;
  for (std::int64_t nth = 1; failed; nth += 3) {
    SCOPED_TRACE(nth);
    FakeRunner runner(limits);
    runner.fail_calls(nth, 1);
    auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
    auto sink = std::make_shared<Collector>();
    std::int64_t samples = 0, errors = 0;
    std::vector<RequestId> ids;
    for (const Request& request : requests) {
      ids.push_back(engine->submit(request, sink).value());
      samples += request.samples_count;
    }
    ASSERT_TRUE(sink->wait_for(samples));
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto expected = expected_answers(requests[i], limits, kEos);
      for (int sample = 0; sample < requests[i].samples_count; ++sample) {
        const Answer answer = sink->answer(ids[i], sample);
        if (answer.finish == FinishReason::kError) {
          EXPECT_EQ(answer.error.code(), StatusCode::kAborted);
          errors += 1;
        } else {
          EXPECT_TRUE(answer.same_content(expected[static_cast<std::size_t>(sample)]));
        }
      }
    }
    failed = errors > 0;
    EXPECT_EQ(failed, runner.calls() >= nth);
    // The engine goes on, and nothing of the failed step was kept.
    runner.fail_calls(0, 0);
    const RequestId again = engine->submit(requests[0], sink).value();
    ASSERT_TRUE(sink->wait_for(samples + requests[0].samples_count));
    EXPECT_TRUE(sink->answer(again).same_content(expected_answers(requests[0], limits, kEos)[0]));
    EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
  }
}

TEST(Engine, ALostDeviceIsRemembered) {
  for (const bool is_queued : {false, true}) {
    SCOPED_TRACE(is_queued);
    FakeRunner runner(small_limits(30, 16, 4));
    auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
    auto sink = std::make_shared<Collector>();
    Request request = request_of(5, 3);
    if (!is_queued) request.sampling.repetition_penalty = 1.1f;
    std::int64_t ended = 0;
    const auto error_after = [&](StatusCode code, std::int64_t count) {
      runner.fail_code = code;
      runner.fail_calls(runner.calls() + 1, count);
      const RequestId id = engine->submit(request, sink).value();
      EXPECT_TRUE(sink->wait_for(++ended));
      return sink->answer(id).error.code();
    };
    EXPECT_EQ(error_after(StatusCode::kAborted, 1), StatusCode::kAborted);
    EXPECT_TRUE(engine->stats().device_lost.ok());
    EXPECT_EQ(error_after(StatusCode::kDeviceLost, 1), StatusCode::kDeviceLost);
    EXPECT_EQ(engine->stats().device_lost.code(), StatusCode::kDeviceLost);
    EXPECT_EQ(error_after(StatusCode::kAborted, 1), StatusCode::kAborted);
    EXPECT_EQ(engine->stats().device_lost.code(), StatusCode::kDeviceLost);
  }
}

TEST(Engine, AnExceptionOfTheRunnerIsAFailedStep) {
  FakeRunner runner(small_limits(30, 16, 4));
  runner.on_forward = [](const model::ForwardBatch&) { throw std::runtime_error("no"); };
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  const RequestId id = engine->submit(request_of(5, 3), sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_EQ(sink->answer(id).error.code(), StatusCode::kAborted);
}

TEST(Engine, RefusesWhenTheQueueIsFull) {
  std::mutex gate;
  FakeRunner runner(small_limits(64, 64, 1));
  runner.on_forward = [&](const model::ForwardBatch&) { std::lock_guard lock(gate); };
  EngineConfig config = config_of();
  config.waiting_requests_max = 2;
  auto engine = Engine::create(config, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  {
    std::unique_lock lock(gate);
    ASSERT_TRUE(engine->submit(request_of(4, 2), sink).ok());
    int accepted = 1;
    Status refusal;
    for (int i = 0; i < 10; ++i) {
      const auto id = engine->submit(request_of(4, 2), sink);
      accepted += id.ok();
      if (!id.ok()) refusal = id.status();
    }
    EXPECT_EQ(refusal.code(), StatusCode::kResourceExhausted);
    EXPECT_GE(accepted, 2);
    EXPECT_LE(accepted, 3);  // one may have left the queue
    lock.unlock();
    EXPECT_TRUE(sink->wait_for(accepted));
  }
  EXPECT_TRUE(engine->submit(request_of(4, 2), sink).ok());
}

TEST(Engine, APromptThatCanNeverFit) {
  FakeRunner runner(small_limits(4, 64, 4));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request request = request_of(17, 2);
  request.samples_count = 2;
  const RequestId big = engine->submit(request, sink).value();
  const RequestId fits = engine->submit(request_of(16, 2), sink).value();
  ASSERT_TRUE(sink->wait_for(3));
  for (const int sample : {0, 1}) {
    EXPECT_EQ(sink->answer(big, sample).finish, FinishReason::kError);
    EXPECT_EQ(sink->answer(big, sample).error.code(), StatusCode::kResourceExhausted);
    EXPECT_NE(sink->answer(big, sample).error.message().find("--kv-blocks"), std::string::npos);
  }
  // A lone sequence that outgrows the pool ends as one that outgrows the context does.
  EXPECT_EQ(sink->answer(fits).finish, FinishReason::kLength);
  EXPECT_EQ(sink->answer(fits).tokens.size(), 1u);
}

TEST(Engine, WhatCanNeverRunDelaysNobody) {
  ManualClock clock;
  FakeRunner runner(small_limits(4, 8, 4));
  StepLoop loop(config_of(), runner, nullptr, clock);
  auto sink = std::make_shared<Collector>();
  Request late = request_of(8, 2);
  late.deadline = TimePoint{0};
  loop.add(RequestId(1), request_of(60, 2), sink);
  loop.add(RequestId(2), late, sink);
  loop.add(RequestId(3), request_of(70, 2), sink);
  loop.add(RequestId(4), request_of(8, 2), sink);
  loop.step();
  loop.deliver();
  EXPECT_EQ(sink->answer(RequestId(1)).finish, FinishReason::kError);
  EXPECT_EQ(sink->answer(RequestId(2)).finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->answer(RequestId(3)).finish, FinishReason::kError);
  EXPECT_EQ(sink->answer(RequestId(4)).tokens.size(), 1u);
}

TEST(Engine, Deadlines) {
  ManualClock clock;
  FakeRunner runner(small_limits(64, 64, 1));
  runner.on_forward = [&](const model::ForwardBatch&) { clock.advance_ns(10); };
  auto engine = Engine::create(config_of(), runner, nullptr, clock).value();
  auto sink = std::make_shared<Collector>();
  Request late = request_of(4, 5);
  late.deadline = TimePoint{0};
  const RequestId already = engine->submit(late, sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_EQ(sink->answer(already).finish, FinishReason::kDeadline);
  EXPECT_TRUE(sink->answer(already).tokens.empty());

  Request running = request_of(4, 0), waiting = request_of(4, 5);
  running.deadline = TimePoint{clock.now().ns + 100};
  waiting.deadline = TimePoint{clock.now().ns + 50};
  waiting.priority = 1;  // there is room for one sequence
  const RequestId first = engine->submit(running, sink).value();
  ASSERT_TRUE(sink->wait_for_tokens(first, 1));
  const RequestId second = engine->submit(waiting, sink).value();
  ASSERT_TRUE(sink->wait_for(3));
  EXPECT_EQ(sink->answer(first).finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->answer(first).tokens.size(), 10u);
  EXPECT_EQ(sink->answer(second).finish, FinishReason::kDeadline);
  EXPECT_TRUE(sink->answer(second).tokens.empty());
  EXPECT_EQ(engine->stats().blocks_free, 64);
}

// So that whoever watches the engine sees a device that hangs.
TEST(Engine, SaysHowLongAStepHasRun) {
  ManualClock clock;
  FakeRunner runner(small_limits(64, 64, 1));
  std::promise<void> begun, go_on;
  bool is_first = true;
  runner.on_forward = [&](const model::ForwardBatch&) {
    if (!std::exchange(is_first, false)) return;
    begun.set_value();
    go_on.get_future().wait();
  };
  auto engine = Engine::create(config_of(), runner, nullptr, clock).value();
  auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->submit(request_of(4, 2), sink).ok());
  begun.get_future().wait();
  clock.advance_ns(5'000);
  EXPECT_EQ(engine->stats().turn_ns, 5'000);
  clock.advance_ns(2'000);
  EXPECT_EQ(engine->stats().turn_ns, 7'000);
  go_on.set_value();
  ASSERT_TRUE(sink->wait_for(1));
  clock.advance_ns(1'000);
  while (engine->stats().turn_ns != 0) std::this_thread::yield();  // until it waits for work
}

TEST(Engine, LowerPriorityNumbersGoFirst) {
  std::mutex gate, mutex;
  std::vector<RequestId> order;
  FakeRunner runner(small_limits(64, 64, 1));
  runner.on_forward = [&](const model::ForwardBatch&) { std::lock_guard lock(gate); };
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  sink->then = [&](const TokenEvent& event) {
    std::lock_guard lock(mutex);
    if (event.finish != FinishReason::kNone) order.push_back(event.request);
  };
  std::vector<RequestId> ids;
  {
    std::lock_guard lock(gate);
    for (const int priority : {0, 2, 1, 1, 0}) {
      Request request = request_of(4, 2);
      request.priority = priority;
      ids.push_back(engine->submit(request, sink).value());
      while (ids.size() == 1 && engine->stats().waiting > 0) std::this_thread::yield();
    }
  }
  ASSERT_TRUE(sink->wait_for(5));
  engine.reset();
  EXPECT_EQ(order, (std::vector<RequestId>{ids[0], ids[4], ids[2], ids[3], ids[1]}));
}

TEST(Engine, DestructorCancelsWhatIsLeft) {
  FakeRunner runner(small_limits(200, 16, 4));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::int64_t count = 0;
  for (; count < 50; ++count) ASSERT_TRUE(engine->submit(request_of(20, 0), sink).ok());
  engine.reset();
  EXPECT_TRUE(sink->wait_for(count));
  EXPECT_EQ(sink.use_count(), 1);
}

TEST(Engine, RefusesWrongRequestsAndLimits) {
  FakeRunner runner(small_limits(64, 64, 4));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  EXPECT_EQ(engine->submit(Request{}, sink).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->submit(request_of(97, 1), sink).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->submit(request_of(4, 1), nullptr).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(sink->calls(), 0);

  RunnerLimits limits = small_limits(64, 64, 4);
  limits.logit_rows_max = 3;
  FakeRunner few_rows(limits);
  EXPECT_EQ(Engine::create(config_of(), few_rows, nullptr, kClock).code(), StatusCode::kInvalidArgument);
  struct Wide final : ModelRunner {
    RunnerLimits own = small_limits(64, 64, 4);
    const RunnerLimits& limits() const override { return own; }
    Result<tensor::TensorView> forward(const model::ForwardBatch&) override { return invalid_argument("never called"); }
  } wide;
  wide.own.vocab_size = kWeighedTokensMax;
  EXPECT_EQ(Engine::create(config_of(), wide, nullptr, kClock).code(), StatusCode::kInvalidArgument);
  EngineConfig no_queue = config_of();
  no_queue.waiting_requests_max = 0;
  EXPECT_EQ(Engine::create(no_queue, runner, nullptr, kClock).code(), StatusCode::kInvalidArgument);
}

TEST(Engine, EndOfSequenceIdsOutsideTheVocabularyAreHarmless) {
  FakeRunner runner(small_limits(64, 64, 4));
  EngineConfig config = config_of();
  config.eos_token_ids = {-1, 3, 40, 1 << 30};
  auto engine = Engine::create(config, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request request = request_of(4, 30);
  request.ignore_eos = false;
  request.min_tokens = 10;
  const RequestId id = engine->submit(request, sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_TRUE(sink->answer(id).same_content(expected_answers(request, runner.limits(), kEos)[0]));
}

TEST(Engine, IdleUsesNoProcessor) {
  FakeRunner runner(small_limits(64, 64, 4));
  auto engine = Engine::create(config_of(), runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  ASSERT_TRUE(engine->submit(request_of(4, 2), sink).ok());
  ASSERT_TRUE(sink->wait_for(1));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(100ms);
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 0.05);
}

}  // namespace
}  // namespace tandem::engine

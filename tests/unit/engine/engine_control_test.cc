// What an operator and a trainer do to a running engine: hold, pause, flush, change the weights.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "engine/engine.h"
#include "unit/engine/collector.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {
namespace {

using namespace std::chrono_literals;

const SteadyClock kClock;

Request request_of(std::size_t prompt_length, std::int64_t max_tokens, std::uint64_t seed = 1) {
  Request request;
  for (std::size_t i = 0; i < prompt_length; ++i)
    request.prompt.push_back(static_cast<TokenId>((seed * 7 + i * i) % 40));
  request.max_tokens = max_tokens;
  request.sampling.seed = seed;
  request.ignore_eos = true;
  return request;
}

template <class Condition>
bool eventually(const Condition& condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) std::this_thread::sleep_for(1ms);
  return condition();
}

TEST(EngineControl, EventsCarryTheTag) {
  FakeRunner runner(small_limits(64, 64, 8));
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::atomic<int> wrong = 0;
  std::atomic<std::uint64_t> tag = 71;
  sink->then = [&](const TokenEvent& event) { wrong += event.tag != tag; };
  Request request = request_of(5, 4);
  request.tag = tag;
  ASSERT_TRUE(engine->submit(request, sink).ok());
  ASSERT_TRUE(sink->wait_for(1));
  engine.reset();  // its thread may still be in sink->then
  EXPECT_EQ(wrong, 0);
}

TEST(EngineControl, AHeldRequestHasNoBlocksAndGoesOnToTheSameAnswer) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  FakeRunner runner(limits);
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(1ms); };
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request request = request_of(10, 60);
  request.samples_count = 2;
  const RequestId id = engine->submit(request, sink).value();
  ASSERT_TRUE(sink->wait_for_tokens(id, 3));
  engine->hold(id, true);
  ASSERT_TRUE(eventually([&] { return engine->stats().held == 2; }));
  EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
  const std::int64_t steps = engine->stats().steps;

  // Others run; the held one does not, and the engine does not spin over it.
  const RequestId other = engine->submit(request_of(4, 3, 2), sink).value();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_TRUE(sink->answer(other).same_content(expected_answers(request_of(4, 3, 2), limits, {})[0]));
  EXPECT_EQ(engine->stats().held, 2);
  EXPECT_EQ(engine->stats().steps, steps + 3);

  engine->hold(id, false);
  ASSERT_TRUE(sink->wait_for(3));
  const auto expected = expected_answers(request, limits, {});
  for (int sample = 0; sample < 2; ++sample)
    EXPECT_TRUE(sink->answer(id, sample).same_content(expected[static_cast<std::size_t>(sample)]));
  EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
}

TEST(EngineControl, AHeldRequestCanBeCancelledAndCanExpire) {
  FakeRunner runner(small_limits(64, 64, 8));
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(1ms); };
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  Request mortal = request_of(10, 60);
  mortal.deadline = TimePoint{kClock.now().ns + 100'000'000};
  const RequestId cancelled = engine->submit(request_of(10, 60), sink).value();
  const RequestId expired = engine->submit(mortal, sink).value();
  engine->hold(cancelled, true);
  engine->hold(expired, true);
  ASSERT_TRUE(eventually([&] { return engine->stats().held == 2; }));
  engine->cancel(cancelled);
  ASSERT_TRUE(sink->wait_for(2));
  EXPECT_EQ(sink->answer(cancelled).finish, FinishReason::kCancelled);
  EXPECT_EQ(sink->answer(expired).finish, FinishReason::kDeadline);
  engine->hold(expired, false);  // gone: nothing happens
  EXPECT_EQ(engine->stats().held, 0);
}

TEST(EngineControl, RandomHoldsNeverChangeAnAnswer) {
  const RunnerLimits limits = small_limits(24, 16, 4);
  FakeRunner runner(limits);
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::vector<Request> requests;
  std::vector<RequestId> ids;
  std::mt19937 random(5);
  for (int i = 0; i < 30; ++i) {
    requests.push_back(request_of(1 + random() % 30, 1 + random() % 30, static_cast<std::uint64_t>(i)));
    ids.push_back(engine->submit(requests.back(), sink).value());
    for (int k = 0; k < 3; ++k) engine->hold(ids[random() % ids.size()], random() % 2 == 0);
    if (random() % 8 == 0) engine->flush_prefix_cache();
  }
  for (int i = 0; i < 200; ++i) {
    engine->hold(ids[random() % ids.size()], random() % 2 == 0);
    std::this_thread::sleep_for(50us);
  }
  for (const RequestId id : ids) engine->hold(id, false);
  ASSERT_TRUE(sink->wait_for(30));
  for (std::size_t i = 0; i < ids.size(); ++i)
    EXPECT_TRUE(sink->answer(ids[i]).same_content(expected_answers(requests[i], limits, {})[0])) << i;
  EXPECT_EQ(engine->stats().blocks_free, limits.blocks_count);
}

TEST(EngineControl, NothingRunsWhilePaused) {
  FakeRunner runner(small_limits(64, 64, 8));
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(1ms); };
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  const RequestId id = engine->submit(request_of(10, 60), sink).value();
  ASSERT_TRUE(sink->wait_for_tokens(id, 3));
  engine->pause();
  const std::int64_t calls = runner.calls();
  EXPECT_TRUE(engine->stats().paused);
  Request mortal = request_of(4, 3);
  mortal.deadline = TimePoint{kClock.now().ns + 30'000'000};
  const RequestId expired = engine->submit(mortal, sink).value();
  const RequestId cancelled = engine->submit(request_of(4, 3), sink).value();
  engine->cancel(cancelled);
  ASSERT_TRUE(sink->wait_for(2));  // cancellations and deadlines are heeded
  EXPECT_EQ(sink->answer(expired).finish, FinishReason::kDeadline);
  EXPECT_EQ(sink->answer(cancelled).finish, FinishReason::kCancelled);
  EXPECT_EQ(runner.calls(), calls);
  engine->pause();  // twice is once
  engine->resume();
  ASSERT_TRUE(sink->wait_for(3));
  EXPECT_EQ(sink->answer(id).finish, FinishReason::kLength);
  EXPECT_FALSE(engine->stats().paused);
}

TEST(EngineControl, APausedEngineCanBeDestroyed) {
  FakeRunner runner(small_limits(64, 64, 8));
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  engine->pause();
  ASSERT_TRUE(engine->submit(request_of(4, 3), sink).ok());
  engine.reset();
  ASSERT_TRUE(sink->wait_for(1));
}

TEST(EngineControl, CancelAll) {
  FakeRunner runner(small_limits(64, 64, 2));
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(1ms); };
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(engine->submit(request_of(4, 80), sink).ok());
  engine->cancel_all();
  ASSERT_TRUE(sink->wait_for(10));
  EXPECT_EQ(engine->stats().blocks_free, 64);
}

TEST(EngineControl, FlushForgetsPrefixes) {
  FakeRunner runner(small_limits(64, 64, 8));
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::int64_t ended = 0;
  const auto cached_tokens = [&] {
    const RequestId id = engine->submit(request_of(20, 3), sink).value();
    EXPECT_TRUE(sink->wait_for(++ended));
    return sink->answer(id).cached_tokens;
  };
  EXPECT_EQ(cached_tokens(), 0);
  EXPECT_EQ(cached_tokens(), 16);
  engine->flush_prefix_cache();
  EXPECT_EQ(cached_tokens(), 0);
  EXPECT_EQ(cached_tokens(), 16);
}

TEST(EngineControl, NewWeightsLeaveNothingOfTheOldInTheCache) {
  const RunnerLimits limits = small_limits(64, 64, 8);
  FakeRunner runner(limits);
  runner.on_forward = [](const model::ForwardBatch&) { std::this_thread::sleep_for(1ms); };
  auto engine = Engine::create({}, runner, nullptr, kClock).value();
  auto sink = std::make_shared<Collector>();
  std::vector<std::int64_t> versions;
  sink->then = [&](const TokenEvent& event) { versions.push_back(event.weights_version); };
  Request request = request_of(20, 50);
  const RequestId id = engine->submit(request, sink).value();
  ASSERT_TRUE(sink->wait_for_tokens(id, 3));
  engine->pause();
  engine->set_weights_version(5);
  ASSERT_TRUE(eventually([&] { return engine->stats().blocks_free == limits.blocks_count; }));
  EXPECT_EQ(engine->stats().blocks_cached, 0);
  EXPECT_EQ(engine->stats().weights_version, 5);
  engine->resume();
  ASSERT_TRUE(sink->wait_for(1));
  EXPECT_TRUE(sink->answer(id).same_content(expected_answers(request, limits, {})[0]));
  engine.reset();  // its thread may still be in sink->then
  EXPECT_EQ(versions.front(), 0);
  EXPECT_EQ(versions.back(), 5);
  EXPECT_TRUE(std::ranges::is_sorted(versions));
}

}  // namespace
}  // namespace tandem::engine

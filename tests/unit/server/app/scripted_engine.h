// An engine that says what it is told to: for tests and benchmarks of the server.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace tandem::engine {

// Threads: any.
class ScriptedEngine final : public Engine {
 public:
  struct Call {
    RequestId id;
    Request request;
    std::shared_ptr<EventSink> sink;
    bool held = false, cancelled = false, ended = false;
  };

  Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink) override {
    std::lock_guard lock(mutex_);
    if (refusal_) return *refusal_;
    const RequestId id(next_id_++);
    calls_.emplace(id, Call{id, std::move(request), std::move(sink)});
    changed_.notify_all();
    return id;
  }
  // As the real one, it says so with one event for each sample.
  void cancel(RequestId id) override {
    std::vector<TokenEvent> events;
    std::shared_ptr<EventSink> sink;
    {
      std::lock_guard lock(mutex_);
      const auto found = calls_.find(id);
      if (found == calls_.end() || found->second.ended) return;
      found->second.cancelled = found->second.ended = true;
      sink = found->second.sink;
      for (int sample = 0; sample < found->second.request.samples_count; ++sample) {
        TokenEvent& event = events.emplace_back();
        event.request = id;
        event.tag = found->second.request.tag;
        event.sample = sample;
        event.finish = FinishReason::kCancelled;
      }
      changed_.notify_all();
    }
    sink->on_events(std::move(events));
  }
  void cancel_all() override {
    for (const RequestId id : ids()) cancel(id);
  }
  void hold(RequestId id, bool held) override {
    std::lock_guard lock(mutex_);
    if (const auto found = calls_.find(id); found != calls_.end()) found->second.held = held;
    changed_.notify_all();
  }
  void pause() override { set_paused(true); }
  void resume() override { set_paused(false); }
  void flush_prefix_cache() override {
    std::lock_guard lock(mutex_);
    flushes_ += 1;
  }
  void set_weights_version(std::int64_t version) override {
    std::lock_guard lock(mutex_);
    stats_.weights_version = version;
  }
  void set_turn_ns(std::int64_t ns) {
    std::lock_guard lock(mutex_);
    stats_.turn_ns = ns;
  }
  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  // What a test does.

  void refuse(Status status) {
    std::lock_guard lock(mutex_);
    refusal_ = std::make_unique<Status>(std::move(status));
  }
  std::vector<RequestId> ids() const {
    std::lock_guard lock(mutex_);
    std::vector<RequestId> ids;
    for (const auto& [id, call] : calls_) ids.push_back(id);
    return ids;
  }
  Call call(RequestId id) const {
    std::lock_guard lock(mutex_);
    return calls_.at(id);
  }
  int flushes() const {
    std::lock_guard lock(mutex_);
    return flushes_;
  }
  // Waits until `condition(calls)` holds; false after ten seconds.
  template <class Condition>
  bool wait(const Condition& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return condition(calls_); });
  }
  bool wait_for_calls(std::size_t count) {
    return wait([&](const auto& calls) { return calls.size() >= count; });
  }

  static TokenEvent event_of(const Call& call, std::string text, FinishReason finish = FinishReason::kNone,
                             int sample = 0) {
    TokenEvent event;
    event.request = call.id;
    event.tag = call.request.tag;
    event.sample = sample;
    event.tokens = {17};
    event.text = std::move(text);
    event.finish = finish;
    event.admitted = SteadyClock().now();
    return event;
  }
  // One event of one call. Nothing if it has ended.
  void say(RequestId id, std::string text, FinishReason finish = FinishReason::kNone, Status error = {}) {
    std::shared_ptr<EventSink> sink;
    std::vector<TokenEvent> events;
    {
      std::lock_guard lock(mutex_);
      Call& call = calls_.at(id);
      if (call.ended) return;
      events.push_back(event_of(call, std::move(text), finish));
      events.back().error = std::move(error);
      call.ended = finish != FinishReason::kNone;
      sink = call.sink;
    }
    sink->on_events(std::move(events));
  }
  // A step of all calls that have not ended and are not held: one event each, delivered sink by sink, after `before`.
  void step(
      const std::string& text, FinishReason finish = FinishReason::kNone, const std::function<void()>& before = [] {}) {
    std::map<std::shared_ptr<EventSink>, std::vector<TokenEvent>> events;
    {
      std::lock_guard lock(mutex_);
      for (auto& [id, call] : calls_) {
        if (call.ended || call.held) continue;
        events[call.sink].push_back(event_of(call, text, finish));
        call.ended = finish != FinishReason::kNone;
      }
    }
    before();
    for (auto& [sink, list] : events) sink->on_events(std::move(list));
  }
  void forget_ended() {
    std::lock_guard lock(mutex_);
    std::erase_if(calls_, [](const auto& entry) { return entry.second.ended; });
  }

 private:
  void set_paused(bool paused) {
    std::lock_guard lock(mutex_);
    stats_.paused = paused;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestId, Call> calls_;
  std::unique_ptr<Status> refusal_;
  EngineStats stats_;
  std::uint64_t next_id_ = 1;
  int flushes_ = 0;
};

}  // namespace tandem::engine

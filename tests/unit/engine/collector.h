// A sink for tests that keeps every answer and lets the test wait for ends.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "unit/engine/fake_runner.h"

namespace tandem::engine {

// Threads: any. What waits gives up after a minute.
class Collector final : public EventSink {
 public:
  void on_events(std::vector<TokenEvent> events) override {
    {
      std::lock_guard lock(mutex_);
      for (const TokenEvent& event : events) {
        add_event(answers_[{event.request, event.sample}], event);
        ended_ += event.finish != FinishReason::kNone;
      }
      calls_ += 1;
    }
    heard_.notify_all();
    for (const TokenEvent& event : events)
      if (then) then(event);
  }

  // For that many samples, of any requests, to end.
  bool wait_for(std::int64_t ended) {
    std::unique_lock lock(mutex_);
    return heard_.wait_for(lock, std::chrono::seconds(60), [&] { return ended_ >= ended; });
  }
  bool wait_for_tokens(RequestId id, std::size_t count) {
    std::unique_lock lock(mutex_);
    return heard_.wait_for(lock, std::chrono::seconds(60), [&] { return answers_[{id, 0}].tokens.size() >= count; });
  }
  Answer answer(RequestId id, int sample = 0) {
    std::lock_guard lock(mutex_);
    return answers_[{id, sample}];
  }
  std::int64_t calls() {
    std::lock_guard lock(mutex_);
    return calls_;
  }

  std::function<void(const TokenEvent&)> then;  // called without the lock

 private:
  std::mutex mutex_;
  std::condition_variable heard_;
  std::map<std::pair<RequestId, int>, Answer> answers_;
  std::int64_t ended_ = 0, calls_ = 0;
};

}  // namespace tandem::engine

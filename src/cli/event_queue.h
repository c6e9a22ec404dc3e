// The command line's end of the engine: events are queued on the engine's thread and taken on the caller's.
//
// What is queued is bounded by what was asked for: a request sends at most max_tokens events a sample.
// Threads: on_events() on the engine's; the rest on one other.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/request.h"

namespace tandem::cli {

class EventQueue final : public engine::EventSink {
 public:
  void on_events(std::vector<engine::TokenEvent> events) override {
    {
      std::lock_guard lock(mutex_);
      for (engine::TokenEvent& event : events) events_.push_back(std::move(event));
    }
    arrived_.notify_one();
  }

  // What has come, oldest first; waits up to `timeout` for something.
  std::vector<engine::TokenEvent> take(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, timeout, [&] { return !events_.empty(); });
    return std::exchange(events_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<engine::TokenEvent> events_;  // guarded by mutex_
};

}  // namespace tandem::cli

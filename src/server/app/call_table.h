// The calls of one I/O thread, and the way of the engine's events to them: the engine's thread leaves a step's events
// in an inbox and wakes the I/O thread once; that writes every event of the inbox, and then flushes each connection
// once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/app/service.h"

namespace tandem::server {

class LiveCall;
class Client;

// The event loop that a connection lives on. Threads: post() any.
class IoLoop {
 public:
  virtual ~IoLoop() = default;
  virtual void post(std::function<void()> task) = 0;
};

// Threads: on_events() the engine's; the rest the I/O thread's.
class CallTable final : public engine::EventSink, public std::enable_shared_from_this<CallTable> {
 public:
  CallTable(IoLoop& loop, Service& service) : loop_(loop), service_(service) {}
  std::shared_ptr<engine::EventSink> sink() { return shared_from_this(); }

  void on_events(std::vector<engine::TokenEvent> events) override;
  // Events that come later are dropped, and the loop is left alone. Threads: any.
  void close();

  IoLoop& loop() { return loop_; }

  // Calls are known from their first day to their last.
  void add(LiveCall& call);
  void remove(LiveCall& call);
  LiveCall* find(std::uint64_t call_id);
  // Events with the tag returned go to the call's request of that index.
  std::uint64_t add_request(LiveCall& call, std::size_t index);
  void remove_request(std::uint64_t tag);

  void on_tick(TimePoint now);  // now and then: comments on silent streams
  // Ends calls that the engine runs: those of that request id, or all if it is empty; each is told `reason`.
  void abort(const std::string& request_id, const std::string& reason);
  std::size_t calls_count() const { return calls_.size(); }

 private:
  struct Batch {
    TimePoint arrived;
    std::vector<engine::TokenEvent> events;
  };
  struct Destination {
    LiveCall* call = nullptr;
    std::size_t index = 0;
  };
  void drain();

  IoLoop& loop_;
  Service& service_;

  std::mutex mutex_;
  std::vector<Batch> inbox_;  // guarded by mutex_
  bool woken_ = false;        // guarded by mutex_: a drain() is posted
  bool closed_ = false;       // guarded by mutex_

  std::vector<Batch> batches_;  // being drained
  std::vector<Client*> touched_;
  std::unordered_map<std::uint64_t, LiveCall*> calls_;       // by call id
  std::unordered_map<std::uint64_t, Destination> requests_;  // by tag
};

}  // namespace tandem::server

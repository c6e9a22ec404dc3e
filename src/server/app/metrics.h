// What the server counts, and its text form for Prometheus. Names follow vLLM's where the meaning is the same, under
// the prefix "tandem:".
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "engine/engine.h"
#include "server/app/histogram.h"

namespace tandem::server {

// Threads: any.
class Metrics {
 public:
  // Of calls.
  Histogram time_to_first_token_s{kSecondsBounds};
  Histogram inter_token_s{kSecondsBounds};
  Histogram end_to_end_s{kSecondsBounds};
  Histogram queue_s{kSecondsBounds};    // from arrival to the first blocks
  Histogram prefill_s{kSecondsBounds};  // from there to the first token
  Histogram decode_s{kSecondsBounds};   // from there to the last
  Histogram prompt_tokens{kTokensBounds};
  Histogram generation_tokens{kTokensBounds};
  Histogram delivery_s{kDeliveryBounds};  // from the engine's hand to the socket, a step at a time
  std::atomic<std::int64_t> cancelled{0}, paused_streams{0};

  // Of connections.
  std::atomic<std::int64_t> connections_open{0}, connections_total{0};
  // Tasks of worker threads under way or queued.
  std::atomic<std::int64_t> tasks{0};

  void count_finish(const char* reason) { add(finishes_, reason); }
  void count_refusal(const char* reason) { add(refusals_, reason); }
  // `route` is the route's pattern, never what a client wrote.
  void count_request(const char* route, int status);

  // Text exposition format 0.0.4.
  std::string to_text(const engine::EngineStats& engine, const std::string& model, std::int64_t calls) const;

 private:
  using Counts = std::map<std::string, std::int64_t>;
  void add(Counts& counts, const std::string& key);

  mutable std::mutex mutex_;
  // Guarded by mutex_:
  Counts finishes_, refusals_;
  std::map<std::pair<std::string, int>, std::int64_t> requests_;
};

}  // namespace tandem::server

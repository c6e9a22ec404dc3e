// What all connections of a server share.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "base/clock.h"
#include "engine/engine.h"
#include "server/api/call.h"
#include "server/app/admission.h"
#include "server/app/key_ring.h"
#include "server/app/metrics.h"
#include "server/app/options.h"
#include "server/app/rate_limiter.h"
#include "server/app/request_guard.h"
#include "server/app/worker_pool.h"

namespace tandem::server {

// Threads: any; what is not const locks for itself.
struct Service {
  Service(const ServerOptions& options, std::string version, std::int64_t running_max, const ApiContext& api,
          engine::Engine& engine, const Clock& clock);

  const ServerOptions options;
  const std::string version;
  const ApiContext& api;
  engine::Engine& engine;
  const Clock& clock;
  const RequestGuard guard;

  KeyRing keys, control_keys;
  RateLimiter limiter;
  Admission admission;
  Metrics metrics;
  ByteBudget body_budget;
  std::atomic<bool> draining{false};
  std::atomic<std::uint64_t> next_tag{1};
  // Ends the calls of that request id, or all where it is empty; set by the server. Returns at once.
  std::function<void(const std::string& request_id)> abort_calls;
  WorkerPool workers;  // last: its tasks use what is above

  // Letters and digits, never twice.
  std::string new_call_id();
  std::int64_t unix_seconds() const;

 private:
  const std::uint64_t id_seed_;
  std::atomic<std::uint64_t> ids_made_{0};
};

}  // namespace tandem::server

// Decides whether a call may join those under way, before anything is spent on it. What is refused is told when to come
// again: the time that the queue ahead of it takes at the rate at which calls have lately ended.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include "base/clock.h"

namespace tandem::server {

struct AdmissionLimits {
  std::int64_t running_max = 64;        // calls that run at once; the others wait
  std::int64_t queue_requests_max = 0;  // that wait
  std::int64_t queue_tokens_max = 0;    // prompt tokens before their call's first token; 0: no limit
  double queue_wait_s_max = 0;          // 0: no limit
};

// Threads: any.
class Admission {
 public:
  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

  struct Refusal {
    const char* reason = "";  // "queue_full", "queue_wait", "queue_tokens"
    double retry_after_s = 0;
  };
  // Nothing: the call is in, and leave() is owed.
  std::optional<Refusal> enter(TimePoint now);
  // What enter() would say, taking nothing.
  std::optional<Refusal> probe(TimePoint now) const;
  void leave(TimePoint now);

  // The call's prompt is known. Nothing: its tokens count as queued until end_prompt().
  std::optional<Refusal> add_prompt(std::int64_t tokens);
  void end_prompt(std::int64_t tokens);

  std::int64_t calls() const;

 private:
  double rate(TimePoint now) const;  // calls ended a second, lately; 0: unknown
  std::optional<Refusal> judge(TimePoint now) const;
  Refusal refusal(const char* reason, double wait_s) const;

  const AdmissionLimits limits_;
  mutable std::mutex mutex_;
  // Guarded by mutex_:
  std::int64_t calls_ = 0, queued_tokens_ = 0;
  double ended_ = 0;     // calls, decaying with kMemoryS
  double window_s_ = 0;  // the time they are of, decaying alike
  TimePoint updated_;
};

}  // namespace tandem::server

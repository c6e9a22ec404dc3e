// A token bucket for each caller: so many requests a second, and two seconds' worth at once.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/clock.h"

namespace tandem::server {

// Threads: any. Memory: at most kCallersMax callers; those with full buckets are forgotten first.
class RateLimiter {
 public:
  static constexpr std::size_t kCallersMax = 16384;

  explicit RateLimiter(double requests_per_s) : rate_(requests_per_s) {}  // 0: lets everything through

  // 0: the request may go on. Otherwise seconds until the next one may.
  double take(const std::string& caller, TimePoint now);
  std::size_t callers_count() const;

 private:
  struct Bucket {
    double tokens = 0;
    TimePoint updated;
  };
  double burst() const { return 2 * rate_ < 1 ? 1 : 2 * rate_; }
  void refill(Bucket& bucket, TimePoint now) const;
  void forget_idle(TimePoint now);

  const double rate_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;  // guarded by mutex_
};

}  // namespace tandem::server

#include "server/app/rate_limiter.h"

#include <algorithm>

namespace tandem::server {

void RateLimiter::refill(Bucket& bucket, TimePoint now) const {
  const double elapsed_s = static_cast<double>(now.ns - bucket.updated.ns) * 1e-9;
  bucket.tokens = std::min(burst(), bucket.tokens + std::max(0.0, elapsed_s) * rate_);
  bucket.updated = now;
}

void RateLimiter::forget_idle(TimePoint now) {
  std::erase_if(buckets_, [&](const auto& entry) {
    Bucket bucket = entry.second;
    refill(bucket, now);
    return bucket.tokens >= burst();
  });
  // All are busy: a flood of callers. Starting over favours them all alike, and stays bounded.
  if (buckets_.size() >= kCallersMax) buckets_.clear();
}

double RateLimiter::take(const std::string& caller, TimePoint now) {
  if (rate_ <= 0) return 0;
  std::lock_guard lock(mutex_);
  if (buckets_.size() >= kCallersMax && !buckets_.contains(caller)) forget_idle(now);
  Bucket& bucket = buckets_.try_emplace(caller, Bucket{burst(), now}).first->second;
  refill(bucket, now);
  if (bucket.tokens < 1) return (1 - bucket.tokens) / rate_;
  bucket.tokens -= 1;
  return 0;
}

std::size_t RateLimiter::callers_count() const {
  std::lock_guard lock(mutex_);
  return buckets_.size();
}

}  // namespace tandem::server

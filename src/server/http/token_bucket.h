// So many a second, and ten times as many at once.
#pragma once

#include <algorithm>

#include "base/clock.h"

namespace tandem::server {

class TokenBucket {
 public:
  TokenBucket(double per_s, TimePoint now) : per_s_(per_s), tokens_(10 * per_s), filled_(now) {}

  // False, and nothing taken, if less than one is left.
  bool take(TimePoint now) {
    if (now > filled_) {
      tokens_ = std::min(10 * per_s_, tokens_ + per_s_ * 1e-9 * static_cast<double>(now.ns - filled_.ns));
      filled_ = now;
    }
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double per_s_, tokens_;
  TimePoint filled_;
};

}  // namespace tandem::server

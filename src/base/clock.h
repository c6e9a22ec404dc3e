// Time enters by interface, so that schedulers and deadlines can be tested on a clock that a test moves by hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tandem {

// Nanoseconds since an arbitrary, monotonic start.
struct TimePoint {
  std::int64_t ns = 0;
  friend constexpr auto operator<=>(TimePoint, TimePoint) = default;
};

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
};

// The machine's monotonic clock. Threads: any.
class SteadyClock final : public Clock {
 public:
  TimePoint now() const override {
    return {std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
                .count()};
  }
};

// A clock that stands still until told to move. Threads: any.
class ManualClock final : public Clock {
 public:
  TimePoint now() const override { return {ns_.load()}; }
  void advance_ns(std::int64_t ns) { ns_ += ns; }

 private:
  std::atomic<std::int64_t> ns_{0};
};

}  // namespace tandem

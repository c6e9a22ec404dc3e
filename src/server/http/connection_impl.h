// The connections behind Connection::create(), and what they share.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "server/http/backlog.h"
#include "server/http/connection.h"

namespace tandem::server {

// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
inline constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

std::unique_ptr<Connection> create_http1_connection(const ConnectionLimits& limits, ByteBudget& body_budget,
                                                    ConnectionEvents& events, TimePoint now);
std::unique_ptr<Connection> create_http2_connection(const ConnectionLimits& limits, ByteBudget& body_budget,
                                                    ConnectionEvents& events, TimePoint now);

// A body that is being read, against the clock: a read every body_timeout_ns, and after that time not less than
// body_bytes_per_s_min on average.
class BodyClock {
 public:
  BodyClock() = default;
  explicit BodyClock(TimePoint start) : start_(start), last_(start) {}
  void read(std::size_t bytes, TimePoint now) {
    bytes_ += static_cast<std::int64_t>(bytes);
    last_ = now;
  }
  TimePoint due(const ConnectionLimits& limits) const {
    const TimePoint pause = after(last_, limits.body_timeout_ns);
    const std::int64_t rate = limits.body_bytes_per_s_min;
    if (rate <= 0) return pause;
    // The first nanosecond at which bytes < rate * time.
    const std::int64_t whole_s = bytes_ / rate;
    if (whole_s > kNever.ns / kSecondNs / 2) return pause;
    const std::int64_t too_slow_ns = whole_s * kSecondNs + (bytes_ % rate) * kSecondNs / rate + 1;
    return std::min(pause, after(start_, std::max(limits.body_timeout_ns, too_slow_ns)));
  }

 private:
  TimePoint start_, last_;
  std::int64_t bytes_ = 0;
};

}  // namespace tandem::server

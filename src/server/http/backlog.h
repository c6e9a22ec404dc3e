// The bytes of an answer's body that wait to be sent, and how long they have waited.
//
// Rules of limits.h: above backlog_high_bytes the source should pause, below backlog_low_bytes it may go on; a backlog
// that does not shrink for stall_timeout_ns, or stays high as long, is stalled. Shrinking a byte at a time does not
// count: the clock starts anew once kProgressBytes are gone, or all.
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "server/http/limits.h"

namespace tandem::server {

inline constexpr TimePoint kNever{std::numeric_limits<std::int64_t>::max()};

inline TimePoint after(TimePoint start, std::int64_t ns) {
  return {start.ns > kNever.ns - ns ? kNever.ns : start.ns + ns};
}

// Bytes in at the back, out at the front. Keeps its memory, so that a stream of small pieces allocates nothing.
class ByteQueue {
 public:
  std::size_t size() const { return bytes_.size() - begin_; }
  bool empty() const { return size() == 0; }
  std::string_view view() const { return std::string_view(bytes_).substr(begin_); }
  void append(std::string_view bytes) { bytes_.append(bytes); }
  void append(std::string&& bytes) {
    if (empty()) {
      bytes_ = std::move(bytes);
      begin_ = 0;
    } else {
      bytes_.append(bytes);
    }
  }
  void drop(std::size_t count) {
    begin_ += count;
    if (begin_ == bytes_.size()) {
      clear();
    } else if (begin_ > bytes_.size() / 2) {  // moves at most as many bytes as were dropped since the last time
      bytes_.erase(0, begin_);
      begin_ = 0;
    }
  }
  void clear() {
    bytes_.clear();
    begin_ = 0;
  }

 private:
  std::string bytes_;
  std::size_t begin_ = 0;
};

// How long output has waited. Methods that give output know no time, so waiting starts at the next call that does.
class StallClock {
 public:
  static constexpr std::size_t kProgressBytes = 4 << 10;

  // Output is there at `now`: the clock runs, if it does not yet.
  void wait(TimePoint now) {
    if (!since_) since_ = now;
  }
  void sent(std::size_t bytes, TimePoint now) {
    sent_bytes_ += bytes;
    if (!since_ || sent_bytes_ < kProgressBytes) return;
    since_ = now;
    sent_bytes_ = 0;
  }
  void stop() {
    since_.reset();
    sent_bytes_ = 0;
  }
  bool running() const { return since_.has_value(); }
  TimePoint due(std::int64_t timeout_ns) const { return since_ ? after(*since_, timeout_ns) : kNever; }

 private:
  std::optional<TimePoint> since_;
  std::size_t sent_bytes_ = 0;
};

class Backlog {
 public:
  explicit Backlog(const ConnectionLimits& limits) : limits_(&limits) {}

  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  std::string_view view() const { return bytes_.view(); }

  void append(std::string_view bytes) {
    bytes_.append(bytes);
    high_ |= size() > limits_->backlog_high_bytes;
  }
  void append(std::string&& bytes) {
    bytes_.append(std::move(bytes));
    high_ |= size() > limits_->backlog_high_bytes;
  }
  void sent(std::size_t count, TimePoint now) {
    bytes_.drop(count);
    stall_.sent(count, now);
    if (high_ && size() < limits_->backlog_low_bytes) {
      high_ = false;
      drained_ = true;
      high_stall_.stop();
    }
    if (empty()) stall_.stop();
  }
  void clear() { *this = Backlog(*limits_); }

  // Once after the backlog was high and is low again.
  bool take_drained() { return std::exchange(drained_, false); }

  // Some of it waits, and has no clock yet.
  bool unstamped() const { return (!empty() && !stall_.running()) || (high_ && !high_stall_.running()); }
  void stamp(TimePoint now) {
    if (!empty()) stall_.wait(now);
    if (high_) high_stall_.wait(now);
  }
  TimePoint due() const {
    return std::min(stall_.due(limits_->stall_timeout_ns), high_stall_.due(limits_->stall_timeout_ns));
  }

 private:
  const ConnectionLimits* limits_;
  ByteQueue bytes_;
  StallClock stall_, high_stall_;
  bool high_ = false, drained_ = false;
};

}  // namespace tandem::server

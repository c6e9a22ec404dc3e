// What one connection may cost. Each bound has a test that goes one beyond it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tandem::server {

inline constexpr std::int64_t kSecondNs = 1'000'000'000;

struct ConnectionLimits {
  std::size_t target_bytes_max = 8 << 10;     // path and query; beyond: 414
  std::size_t header_bytes_max = 32 << 10;    // names and values of one head; beyond: 431
  std::size_t headers_max = 100;              // beyond: 431
  std::size_t body_bytes_max = 32u << 20;     // beyond: 413, before more is read
  std::size_t chunk_overhead_max = 16 << 10;  // HTTP/1.1: sizes, extensions and trailers of a chunked body, beyond 1/4
                                              // of the body so far: 400
  int streams_max = 100;                      // HTTP/2: requests under way
  int pipelined_max = 16;                     // HTTP/1.1: requests read ahead of their answers
  std::int64_t requests_max = 10'000;         // then the connection is drained

  std::size_t backlog_high_bytes = 256 << 10;  // of one stream: above it, the answer's source should pause
  std::size_t backlog_low_bytes = 64 << 10;    // below it again: on_drained()

  std::int64_t head_timeout_ns = 10 * kSecondNs;   // from a head's first byte to its last: 408
  std::int64_t body_timeout_ns = 30 * kSecondNs;   // between two reads of a body: 408
  std::int64_t body_bytes_per_s_min = 1 << 10;     // averaged over the body, after body_timeout_ns: 408
  std::int64_t idle_timeout_ns = 75 * kSecondNs;   // without a request under way
  std::int64_t stall_timeout_ns = 30 * kSecondNs;  // a backlog that does not shrink, or stays high: the stream is reset

  // HTTP/2, token buckets: what a peer can make us do for free, a second (and ten times as much at once).
  double resets_per_s = 20;    // streams reset by the peer, beyond one for each DATA frame that we
                               // sent, or by us for what it did wrong
  double controls_per_s = 50;  // PING, SETTINGS, PRIORITY, unknown and empty DATA frames; WINDOW_UPDATEs, beyond four
                               // for each DATA frame that we sent
};

// Bytes that all connections together may hold of requests' bodies. Threads: any.
class ByteBudget {
 public:
  explicit ByteBudget(std::size_t bytes_max) : left_(static_cast<std::int64_t>(bytes_max)) {}
  // False, and nothing taken, if less is left.
  bool take(std::size_t bytes) {
    const auto wanted = static_cast<std::int64_t>(bytes);
    if (left_.fetch_sub(wanted, std::memory_order_relaxed) >= wanted) return true;
    left_.fetch_add(wanted, std::memory_order_relaxed);
    return false;
  }
  void give_back(std::size_t bytes) { left_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed); }
  std::int64_t left() const { return left_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> left_;
};

}  // namespace tandem::server

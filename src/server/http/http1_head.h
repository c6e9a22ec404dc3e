// The head of an HTTP/1.1 request, from bytes to fields.
//
// HeadScanner collects a head byte by byte: it finds its end, holds it to its limits, and refuses what parsers have
// been known to read differently (bare line feeds, folded lines, control characters), so that how the bytes were split
// never matters. parse_http1_head() then takes the whole head apart. Sources: RFC 9112 sections 2, 3, 5 and 6.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/limits.h"
#include "server/http/message.h"
#include "server/http/target.h"

namespace tandem::server {

struct Http1Head {
  RequestHead request;
  bool keep_alive = false;
  bool chunked = false;
  bool expects_continue = false;
  std::uint64_t body_bytes = 0;  // Content-Length

  bool has_body() const { return chunked || body_bytes > 0; }
};

class HeadScanner {
 public:
  explicit HeadScanner(const ConnectionLimits& limits) : limits_(limits) {}

  // Takes bytes up to the end of the head or to the first that is refused; returns how many. One empty line before the
  // head is skipped.
  std::size_t scan(std::string_view bytes);
  bool started() const { return state_ != State::kStart || skipped_bytes_ > 0; }
  bool done() const { return state_ == State::kDone; }
  const std::optional<Refusal>& refusal() const { return refusal_; }
  std::string_view head() const { return head_; }
  void reset();

 private:
  enum class State : std::uint8_t { kStart, kRequestLine, kLineStart, kLine, kLineEnd, kHeadEnd, kDone };

  void scan_byte(char c);
  void refuse(int status, std::string_view reason) { refusal_ = Refusal{status, reason}; }

  const ConnectionLimits& limits_;
  State state_ = State::kStart;
  std::optional<Refusal> refusal_;
  std::string head_;
  std::size_t skipped_bytes_ = 0, spaces_ = 0, target_bytes_ = 0, lines_ = 0, line_bytes_ = 0;
};

// `bytes` is a head that a scanner found. Nothing: `head` was filled in.
std::optional<Refusal> parse_http1_head(std::string_view bytes, const ConnectionLimits& limits, Http1Head& head);

}  // namespace tandem::server

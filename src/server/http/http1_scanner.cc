#include "server/http/http1_head.h"

namespace tandem::server {

std::size_t HeadScanner::scan(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && !done() && !refusal_) scan_byte(bytes[taken++]);
  return taken;
}

void HeadScanner::reset() {
  state_ = State::kStart;
  refusal_.reset();
  head_.clear();
  skipped_bytes_ = spaces_ = target_bytes_ = lines_ = line_bytes_ = 0;
}

void HeadScanner::scan_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  switch (state_) {
    case State::kStart:
      if ((c == '\r' && skipped_bytes_ == 0) || (c == '\n' && skipped_bytes_ == 1)) {
        ++skipped_bytes_;
        return;
      }
      if (skipped_bytes_ == 1) return refuse(400, "a carriage return without a line feed");
      if (c <= ' ' || byte >= 0x7f) return refuse(400, "this is not an HTTP request");
      state_ = State::kRequestLine;
      break;
    case State::kRequestLine:
      if (c == '\r') {
        state_ = State::kLineEnd;
      } else if (c < ' ' || byte >= 0x7f) {
        return refuse(400, "the request line has bytes that are not printable ASCII");
      } else if (c == ' ') {
        ++spaces_;
      } else if (spaces_ == 0) {
        if (head_.size() >= 32) return refuse(400, "the method is too long");
      } else if (spaces_ == 1) {
        if (++target_bytes_ > limits_.target_bytes_max) return refuse(414, "the request target is too long");
      } else if (spaces_ > 2 || ++line_bytes_ > 8) {
        return refuse(400, "the request line is malformed");
      }
      break;
    case State::kLineStart:
      if (c == ' ' || c == '\t') return refuse(400, "a header is folded over several lines");
      if (c == '\r') {
        state_ = State::kHeadEnd;
        break;
      }
      if (++lines_ > limits_.headers_max) return refuse(431, "there are too many headers");
      state_ = State::kLine;
      [[fallthrough]];
    case State::kLine:
      if (c == '\r') {
        state_ = State::kLineEnd;
      } else if ((byte < ' ' && c != '\t') || byte == 0x7f) {
        return refuse(400, "a header has a control character");
      } else if (++line_bytes_ > limits_.header_bytes_max + 4 * limits_.headers_max) {
        return refuse(431, "the headers are too large");  // the rest is allowed to colons and white space
      }
      break;
    case State::kLineEnd:
      if (c != '\n') return refuse(400, "a carriage return without a line feed");
      if (lines_ == 0) line_bytes_ = 0;  // that was the request line
      state_ = State::kLineStart;
      break;
    case State::kHeadEnd:
      if (c != '\n') return refuse(400, "a carriage return without a line feed");
      state_ = State::kDone;
      break;
    case State::kDone: return;
  }
  head_.push_back(c);
}

}  // namespace tandem::server

#include "server/http/http1_chunks.h"

#include <algorithm>

namespace tandem::server {
namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool is_text(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte >= ' ' && byte != 0x7f) || c == '\t';
}

}  // namespace

std::size_t ChunkDecoder::decode(std::string_view bytes, std::string_view& data) {
  data = {};
  std::size_t taken = 0;
  while (taken < bytes.size() && state_ < State::kDone) {
    if (state_ != State::kData) {
      ++overhead_bytes_;
      decode_byte(bytes[taken++]);
      if (overhead_bytes_ > limits_->chunk_overhead_max + body_bytes_ / 4 && state_ < State::kMalformed)
        state_ = State::kMalformed;
      continue;
    }
    data = bytes.substr(taken, std::min<std::uint64_t>(chunk_left_, bytes.size() - taken));
    chunk_left_ -= data.size();
    body_bytes_ += data.size();
    if (chunk_left_ == 0) state_ = State::kDataReturn;
    return taken + data.size();
  }
  return taken;
}

void ChunkDecoder::decode_byte(char c) {
  const auto expect = [&](bool met, State next) { state_ = met ? next : State::kMalformed; };
  switch (state_) {
    case State::kSize: return begin_size(c);
    case State::kExtension:
      if (c == '\r') {
        state_ = State::kSizeEnd;
      } else if (!is_text(c)) {
        state_ = State::kMalformed;
      }
      return;
    case State::kSizeEnd:
      if (c != '\n') {
        state_ = State::kMalformed;
        return;
      }
      return end_size();
    case State::kDataReturn: return expect(c == '\r', State::kDataEnd);
    case State::kDataEnd: return expect(c == '\n', State::kSize);
    case State::kTrailerStart:
      return expect(c == '\r' || (is_text(c) && c != ' ' && c != '\t'), c == '\r' ? State::kLastEnd : State::kTrailer);
    case State::kTrailer:
      if (c == '\r') {
        state_ = State::kTrailerEnd;
      } else if (!is_text(c)) {
        state_ = State::kMalformed;
      }
      return;
    case State::kTrailerEnd: return expect(c == '\n', State::kTrailerStart);
    case State::kLastEnd: return expect(c == '\n', State::kDone);
    case State::kData:
    case State::kDone:
    case State::kMalformed:
    case State::kTooLarge: return;
  }
}

void ChunkDecoder::begin_size(char c) {
  const int digit = hex_value(c);
  if (digit >= 0) {
    if (++digits_ > 15) state_ = State::kMalformed;
    chunk_left_ = chunk_left_ * 16 + static_cast<std::uint64_t>(digit);
    return;
  }
  if (digits_ == 0) {
    state_ = State::kMalformed;
  } else if (c == '\r') {
    state_ = State::kSizeEnd;
  } else {
    state_ = c == ';' ? State::kExtension : State::kMalformed;
  }
}

void ChunkDecoder::end_size() {
  digits_ = 0;
  if (chunk_left_ == 0) {
    state_ = State::kTrailerStart;
  } else if (chunk_left_ > limits_->body_bytes_max || body_bytes_ > limits_->body_bytes_max - chunk_left_) {
    state_ = State::kTooLarge;
  } else {
    state_ = State::kData;
  }
}

}  // namespace tandem::server

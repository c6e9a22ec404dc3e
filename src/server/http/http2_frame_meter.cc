#include "server/http/http2_frame_meter.h"

#include <algorithm>

namespace tandem::server {
namespace {

// RFC 9113 section 6.
enum FrameType : std::uint8_t { kData = 0, kHeaders = 1, kResetStream = 3, kWindowUpdate = 8, kContinuation = 9 };
constexpr std::uint8_t kEndStream = 0x1, kEndHeaders = 0x4, kPadded = 0x8;

}  // namespace

std::size_t Http2FrameMeter::advance(std::string_view bytes, TimePoint now) {
  std::size_t taken = 0;
  while (taken < bytes.size() && !flooded_) {
    if (!partial_since_ && (header_bytes_ == 0 || header_[3] != kData)) partial_since_ = now;
    if (header_bytes_ < kHeaderBytes) {
      header_[header_bytes_++] = static_cast<std::uint8_t>(bytes[taken++]);
      if (header_bytes_ < kHeaderBytes) continue;
      const std::size_t begin = taken;
      begin_frame(now);
      if (flooded_) return begin - std::min(begin, kHeaderBytes);
    } else if (padding_next_) {
      padding_next_ = false;
      --payload_left_;
      begin_padded_data(static_cast<std::uint8_t>(bytes[taken++]), now);
    } else {
      const std::size_t count = std::min(payload_left_, bytes.size() - taken);
      payload_left_ -= count;
      taken += count;
    }
    if (payload_left_ == 0) end_frame();
  }
  return taken;
}

void Http2FrameMeter::begin_frame(TimePoint now) {
  payload_left_ = static_cast<std::size_t>(header_[0]) << 16 | static_cast<std::size_t>(header_[1]) << 8 | header_[2];
  const std::uint8_t flags = header_[4];
  switch (header_[3]) {
    case kData:
      partial_since_.reset();  // a body has its own clock
      padding_next_ = (flags & kPadded) != 0 && payload_left_ > 0;
      if (payload_left_ == 0 && (flags & kEndStream) == 0) take_control(now);
      return;
    case kHeaders:
    case kContinuation:
      in_head_ = (flags & kEndHeaders) == 0;
      continuations_ = header_[3] == kHeaders ? 0 : continuations_ + 1;
      flooded_ |= continuations_ > kContinuationsMax;
      return;
    case kResetStream:
      if (resets_free_ > 0) {
        --resets_free_;
      } else {
        count_reset(now);
      }
      return;
    case kWindowUpdate:
      if (window_updates_free_ > 0) {
        --window_updates_free_;
        return;
      }
      [[fallthrough]];
    default: take_control(now);
  }
}

void Http2FrameMeter::begin_padded_data(std::uint8_t padding, TimePoint now) {
  if (padding >= payload_left_ && (header_[4] & kEndStream) == 0) take_control(now);
}

void Http2FrameMeter::end_frame() {
  header_bytes_ = 0;
  if (!in_head_) partial_since_.reset();
}

}  // namespace tandem::server

// Walks over the frames that a peer sends, beside the library that reads them, and counts those that cost us something
// and the peer nothing: floods of PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, unknown frames and empty DATA
// are correct HTTP/2, and each of them makes somebody's server work. It also knows whether a frame or a head is half
// read, which the library does not tell. Threads: one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "server/http/connection_impl.h"
#include "server/http/limits.h"
#include "server/http/token_bucket.h"

namespace tandem::server {

class Http2FrameMeter {
 public:
  Http2FrameMeter(const ConnectionLimits& limits, TimePoint now)
      : resets_(limits.resets_per_s, now), controls_(limits.controls_per_s, now) {}

  // How many of `bytes` may be read on: all, or those before the frame that was one too many; flooded() holds then.
  std::size_t advance(std::string_view bytes, TimePoint now);
  bool flooded() const { return flooded_; }
  // A stream was reset by us, for something that the peer did.
  void count_reset(TimePoint now) { flooded_ |= !resets_.take(now); }
  // We sent a DATA frame: the peer may answer with WINDOW_UPDATEs; and with an RST_STREAM, which some libraries send
  // for every frame that was on its way when they reset its stream.
  void count_data_sent() {
    window_updates_free_ = std::min(window_updates_free_ + 4, 1000);
    resets_free_ = std::min(resets_free_ + 1, 200);
  }
  // The first byte of what is half read: the preface, a head, a frame other than DATA.
  const std::optional<TimePoint>& partial_since() const { return partial_since_; }

 private:
  static constexpr std::size_t kHeaderBytes = 9;
  static constexpr int kContinuationsMax = 8;  // of one head: with frames of 16 KiB, far more than its limits

  void begin_frame(TimePoint now);
  void begin_padded_data(std::uint8_t padding, TimePoint now);
  void end_frame();
  void take_control(TimePoint now) { flooded_ |= !controls_.take(now); }

  TokenBucket resets_, controls_;
  int window_updates_free_ = 0, resets_free_ = 0;
  bool flooded_ = false;
  // The preface counts as the payload of a frame of no known type.
  std::array<std::uint8_t, kHeaderBytes> header_{0, 0, 0, 0xff};
  std::size_t header_bytes_ = kHeaderBytes;  // read of the current frame's header
  std::size_t payload_left_ = kHttp2Preface.size();
  bool in_head_ = false;  // until END_HEADERS
  int continuations_ = 0;
  bool padding_next_ = false;  // the next byte is a DATA frame's length of padding
  std::optional<TimePoint> partial_since_;
};

}  // namespace tandem::server

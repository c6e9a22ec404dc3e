// A chunked body, decoded byte by byte: how the bytes were split never matters, and nothing but the state is kept.
// Extensions and trailers are read and forgotten. Source: RFC 9112 section 7.1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/http/limits.h"

namespace tandem::server {

class ChunkDecoder {
 public:
  enum class State : std::uint8_t {
    kSize,
    kExtension,
    kSizeEnd,
    kData,
    kDataReturn,
    kDataEnd,
    kTrailerStart,
    kTrailer,
    kTrailerEnd,
    kLastEnd,
    kDone,
    kMalformed,  // also: too much of it is not body (limits.h, chunk_overhead_max)
    kTooLarge,   // the chunk announced makes the body larger than body_bytes_max
  };

  explicit ChunkDecoder(const ConnectionLimits& limits) : limits_(&limits) {}

  // Takes bytes up to the end of the body, to the first that is refused, or to the end of a piece of data, which it
  // then points `data` at. Returns how many.
  std::size_t decode(std::string_view bytes, std::string_view& data);
  State state() const { return state_; }
  std::uint64_t body_bytes() const { return body_bytes_; }  // so far

 private:
  void decode_byte(char c);
  void begin_size(char c);
  void end_size();

  const ConnectionLimits* limits_;
  State state_ = State::kSize;
  int digits_ = 0;
  std::uint64_t chunk_left_ = 0, body_bytes_ = 0, overhead_bytes_ = 0;
};

}  // namespace tandem::server

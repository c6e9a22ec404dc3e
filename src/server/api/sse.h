// Server-sent events: how a stream's chunks are framed.
#pragma once

#include <string>
#include <string_view>

#include "server/api/error.h"
#include "server/api/json_text.h"

namespace tandem::server {

inline constexpr std::string_view kSseBegin = "data: ", kSseEnd = "\n\n", kSseDone = "data: [DONE]\n\n";

// An error after the stream began.
inline void append_sse_error(std::string& out, const ApiError& error) {
  append(out, kSseBegin, error_json(error), kSseEnd);
}

}  // namespace tandem::server

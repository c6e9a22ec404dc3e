// One line of `tandem generate --input` as a request. The fields are listed in generate_file.h.
#pragma once

#include <string_view>

#include "base/json.h"
#include "cli/prompt.h"
#include "engine/request.h"

namespace tandem::cli {

struct RequestLine {
  json::value id;  // as given; null if the line has none or is not an object
  Result<engine::Request> request = Status(StatusCode::kInvalidArgument, "empty");
};

//   defaults  what the flags say; the line's own fields override it
//   chat      the model's template, or the reason why there is none
//   chat_default  whether "prompt" is a user's message where the line does not say
RequestLine parse_request_line(std::string_view line, const engine::Request& defaults, const ModelHost& host,
                               const Result<model::ChatPrompt>& chat, bool chat_default);

}  // namespace tandem::cli

// A body of /v1/responses said as one of /v1/chat/completions.
#pragma once

#include <string>
#include <vector>

#include "base/json_fields.h"
#include "server/api/error.h"

namespace tandem::server {

struct ChatDocument {
  json::object body;
  std::vector<std::size_t> inputs;  // of each message: the item of `input` that it came from; npos: instructions
  std::string settings;             // see ResponseAnswer
};

// What is wrong goes to `fields`. State kept on the server (previous_response_id, conversation, background) is refused.
ChatDocument chat_of_response(JsonFields& fields);

// An error about a field of the chat, as one about the field it came from.
ApiError error_of_response(ApiError error, const ChatDocument& chat);

}  // namespace tandem::server

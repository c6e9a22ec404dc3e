// The answers of /v1/responses, whole and as typed, numbered events.
//
// An answer is a row of items: reasoning, a message, calls of functions. One is open at a time; text of another kind
// closes it. Streamed, each change is an event; at the end the whole row is written once more.
#pragma once

#include <memory>
#include <string>

#include "server/api/call.h"
#include "server/api/chat_writer.h"

namespace tandem::server {

struct ResponseAnswer {
  ChatAnswer chat;       // one sample
  std::string settings;  // what the call asked for, said again: members, with a comma before each
};

std::unique_ptr<CallWriter> make_response_writer(ResponseAnswer answer);

}  // namespace tandem::server

// The head of an answer: its checks, and how HTTP/1.1 writes it.
#pragma once

#include <string>
#include <string_view>

#include "server/http/message.h"

namespace tandem::server {

// The name of a status, as HTTP/1.1 writes it; "Unknown" for those never sent here.
std::string_view reason_phrase(int status);

// Neither an answer to HEAD nor one of these statuses has a body.
inline bool status_has_body(int status) { return status != 204 && status != 304; }

// A head that breaks these rules is a bug, and stops the program: the status is final; names are lower-case tokens and
// not those that connections add; values have no control characters, so that none can end its line.
void check_answer_head(const ResponseHead& head);

// Appends the status line and the headers, without the empty line after them.
void write_answer_head(const ResponseHead& head, std::string& out);

}  // namespace tandem::server

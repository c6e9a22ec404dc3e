// The messages of a chat: checked, and brought into the form that chat templates expect.
#pragma once

#include <string>

#include "base/json_fields.h"
#include "server/api/output_parser.h"

namespace tandem::server {

// Reads `messages`. What comes out is what transformers' users hand to a template: each message an object with "role"
// and "content" (a string: text parts are joined by line ends) and, where given, "name", "tool_call_id",
// "reasoning_content" and "tool_calls", whose arguments are objects where they parse as such.
// "developer" becomes "system", "function" becomes "tool": templates know no others.
//   format  of the model's calls: ids of calls are made to fit it
json::array read_messages(JsonFields& fields, ToolFormat format);

}  // namespace tandem::server

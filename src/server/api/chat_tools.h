// Tools of a chat: what the template shows of them, and the grammar that makes a model call one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fields.h"
#include "engine/grammar/grammar.h"
#include "server/api/grammar_fields.h"
#include "server/api/output_parser.h"

namespace tandem::server {

enum class ToolUse : std::uint8_t { kNone, kAuto, kRequired };

struct ChatTools {
  json::array shown;  // the tools that may be called, as the client sent them: what a template gets
  ToolUse use = ToolUse::kNone;
  bool parallel = true;
};

// tools, tool_choice and parallel_tool_calls. A tool_choice of one function or of allowed_tools leaves only those.
ChatTools read_tools(JsonFields& fields);

// What binds an answer to its tools and its format; null where it is free.
//   kRequired       one call, or several if they may be parallel, written as `tools_format` has it
//   kAuto           with a format: either a call or text of that format. Without: nothing
// Failures go to `fields`.
std::shared_ptr<const engine::Grammar> make_grammar(const ChatTools& tools, ToolFormat tools_format,
                                                    const AnswerFormat& format, JsonFields& fields);

}  // namespace tandem::server

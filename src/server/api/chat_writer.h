// The answers of /v1/chat/completions, whole and streamed.
//
// Streamed: a choice's first chunk holds its role and goes out with its first token, never before. A token of plain
// text costs one escape of its text between a prefix and a suffix made in advance: no allocation once `body` has room.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/api/answer_options.h"
#include "server/api/call.h"
#include "server/api/logprob_text.h"
#include "server/api/output_parser.h"

namespace tandem::server {

// All that a chat's writer needs to know.
struct ChatAnswer {
  AnswerHead head;  // `object` is the writer's to set
  AnswerOptions options;
  OutputFormat format;
  bool parallel_tool_calls = true;  // false: calls after the first are left out
  std::string id_seed;              // ids of tool calls are made of it
  std::vector<TokenId> prompt;      // kept only if options.return_token_ids
  std::int64_t prompt_tokens = 0;
  int samples_count = 1;
  const model::Tokenizer* tokenizer = nullptr;
};

std::unique_ptr<CallWriter> make_chat_writer(ChatAnswer answer);

// The text of a choice, split into content, reasoning and calls.
class ChatSplitter {
 public:
  ChatSplitter(const OutputFormat& format, bool parallel_tool_calls);
  // What the event adds; valid until the next call. Text that is plain content is not copied: see content().
  const OutputDelta& take(const engine::TokenEvent& event);
  bool is_plain() const { return parser_ == nullptr; }
  bool made_calls() const { return parser_ != nullptr && parser_->tool_calls_count() > 0; }
  // Whether the last event gave reasoning and nothing else.
  bool only_reasoning() const {
    return !delta_.reasoning.empty() && delta_.content.empty() && delta_.tool_calls.empty();
  }

 private:
  std::unique_ptr<OutputParser> parser_;  // null: all text is content
  bool parallel_tool_calls_;
  OutputDelta delta_;
};

// An id for a tool call: a function of its arguments. `format` decides its form; Mistral's templates take nine
// characters.
std::string tool_call_id(std::string_view seed, std::size_t choice, int index, ToolFormat format);

}  // namespace tandem::server

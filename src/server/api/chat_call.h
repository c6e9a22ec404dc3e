// A chat completion's body as a request of the engine and an answer to be written: what /v1/chat/completions and
// /v1/responses have in common.
#pragma once

#include <string>

#include "base/json_fields.h"
#include "server/api/api_result.h"
#include "server/api/call.h"
#include "server/api/chat_tools.h"
#include "server/api/chat_writer.h"

namespace tandem::server {

struct ChatCall {
  engine::Request request;
  ChatAnswer answer;
};
ApiResult<ChatCall> read_chat_call(const ApiContext& context, const CallInfo& info, const json::object& document);

// Messages and what else a template reads.
struct ChatInput {
  json::array messages;
  model::ChatOptions options;
};
// messages, add_generation_prompt, continue_final_message, chat_template_kwargs, reasoning_effort; `tools` go to the
// template if they may be used.
ChatInput read_chat_input(const ApiContext& context, const ChatTools& tools, JsonFields& fields);
// Errors: 400 where there is no template, or where it refuses.
ApiResult<std::string> render_chat(const ApiContext& context, ChatInput input);
ApiResult<std::vector<TokenId>> encode_rendered(const ApiContext& context, const std::string& text);

}  // namespace tandem::server

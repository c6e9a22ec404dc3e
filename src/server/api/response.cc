// /v1/responses, without any state kept: a chat completion that is asked for and answered in other words.
#include <utility>

#include "server/api/call.h"
#include "server/api/chat_call.h"
#include "server/api/request_fields.h"
#include "server/api/response_request.h"
#include "server/api/response_writer.h"

namespace tandem::server {

CallResult prepare_response(const ApiContext& context, const CallInfo& info, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  ChatDocument said = chat_of_response(fields);
  check_unknown(context, fields);
  if (!error.ok()) return error_of(error);
  ApiResult<ChatCall> read = read_chat_call(context, info, said.body);
  if (!read.ok()) return error_of_response(std::move(read).status(), said);
  ChatCall chat = std::move(read).value();
  chat.answer.head.id = "resp_" + info.id;

  PreparedCall call;
  call.stream = chat.answer.options.stream;
  call.requests.push_back(std::move(chat.request));
  call.writer = make_response_writer({.chat = std::move(chat.answer), .settings = std::move(said.settings)});
  return call;
}

}  // namespace tandem::server

// Fields that several endpoints share: the model, sampling, stops, and how the answer is written.
#pragma once

#include <initializer_list>
#include <string_view>
#include <variant>

#include "base/json_fields.h"
#include "engine/request.h"
#include "server/api/answer_options.h"
#include "server/api/api_result.h"
#include "server/api/call.h"

namespace tandem::server {

// Parses a body of at most this depth. Errors: 400 "invalid_json".
ApiResult<json::object> parse_body(std::string_view body);

// Refuses a model that is not this one: 404 "model_not_found". A body that names none means this one.
ApiResult<std::monostate> check_model(const ApiContext& context, JsonFields& fields);
ApiResult<std::monostate> check_model_name(const ApiContext& context, std::string_view name);

// temperature, top_p, penalties, n, seed, stops, logit_bias... into `request`, and nothing about its length.
// `seed` is derived from the call's id where none is given.
void read_sampling(const ApiContext& context, const CallInfo& info, JsonFields& fields, engine::Request& request,
                   AnswerOptions& options);
// stream, stream_options, return_token_ids, prompt_logprobs...
void read_answer_options(JsonFields& fields, engine::Request& request, AnswerOptions& options);

// Fields that an answer does not depend on.
void accept_without_effect(JsonFields& fields, std::initializer_list<std::string_view> names);
// Fields that would change an answer in ways that are not there: refused by name, unless they ask for nothing (null,
// false, 0, an empty string, array or object).
struct Refusal {
  std::string_view name, remedy;
};
void refuse_fields(JsonFields& fields, std::initializer_list<Refusal> refusals);
// What vLLM and llama.cpp take beside OpenAI's fields: without effect here, or refused.
void read_foreign_fields(JsonFields& fields);
// In strict mode, what nobody asked for is refused.
void check_unknown(const ApiContext& context, JsonFields& fields);

// What every request is checked for once its prompt is known: the context's length, then all that the engine checks.
//   prompt_field  "messages", "prompt"
ApiResult<std::monostate> check_request(const ApiContext& context, const engine::Request& request,
                                        std::string_view prompt_field);

AnswerHead make_head(const ApiContext& context, const CallInfo& info, std::string_view id_prefix);

Response json_response(std::string body);

}  // namespace tandem::server

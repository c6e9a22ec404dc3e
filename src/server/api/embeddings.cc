// /v1/embeddings: checked like any other call, and refused: there is no model with an embedding head yet.
#include <fmt/format.h>

#include "server/api/call.h"
#include "server/api/prompt_field.h"
#include "server/api/request_fields.h"

namespace tandem::server {

CallResult answer_embeddings(const ApiContext& context, std::string_view body) {
  const json::object document = TD_TRY(parse_body(body));
  FieldError error;
  JsonFields fields(document, error);
  TD_TRY(check_model(context, fields));
  read_prompts(context, fields, "input");
  fields.read_choice("encoding_format", {"float", "base64"});
  std::int64_t dimensions = 0;
  fields.read_integer("dimensions", {1, std::numeric_limits<std::int32_t>::max()}, dimensions);
  accept_without_effect(fields, {"user"});
  check_unknown(context, fields);
  if (!error.ok()) return error_of(error);
  return bad_request(
      "unsupported_model", "model",
      fmt::format("{} generates text; it has no embedding head: use /v1/completions", context.model_ids.front()));
}

}  // namespace tandem::server

// /v1/models: the one model that is served, under each of its names.
#include <algorithm>

#include "server/api/call.h"
#include "server/api/json_text.h"
#include "server/api/request_fields.h"

namespace tandem::server {
namespace {

void append_model(std::string& body, const ApiContext& context, std::string_view id) {
  append(body, R"({"id":)", Quoted{id}, R"(,"object":"model","created":)", context.created_s,
         R"(,"owned_by":"tandem","root":)", Quoted{context.model_ids.front()}, R"(,"parent":null,"max_model_len":)",
         context.context_tokens, "}");
}

}  // namespace

CallResult list_models(const ApiContext& context) {
  std::string body = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < context.model_ids.size(); ++i) {
    if (i > 0) body += ',';
    append_model(body, context, context.model_ids[i]);
  }
  body += "]}";
  return json_response(std::move(body));
}

CallResult show_model(const ApiContext& context, std::string_view id) {
  TD_TRY(check_model_name(context, id));
  std::string body;
  append_model(body, context, id);
  return json_response(std::move(body));
}

}  // namespace tandem::server

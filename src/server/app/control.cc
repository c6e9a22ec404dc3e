#include "server/app/control.h"

#include "base/json.h"
#include "base/log.h"

namespace tandem::server {
namespace {

constexpr const char* kLevelNames[] = {"debug", "info", "warning", "error", "off"};  // of LogLevel, in order

Response json_response(const json::object& object) {
  return {{200, {{"content-type", "application/json"}}}, to_json_text(object)};
}

// A member that is text; empty if it is absent.
std::variant<std::string, ApiError> text_member(const json::object& object, const char* name) {
  const json::value* member = find_member(object, name);
  if (member == nullptr || member->is_null()) return std::string();
  if (!member->is_string()) return bad_request("invalid_value", name, fmt::format("{}: expected a string", name));
  return std::string(member->get_string());
}

CallResult pause(Service& service, const json::object& body) {
  auto mode = text_member(body, "mode");
  if (ApiError* error = std::get_if<ApiError>(&mode)) return *error;
  const std::string& name = std::get<std::string>(mode);
  if (!name.empty() && name != "keep" && name != "abort")
    return bad_request("invalid_value", "mode", "mode: give \"keep\" (the default) or \"abort\"");
  service.engine.pause();
  if (name == "abort") service.engine.cancel_all();
  return json_response({{"paused", true}, {"weights_version", service.engine.stats().weights_version}});
}

CallResult abort(Service& service, const json::object& body) {
  auto request_id = text_member(body, "request_id");
  if (ApiError* error = std::get_if<ApiError>(&request_id)) return *error;
  const std::string& id = std::get<std::string>(request_id);
  const json::value* all = find_member(body, "all");
  const bool is_all = all != nullptr && all->is_bool() && all->get_bool();
  if (id.empty() != is_all)
    return bad_request("invalid_value", "request_id", "give \"request_id\", or \"all\": true, and not both");
  service.abort_calls(id);
  return json_response({{"aborting", is_all ? json::value("all") : json::value(id)}});
}

CallResult set_weights(Service& service, const json::object& body) {
  const json::value* version = find_member(body, "version");
  if (version == nullptr || !version->is_int64() || version->get_int64() < 0)
    return bad_request("invalid_value", "version", "version: expected an integer, 0 or more");
  if (!service.engine.stats().paused) {
    return ApiError{.status = 409,
                    .code = "not_paused",
                    .message = "weights change only while the engine is paused: POST /admin/v1/pause first"};
  }
  service.engine.set_weights_version(version->get_int64());
  return json_response({{"weights_version", version->get_int64()}});
}

CallResult set_log(const json::object& body) {
  auto level = text_member(body, "level");
  if (ApiError* error = std::get_if<ApiError>(&level)) return *error;
  for (std::size_t i = 0; i < std::size(kLevelNames); ++i) {
    if (std::get<std::string>(level) != kLevelNames[i]) continue;
    set_log_level(static_cast<LogLevel>(i));
    return json_response({{"level", kLevelNames[i]}});
  }
  return bad_request("invalid_value", "level", "level: give debug, info, warning, error or off");
}

Response stats(Service& service) {
  const engine::EngineStats stats = service.engine.stats();
  return json_response({{"calls", service.admission.calls()},
                        {"running", stats.running},
                        {"waiting", stats.waiting},
                        {"held", stats.held},
                        {"paused", stats.paused},
                        {"draining", service.draining.load()},
                        {"weights_version", stats.weights_version},
                        {"kv_blocks", stats.blocks_count},
                        {"kv_blocks_free", stats.blocks_free},
                        {"kv_blocks_cached", stats.blocks_cached},
                        {"steps", stats.steps},
                        {"generated_tokens", stats.generated_tokens},
                        {"preemptions", stats.preemptions},
                        {"connections", service.metrics.connections_open.load()},
                        {"body_bytes_left", service.body_budget.left()}});
}

}  // namespace

CallResult answer_control(Service& service, Handler handler, std::string_view text) {
  json::object body;
  if (!text.empty()) {
    const Result<json::value> parsed = parse_json(text, "body", 32);
    if (!parsed.ok()) return bad_request("invalid_json", "", parsed.status().message());
    if (!parsed->is_object()) return bad_request("invalid_json", "", "the body must be a JSON object");
    body = parsed->get_object();
  }
  switch (handler) {
    case Handler::kPause: return pause(service, body);
    case Handler::kResume: service.engine.resume(); return json_response({{"paused", false}});
    case Handler::kAbort: return abort(service, body);
    case Handler::kShowWeights: return json_response({{"weights_version", service.engine.stats().weights_version}});
    case Handler::kSetWeights: return set_weights(service, body);
    case Handler::kFlushCache: service.engine.flush_prefix_cache(); return json_response({{"flushed", true}});
    case Handler::kShowLog: return json_response({{"level", kLevelNames[static_cast<int>(log_level())]}});
    case Handler::kSetLog: return set_log(body);
    default: return stats(service);
  }
}

}  // namespace tandem::server

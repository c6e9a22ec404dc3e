#include "server/app/client.h"

#include <ctime>

#include "base/json.h"
#include "server/app/live_call.h"
#include "server/page/page.h"

namespace tandem::server {
namespace {

constexpr std::size_t kRequestIdBytesMax = 128;

Response json_response(int status, const json::object& object) {
  return {{status, {{"content-type", "application/json"}}}, to_json_text(object)};
}

// A client may name its request; the name goes into logs and headers, so it is plain.
bool is_plain_id(const std::string& id) {
  if (id.empty() || id.size() > kRequestIdBytesMax) return false;
  for (const char c : id) {
    const bool plain =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
    if (!plain) return false;
  }
  return true;
}

std::optional<std::int64_t> positive_integer(const std::string& text) {
  if (text.empty() || text.size() > 12) return std::nullopt;
  std::int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  return value > 0 ? std::optional(value) : std::nullopt;
}

std::string http_date(std::int64_t unix_s) {
  const std::time_t time = unix_s;
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char text[40];
  std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0;
    decoded += escape ? static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return decoded;
}

ApiError not_found_error(const RequestHead& head) {
  return {.status = 404,
          .type = "not_found_error",
          .code = "unknown_url",
          .message = fmt::format("no such route: {} {}", head.method, head.path)};
}

ApiError draining_error() {
  return {.status = 503,
          .type = "unavailable_error",
          .code = "draining",
          .message = "the server is shutting down: try again in a moment",
          .retry_after_s = 1};
}

Response page_response(const RequestHead& head, std::string_view path) {
  for (const PageFile& file : page_files()) {
    if (file.path != path) continue;
    const std::string* known = head.header("if-none-match");
    const bool unchanged = known != nullptr && *known == file.etag;
    return {{unchanged ? 304 : 200,
             {{"content-type", std::string(file.content_type)},
              {"cache-control", "no-cache"},
              {"etag", std::string(file.etag)},
              {"content-security-policy",
               "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
              {"referrer-policy", "no-referrer"},
              {"cross-origin-opener-policy", "same-origin"}}},
            unchanged ? std::string() : std::string(file.bytes)};
  }
  return error_response(not_found_error(head));
}

Response to_response(CallResult result) {
  if (ApiError* error = std::get_if<ApiError>(&result)) return error_response(*error);
  return std::move(std::get<Response>(result));
}

}  // namespace

Client::Client(Service& service, CallTable& table, Surface surface, Transport& transport, std::string peer)
    : service_(service), table_(table), surface_(surface), transport_(transport), peer_(std::move(peer)) {}

Client::~Client() = default;

std::variant<Exchange, ApiError> Client::judge(StreamId stream, const RequestHead& head) const {
  Exchange exchange;
  exchange.stream = stream;
  exchange.arrived = service_.clock.now();
  const std::string* request_id = head.header("x-request-id");
  exchange.request_id =
      request_id != nullptr && is_plain_id(*request_id) ? *request_id : "req-" + service_.new_call_id();
  exchange.extra_headers = service_.guard.cors_headers(head);

  if (surface_ == Surface::kPublic)
    if (auto refused = service_.guard.check(head)) return *refused;
  const Match match = find_route(surface_, head.method, head.path);
  if (match.route == nullptr && match.allow.empty()) return not_found_error(head);
  if (match.route == nullptr) {
    return ApiError{.status = 405,
                    .code = "method_not_allowed",
                    .message = fmt::format("{} takes {}, not {}", head.path, match.allow, head.method)};
  }
  exchange.route = match.route;
  exchange.argument = std::string(match.argument);

  const KeyRing& keys = surface_ == Surface::kPublic ? service_.keys : service_.control_keys;
  exchange.caller = "-";
  if (!keys.empty() && !match.route->open) {
    const std::string* authorization = head.header("authorization");
    const auto name = authorization != nullptr ? keys.find(*authorization) : std::nullopt;
    if (!name) {
      return ApiError{.status = 401,
                      .type = "authentication_error",
                      .code = "invalid_api_key",
                      .message = authorization == nullptr ? "no API key: send it as \"authorization: Bearer KEY\""
                                                          : "this API key is not known here"};
    }
    exchange.caller = *name;
  }
  if (const std::string* timeout = head.header("x-request-timeout-ms")) {
    const auto ms = positive_integer(*timeout);
    if (!ms) return bad_request("invalid_value", "x-request-timeout-ms", "x-request-timeout-ms: expected milliseconds");
    exchange.timeout_ms = *ms;
  }
  return exchange;
}

std::optional<Response> Client::on_head(StreamId stream, const RequestHead& head) {
  if (auto preflight = service_.guard.preflight(head); preflight && surface_ == Surface::kPublic) return preflight;
  auto judged = judge(stream, head);
  const auto refuse = [&](const ApiError& error) {
    Response response = error_response(error);
    Exchange exchange;
    exchange.request_id = "req-" + service_.new_call_id();
    exchange.extra_headers = service_.guard.cors_headers(head);
    add_common_headers(exchange, response.head.headers);
    if (error.status == 401) response.head.headers.push_back({"www-authenticate", "Bearer"});
    if (error.status == 405)
      response.head.headers.push_back({"allow", find_route(surface_, head.method, head.path).allow});
    service_.metrics.count_request("-", error.status);
    return response;
  };
  if (const ApiError* error = std::get_if<ApiError>(&judged)) return refuse(*error);
  const Exchange& exchange = std::get<Exchange>(judged);
  if (exchange.route->open || surface_ == Surface::kControl) return std::nullopt;
  if (const double wait_s = service_.limiter.take(exchange.caller != "-" ? exchange.caller : peer_, exchange.arrived);
      wait_s > 0) {
    service_.metrics.count_refusal("rate_limited");
    return refuse({.status = 429,
                   .type = "rate_limit_error",
                   .code = "rate_limited",
                   .message = fmt::format("more than {} requests a second: try again in {:.2f} s",
                                          service_.options.requests_per_s_max, wait_s),
                   .retry_after_s = wait_s});
  }
  if (generates(exchange.route->handler)) {
    if (service_.draining.load(std::memory_order_relaxed)) return refuse(draining_error());
    // Before a large body is read; start() asks again.
    if (const auto refusal = service_.admission.probe(exchange.arrived)) {
      service_.metrics.count_refusal(refusal->reason);
      return refuse(LiveCall::too_many(*refusal));
    }
  }
  return std::nullopt;
}

std::optional<Response> Client::answer_at_once(const Exchange& exchange) const {
  switch (exchange.route->handler) {
    case Handler::kLive:
    case Handler::kHealth:
    case Handler::kReady: {
      const engine::EngineStats stats = service_.engine.stats();
      const double step_s = static_cast<double>(stats.turn_ns) * 1e-9;
      if (service_.options.stall_s > 0 && step_s > service_.options.stall_s) {
        return error_response(
            {.status = 503,
             .type = "unavailable_error",
             .code = "stalled",
             .message = fmt::format("the engine has been at one step for {:.0f} s: its device may hang; "
                                    "restart the server",
                                    step_s)});
      }
      if (exchange.route->handler == Handler::kLive) return json_response(200, {{"status", "ok"}});
      if (service_.draining.load()) return error_response(draining_error());
      if (stats.paused) {
        return error_response({.status = 503,
                               .type = "unavailable_error",
                               .code = "paused",
                               .message = "the engine is paused by its operator",
                               .retry_after_s = 1});
      }
      return json_response(200, {{"status", "ok"}});
    }
    case Handler::kVersion: return json_response(200, {{"version", service_.version}});
    case Handler::kMetrics:
      return Response{{200, {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}}},
                      service_.metrics.to_text(service_.engine.stats(), service_.api.model_ids.front(),
                                               service_.admission.calls())};
    case Handler::kModels: return to_response(list_models(service_.api));
    case Handler::kModel: return to_response(show_model(service_.api, percent_decoded(exchange.argument)));
    default: return std::nullopt;
  }
}

void Client::on_request(StreamId stream, RequestHead head, std::string body) {
  auto judged = judge(stream, head);
  if (const ApiError* error = std::get_if<ApiError>(&judged)) {  // keys were reloaded in between
    Exchange exchange;
    exchange.stream = stream;
    respond(exchange, error_response(*error));
    return;
  }
  Exchange& exchange = std::get<Exchange>(judged);
  if (exchange.route->handler == Handler::kPage) {
    respond(exchange, page_response(head, head.path));
  } else if (auto response = answer_at_once(exchange)) {
    respond(exchange, std::move(*response));
  } else {
    const std::uint64_t id = service_.next_tag.fetch_add(1, std::memory_order_relaxed);
    auto call = std::make_unique<LiveCall>(service_, table_, *this, std::move(exchange), id);
    LiveCall& started = *calls_.emplace(stream, std::move(call)).first->second;
    started.start(std::move(body));
  }
}

void Client::on_cancel(StreamId stream) {
  const auto found = calls_.find(stream);
  if (found == calls_.end()) return;
  found->second->on_client_left();
  calls_.erase(found);
}

void Client::on_drained(StreamId stream) {
  if (const auto found = calls_.find(stream); found != calls_.end()) found->second->on_drained();
}

Response Client::on_refusal(int status, std::string_view reason) {
  service_.metrics.count_request("-", status);
  Response response = error_response({.status = status,
                                      .type = status >= 500   ? "server_error"
                                              : status == 408 ? "timeout_error"
                                                              : "invalid_request_error",
                                      .code = status == 413   ? "body_too_large"
                                              : status == 408 ? "timeout"
                                                              : "bad_http",
                                      .message = std::string(reason)});
  Exchange exchange;
  exchange.request_id = "req-" + service_.new_call_id();
  add_common_headers(exchange, response.head.headers);
  return response;
}

void Client::end_call(StreamId stream) { calls_.erase(stream); }

void Client::add_common_headers(const Exchange& exchange, Headers& headers) {
  if (!exchange.request_id.empty()) headers.push_back({"x-request-id", exchange.request_id});
  headers.push_back({"server", "tandem"});
  headers.push_back({"date", http_date(service_.unix_seconds())});
  headers.push_back({"x-content-type-options", "nosniff"});
  for (const Header& header : exchange.extra_headers) headers.push_back(header);
}

void Client::respond(const Exchange& exchange, Response response) {
  service_.metrics.count_request(exchange.route != nullptr ? exchange.route->path : "-", response.head.status);
  add_common_headers(exchange, response.head.headers);
  connection_->send_response(exchange.stream, std::move(response));
}

}  // namespace tandem::server

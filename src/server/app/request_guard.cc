#include "server/app/request_guard.h"

#include <algorithm>

namespace tandem::server {
namespace {

std::string lower(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return lowered;
}

// "[::1]:8000" -> "[::1]"
std::string_view without_port(std::string_view host) {
  const auto colon = host.rfind(':');
  if (colon == std::string_view::npos || host.find(']', colon) != std::string_view::npos) return host;
  return host.substr(0, colon);
}

// "https://a.example:1" -> "a.example:1"
std::string_view authority_of(std::string_view origin) {
  const auto scheme = origin.find("://");
  return scheme == std::string_view::npos ? origin : origin.substr(scheme + 3);
}

bool is_json(std::string_view content_type) {
  const std::string type = lower(content_type.substr(0, content_type.find(';')));
  const auto end = type.find_last_not_of(' ');
  const std::string_view name = std::string_view(type).substr(0, end == std::string::npos ? 0 : end + 1);
  // The second is what curl says of any body when it is told nothing.
  return name == "application/json" || name == "application/x-www-form-urlencoded" || name.ends_with("+json");
}

}  // namespace

bool is_loopback(std::string_view host) {
  return host == "localhost" || host.starts_with("127.") || host == "::1" || host == "[::1]";
}

RequestGuard::RequestGuard(const ServerOptions& options) : origins_(options.cors_origins) {
  const bool local = is_loopback(options.host);
  if (!local && options.allowed_hosts.empty()) return;
  hosts_ = {"localhost", "127.0.0.1", "[::1]", lower(options.host)};
  for (const std::string& host : options.allowed_hosts) hosts_.push_back(lower(without_port(host)));
}

bool RequestGuard::host_allowed(std::string_view host) const {
  if (hosts_.empty() || host.empty()) return true;  // without a Host, in HTTP/1.0, no browser is asking
  return std::ranges::count(hosts_, lower(without_port(host))) > 0;
}

bool RequestGuard::origin_allowed(const std::string& origin) const {
  return std::ranges::count(origins_, origin) > 0 || std::ranges::count(origins_, "*") > 0;
}

std::optional<ApiError> RequestGuard::check(const RequestHead& head) const {
  if (!host_allowed(head.host)) {
    return ApiError{.status = 403,
                    .type = "permission_error",
                    .code = "host_not_allowed",
                    .message =
                        "this server does not answer under the name in the Host header; start it with "
                        "--allowed-host NAME if it should"};
  }
  const std::string* origin = head.header("origin");
  if (origin != nullptr && !origin_allowed(*origin) && lower(authority_of(*origin)) != lower(head.host)) {
    return ApiError{.status = 403,
                    .type = "permission_error",
                    .code = "origin_not_allowed",
                    .message =
                        "pages of this origin may not call the server; start it with --cors-origin ORIGIN if "
                        "they should"};
  }
  if (const std::string* type = head.header("content-type"); type != nullptr && !is_json(*type)) {
    return ApiError{.status = 415,
                    .code = "unsupported_media_type",
                    .message = "bodies are JSON: send content-type: application/json"};
  }
  if (const std::string* encoding = head.header("content-encoding");
      encoding != nullptr && lower(*encoding) != "identity") {
    return ApiError{.status = 415,
                    .code = "unsupported_encoding",
                    .message = "bodies are not decompressed: send them without content-encoding"};
  }
  return std::nullopt;
}

Headers RequestGuard::cors_headers(const RequestHead& head) const {
  const std::string* origin = head.header("origin");
  if (origin == nullptr || !origin_allowed(*origin)) return {};
  return {{"access-control-allow-origin", *origin},
          {"access-control-expose-headers", "x-request-id, retry-after, retry-after-ms"},
          {"vary", "origin"}};
}

std::optional<Response> RequestGuard::preflight(const RequestHead& head) const {
  if (head.method != "OPTIONS" || head.header("access-control-request-method") == nullptr) return std::nullopt;
  Headers headers = cors_headers(head);
  if (headers.empty()) return std::nullopt;
  headers.push_back({"access-control-allow-methods", "GET, POST"});
  const std::string* wanted = head.header("access-control-request-headers");
  headers.push_back({"access-control-allow-headers", wanted != nullptr ? *wanted : "authorization, content-type"});
  headers.push_back({"access-control-max-age", "600"});
  return Response{{204, std::move(headers)}, ""};
}

}  // namespace tandem::server

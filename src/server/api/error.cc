#include "server/api/error.h"

#include <cmath>

#include "base/json.h"

namespace tandem::server {
namespace {

json::value text_or_null(const std::string& text) { return text.empty() ? json::value(nullptr) : json::value(text); }

}  // namespace

ApiError bad_request(std::string code, std::string param, std::string message) {
  return {.code = std::move(code), .param = std::move(param), .message = std::move(message)};
}

ApiError error_of(const Status& status) {
  ApiError error{.message = status.message()};
  switch (status.code()) {
    case StatusCode::kInvalidArgument: error.code = "invalid_value"; break;
    case StatusCode::kNotFound:
      error.status = 404;
      error.type = "not_found_error";
      error.code = "not_found";
      break;
    case StatusCode::kResourceExhausted:
      error.status = 429;
      error.type = "rate_limit_error";
      error.code = "queue_full";
      error.retry_after_s = 1;
      break;
    case StatusCode::kDeadlineExceeded:
      error.status = 503;
      error.type = "timeout_error";
      error.code = "deadline";
      break;
    case StatusCode::kUnavailable:
      error.status = 503;
      error.type = "unavailable_error";
      error.code = "unavailable";
      error.retry_after_s = 1;
      break;
    default:
      error.status = 500;
      error.type = "server_error";
      error.code = "engine_error";
      break;
  }
  return error;
}

std::string error_json(const ApiError& error) {
  return to_json_text(json::object{{"error",
                                    {{"message", error.message},
                                     {"type", error.type},
                                     {"param", text_or_null(error.param)},
                                     {"code", text_or_null(error.code)}}}});
}

Response error_response(const ApiError& error) {
  Response response{{error.status, {{"content-type", "application/json"}}}, error_json(error)};
  if (error.retry_after_s > 0) {
    response.head.headers.push_back({"retry-after", fmt::format("{:.0f}", std::ceil(error.retry_after_s))});
    response.head.headers.push_back({"retry-after-ms", fmt::format("{:.0f}", std::ceil(error.retry_after_s * 1e3))});
  }
  if (error.status == 401) response.head.headers.push_back({"www-authenticate", "Bearer"});
  return response;
}

}  // namespace tandem::server

#include "server/api/error.h"

#include <cmath>
#include <utility>

#include "server/api/json_text.h"

namespace tandem::server {

ApiError bad_request(std::string code, std::string param, std::string message) {
  return {.code = std::move(code), .param = std::move(param), .message = std::move(message)};
}

ApiError error_of(const Status& status) {
  ApiError error;
  error.message = status.message();
  const auto is = [&](int http_status, const char* type, const char* code) {
    error.status = http_status;
    error.type = type;
    error.code = code;
  };
  switch (status.code()) {
    case StatusCode::kInvalidArgument: is(400, "invalid_request_error", "invalid_value"); break;
    case StatusCode::kNotFound: is(404, "not_found_error", "not_found"); break;
    case StatusCode::kResourceExhausted: is(429, "rate_limit_error", "queue_full"); break;
    case StatusCode::kDeadlineExceeded: is(408, "timeout_error", "timeout"); break;
    case StatusCode::kUnavailable: is(503, "unavailable_error", "unavailable"); break;
    default: is(500, "server_error", "engine_error");
  }
  return error;
}

std::string error_json(const ApiError& error) {
  std::string body;
  append(body, R"({"error":{"message":)", Quoted{error.message}, R"(,"type":)", Quoted{error.type}, R"(,"param":)",
         QuotedOrNull{error.param}, R"(,"code":)", QuotedOrNull{error.code}, "}}");
  return body;
}

Response error_response(const ApiError& error) {
  Response response;
  response.head.status = error.status;
  response.head.headers = {{"content-type", "application/json"}};
  if (error.retry_after_s > 0) {
    const auto rounded_up = [](double value) { return std::to_string(static_cast<std::int64_t>(std::ceil(value))); };
    response.head.headers.push_back({"retry-after", rounded_up(error.retry_after_s)});
    response.head.headers.push_back({"retry-after-ms", rounded_up(error.retry_after_s * 1000)});
  }
  response.body = error_json(error);
  return response;
}

}  // namespace tandem::server

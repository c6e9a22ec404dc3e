// Errors as OpenAI's clients read them: {"error":{"message","type","param","code"}} with the right status.
#pragma once

#include <string>

#include "base/status.h"
#include "server/http/message.h"

namespace tandem::server {

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string code;   // machine-readable: "context_length_exceeded"; empty: null
  std::string param;  // the field at fault; empty: null
  std::string message;
  double retry_after_s = 0;  // above 0: sent as retry-after and retry-after-ms
};

ApiError bad_request(std::string code, std::string param, std::string message);
// What a failure of the engine or a lower layer is to a client: kInvalidArgument 400, kNotFound 404, kResourceExhausted
// 429, kDeadlineExceeded 408 or 503, kUnavailable 503, the rest 500.
ApiError error_of(const Status& status);

std::string error_json(const ApiError& error);  // {"error":{...}}
Response error_response(const ApiError& error);

}  // namespace tandem::server

// A value, or the ApiError that says why there is none: what TD_TRY propagates inside this folder.
#pragma once

#include <utility>
#include <variant>

#include "base/json_fields.h"
#include "server/api/error.h"

namespace tandem::server {

template <class T>
class [[nodiscard]] ApiResult {
 public:
  ApiResult(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  ApiResult(ApiError error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  const ApiError& error() const { return std::get<1>(state_); }
  // These two make TD_TRY work: in a function that returns what an ApiError converts to.
  ApiError status() && { return std::get<1>(std::move(state_)); }
  T value() && { return std::get<0>(std::move(state_)); }

 private:
  std::variant<T, ApiError> state_;
};

inline ApiError error_of(const FieldError& error) { return bad_request(error.code, error.path, error.message); }

// What a step below refuses of a field, in its own words.
inline ApiError refused(std::string param, const Status& status) {
  return bad_request("invalid_value", std::move(param), status.message());
}

}  // namespace tandem::server

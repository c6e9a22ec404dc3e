// Failure as a value: Status (did it work, and if not, what should the caller do) and Result<T> (a value or a Status).
//
// Codes are told apart by what the caller does about them; messages name the thing that is wrong and the remedy, in one
// line, because they are shown to users as they are. Bugs are not Statuses: see base/check.h.
// Threads: values; copy and move freely.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>
#include <variant>

namespace tandem {

enum class StatusCode : int {
  kOk = 0,
  kInvalidArgument,    // the request itself is wrong: fix the input
  kNotFound,           // the thing named does not exist
  kCancelled,          // the caller asked for the work to stop
  kResourceExhausted,  // a configured bound was reached: raise it, or ask for less
  kDeadlineExceeded,   // the time given ran out
  kUnavailable,        // retry the call
  kAborted,            // redo the step
  kDataLoss,           // stored bytes are wrong: repair or fetch them again
  kDeviceLost,         // sticky device error: restart the rank
};

// "kInvalidArgument" -> "invalid argument", for messages and logs.
const char* status_code_name(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // "invalid argument: config.json: ..." or "ok".
  std::string to_string() const;

  // The same status with `context` put before its message: "context: message".
  Status with_context(const std::string& context) const;

  // These two make TD_TRY work for Status and Result alike.
  Status status() && { return std::move(*this); }
  void value() && {}

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status ok_status() { return Status(); }

template <class... Args>
Status make_status(StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status invalid_argument(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status not_found(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status resource_exhausted(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kResourceExhausted, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
Status data_loss(fmt::format_string<Args...> format, Args&&... args) {
  return Status(StatusCode::kDataLoss, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void fail_value_of_error(const Status& status);

// A value, or the Status that says why there is none. Never holds an ok Status.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) {}
  // Anything that makes a T (a unique_ptr<Derived>, an initialiser) makes a Result<T>.
  template <class U>
  requires(std::is_constructible_v<T, U&&> && !std::is_same_v<std::remove_cvref_t<U>, T> &&
           !std::is_same_v<std::remove_cvref_t<U>, Status> && !std::is_same_v<std::remove_cvref_t<U>, Result>)
      Result(U&& value)
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  bool ok() const { return state_.index() == 0; }
  StatusCode code() const { return ok() ? StatusCode::kOk : std::get<1>(state_).code(); }

  // The value. Calling these on an error is a bug and aborts with the error's message.
  T& value() & {
    require_ok();
    return std::get<0>(state_);
  }
  const T& value() const& {
    require_ok();
    return std::get<0>(state_);
  }
  T value() && {
    require_ok();
    return std::move(std::get<0>(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  Status status() const& { return ok() ? Status() : std::get<1>(state_); }
  Status status() && { return ok() ? Status() : std::move(std::get<1>(state_)); }

 private:
  void require_ok() const {
    if (!ok()) [[unlikely]]
      fail_value_of_error(std::get<1>(state_));
  }
  std::variant<T, Status> state_;
};

}  // namespace tandem

// Evaluates a Status or Result; on error returns it from the enclosing function, otherwise yields the value:
//   TD_TRY(pool.release(id));          auto config = TD_TRY(Config::load(dir));
#define TD_TRY(...)                                                    \
  __extension__({                                                      \
    auto td_try_result = (__VA_ARGS__);                                \
    if (!td_try_result.ok()) return std::move(td_try_result).status(); \
    std::move(td_try_result).value();                                  \
  })

// How the template engine fails on the inside: two exceptions, thrown by lexer, parser and interpreter alike and turned
// into a Status or a Rendered where ChatTemplate is entered. Nothing outside this folder sees them.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>

#include "base/status.h"

namespace tandem::model::jinja {

// The template, or what it does with its variables, is wrong; or a limit was reached.
struct TemplateError {
  StatusCode code;
  std::string message;
  int line = 0;  // 0: the line being evaluated
};

// The template called raise_exception(message).
struct Raised {
  std::string message;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...)};
}
template <class... Args>
[[noreturn]] void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{StatusCode::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...), line};
}
template <class... Args>
[[noreturn]] void exhausted(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{StatusCode::kResourceExhausted, fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace tandem::model::jinja

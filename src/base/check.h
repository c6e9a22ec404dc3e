// Bugs stop the program: TD_CHECK(cond, values...) stays on in release, prints the condition, the values, the rank and
// the step, then aborts. TD_DCHECK is for inner loops and vanishes with NDEBUG.
//
// If input, a load, or a peer can cause it, it is not a bug: return a Status instead.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>

namespace tandem {

// What a failed check prints beside its condition. Set by the program's main loop; read when a check fails.
void set_check_context(int rank, std::int64_t step);

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& values);

inline std::string check_values() { return {}; }
template <class First, class... Rest>
std::string check_values(const First& first, const Rest&... rest) {
  std::string text = fmt::format("{}", first);
  ((text += fmt::format(", {}", rest)), ...);
  return text;
}
}  // namespace detail
}  // namespace tandem

#define TD_CHECK(condition, ...)                                                                                   \
  do {                                                                                                             \
    if (!(condition)) [[unlikely]]                                                                                 \
      ::tandem::detail::check_failed(__FILE__, __LINE__, #condition, ::tandem::detail::check_values(__VA_ARGS__)); \
  } while (0)

#ifdef NDEBUG
#define TD_DCHECK(condition, ...) \
  do {                            \
  } while (0)
#else
#define TD_DCHECK(condition, ...) TD_CHECK(condition __VA_OPT__(, ) __VA_ARGS__)
#endif

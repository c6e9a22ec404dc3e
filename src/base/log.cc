#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <string>

namespace tandem {
namespace {
std::atomic<LogLevel> current_level{LogLevel::kWarning};

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    default: return "error";
  }
}
}  // namespace

void set_log_level(LogLevel level) { current_level.store(level, std::memory_order_relaxed); }
LogLevel log_level() { return current_level.load(std::memory_order_relaxed); }

void log_line(LogLevel level, std::string_view line) {
  const std::string text = fmt::format("tandem: {}: {}\n", level_name(level), line);
  std::fwrite(text.data(), 1, text.size(), stderr);  // one call: lines of several threads do not mix
}

}  // namespace tandem

#include "cli/console.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/file.h"
#include "cli/flags.h"

namespace tandem::cli {
namespace {

std::atomic<bool> interrupted{false};

void on_interrupt(int) {
  if (interrupted.exchange(true)) ::_exit(kExitInterrupted);
}

}  // namespace

int fail(const Status& status) {
  std::string message = status.message();
  std::replace(message.begin(), message.end(), '\n', ' ');
  fmt::print(stderr, "tandem: {}\n", message);
  return status.code() == StatusCode::kCancelled ? kExitInterrupted : kExitFailure;
}

Status write_stdout(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return make_status(StatusCode::kUnavailable, "standard output: {}", std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return ok_status();
}

Result<std::string> read_input(const std::string& path) {
  if (!path.empty() && path != "-") return read_file(path);
  std::string bytes;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return make_status(StatusCode::kUnavailable, "standard input: {}", std::strerror(errno));
    if (count == 0) return bytes;
    bytes.append(buffer, static_cast<std::size_t>(count));
  }
}

Result<std::filesystem::path> model_directory(const std::string& given) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!given.empty()) {
    if (fs::is_directory(given, ignored)) return fs::path(given);
    if (fs::exists(given, ignored)) {
      return invalid_argument("{}: is a file; --model takes the directory that holds config.json", given);
    }
    return not_found("{}: no such directory; --model takes a Hugging Face model directory", given);
  }
  for (const char* candidate : {TANDEM_DEFAULT_MODEL, "models/tinyworld-5m"}) {
    if (fs::is_directory(candidate, ignored)) return fs::path(candidate);
  }
  return not_found("the built-in model is not at {}; give one with --model DIR", TANDEM_DEFAULT_MODEL);
}

std::atomic<bool>& interrupt_flag() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = on_interrupt;  // without SA_RESTART, so that a read from the terminal returns
    ::sigaction(SIGINT, &action, nullptr);
    return true;
  }();
  (void)installed;
  return interrupted;
}

ProgressBar::ProgressBar(std::int64_t total) : total_(total), visible_(::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "\n");
}

void ProgressBar::update(std::int64_t done, std::string_view note) {
  if (!visible_ || total_ <= 0) return;
  constexpr std::int64_t kWidth = 30;
  const auto filled = static_cast<std::size_t>(std::min(kWidth, kWidth * done / total_));
  const std::string bar = std::string(filled, '#') + std::string(static_cast<std::size_t>(kWidth) - filled, '-');
  fmt::print(stderr, "\r[{}] {}/{}  {}\x1b[K", bar, done, total_, note);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace tandem::cli

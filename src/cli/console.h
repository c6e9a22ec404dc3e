// Standard streams, signals and small formatting shared by the commands.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tandem::cli {

// Prints "tandem: message" on standard error, in one line, and returns the exit code for it.
int fail(const Status& status);

// Writes all of `bytes` to standard output, unbuffered. Errors: kUnavailable (the reader is gone, the disk is full).
[[nodiscard]] Status write_stdout(std::string_view bytes);

// A whole file, or standard input if `path` is empty or "-".
[[nodiscard]] Result<std::string> read_input(const std::string& path);

// The directory given, or the model that comes with Tandem. Errors: kNotFound.
[[nodiscard]] Result<std::filesystem::path> model_directory(const std::string& given);

// From the first call on, Ctrl-C sets this flag; a second Ctrl-C while it is set ends the program.
std::atomic<bool>& interrupt_flag();

// A percentage bar on standard error, redrawn in place; silent if that is no terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::int64_t total);
  ~ProgressBar();
  // `note` goes behind the bar: "1234 tokens/s".
  void update(std::int64_t done, std::string_view note);

 private:
  std::int64_t total_;
  bool visible_;
  bool drawn_ = false;
};

}  // namespace tandem::cli

// Runs the built binary as a user does.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/file.h"

namespace tandem::cli {

struct CommandResult {
  int exit_code = -1;
  std::string out, err;
};

// A folder for one test's files, removed at the end.
class Scratch {
 public:
  Scratch() {
    static int folders_made = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("tandem_cli_" + std::to_string(::getpid()) + "_" + std::to_string(folders_made++));
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name, const std::string& bytes) const {
    EXPECT_TRUE(write_file_atomic(path_ / name, bytes).ok());
    return (path_ / name).string();
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// `arguments` is shell text; `input` becomes standard input.
inline CommandResult run_tandem(const std::string& arguments, const std::string& input = "") {
  const Scratch scratch;
  const std::string in = scratch.file("stdin", input), out = scratch.path("stdout"), err = scratch.path("stderr");
  const std::string command = std::string(TANDEM_BINARY) + " " + arguments + " <" + in + " >" + out + " 2>" + err;
  CommandResult run;
  const int status = std::system(command.c_str());
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  run.out = read_file(out).value();
  run.err = read_file(err).value();
  return run;
}

}  // namespace tandem::cli

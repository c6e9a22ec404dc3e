// A file that appears under its name only when it is complete: until then it is written under a name of its own, so
// that others may write the same file meanwhile; the last one's is left, whole. A crash leaves the old file or the new,
// and what had been written of it (NAME.tmp.PROCESS.NUMBER) until somebody next writes the same file. Every error names
// the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/status.h"

namespace tandem {

class AtomicFile {
 public:
  // Errors: kNotFound (no such folder), kInvalidArgument (it may not be written), kResourceExhausted (disk full),
  // kUnavailable (I/O).
  [[nodiscard]] static Result<AtomicFile> create(const std::filesystem::path& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();  // without commit(), removes what was written

  const std::filesystem::path& path() const { return path_; }
  // All of the bytes, from `offset` on. Errors: kResourceExhausted (disk full, or a limit of the file's size),
  // kUnavailable (I/O).   Threads: any, at the same time.
  [[nodiscard]] Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Puts the file in its place; synced before, and its folder after, unless told not to. Once.
  enum class Sync : std::uint8_t { kYes, kNo };
  [[nodiscard]] Status commit(Sync sync = Sync::kYes);

 private:
  AtomicFile() = default;

  std::filesystem::path path_, temporary_;  // temporary_ is empty once it has been put in its place
  int fd_ = -1;
};

}  // namespace tandem

// Files: read whole, mapped read-only, or replaced atomically. Every error names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tandem {

// The whole file, or all that a pipe gives. Errors: kNotFound, kInvalidArgument (a directory, or more than bytes_max),
// kUnavailable (I/O).
[[nodiscard]] Result<std::string> read_file(const std::filesystem::path& path, std::uint64_t bytes_max = 1ull << 30);

// Writes `bytes` so that a crash leaves the old file or the new one (base/atomic_file.h). Errors: kNotFound (no such
// folder), kResourceExhausted (disk full), kUnavailable (I/O).
[[nodiscard]] Status write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

// A file mapped read-only and shared with every other process that maps it. Pages come in when touched.
// Threads: any, once open. The mapping outlives moves; it ends with the object.
class MappedFile {
 public:
  // Errors: kNotFound, kInvalidArgument (a directory), kUnavailable (I/O). An empty file maps to an empty span.
  [[nodiscard]] static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace tandem

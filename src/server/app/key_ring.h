// The API keys that may call, kept as hashes only. A key is compared with all of them, in constant time.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tandem::server {

// Threads: any.
class KeyRing {
 public:
  // Without a file, every caller is let in.
  KeyRing() = default;

  struct Key {
    std::string name;
    std::array<unsigned char, 32> digest;  // SHA-256
  };
  // One key a line, at least 8 characters; "name: key" gives it a name for logs and limits (else its number). Blank
  // lines and lines that begin with # are passed over.
  // Errors: kNotFound, kInvalidArgument (no key in it, a key too short: the line is named, the key is not).
  [[nodiscard]] static Result<std::vector<Key>> read(const std::filesystem::path& path);
  void set(std::vector<Key> keys);

  bool empty() const;
  // The name of the key in an "authorization: Bearer KEY" header; nothing if there is no such key.
  std::optional<std::string> find(std::string_view authorization) const;

 private:
  mutable std::mutex mutex_;
  std::vector<Key> keys_;  // guarded by mutex_
};

}  // namespace tandem::server

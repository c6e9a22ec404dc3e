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

  // One key a line, at least 8 characters; "name: key" gives it a name for logs and limits (else its number). Blank
  // lines and lines that begin with # are passed over. On an error the keys stay as they were.
  // Errors: kNotFound, kInvalidArgument (no key in it, a key too short: the line is named, the key is not).
  [[nodiscard]] Status load(const std::filesystem::path& path);

  bool empty() const;
  // The name of the key in an "authorization: Bearer KEY" header; nothing if there is no such key.
  std::optional<std::string> find(std::string_view authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Key {
    std::string name;
    Digest digest;  // SHA-256
  };
  static Digest digest_of(std::string_view key);

  mutable std::mutex mutex_;
  std::vector<Key> keys_;  // guarded by mutex_
};

}  // namespace tandem::server

// The memory plan: every large buffer, by name and size, known before the first byte is loaded, and printed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace tandem::device {

struct LedgerEntry {
  std::string name;  // "weights", "KV cache"
  std::uint64_t bytes = 0;
  std::string detail;   // "mapped from the checkpoint", "128 blocks of 32 tokens"
  bool mapped = false;  // backed by a file: the system may drop and re-read its pages
};

class Ledger {
 public:
  void add(LedgerEntry entry) { entries_.push_back(std::move(entry)); }
  const std::vector<LedgerEntry>& entries() const { return entries_; }
  std::uint64_t total_bytes() const;
  std::uint64_t resident_bytes() const;  // without what is mapped

  // Errors: kResourceExhausted naming the largest entries, if resident_bytes() > available_bytes.
  [[nodiscard]] Status check_fits(std::uint64_t available_bytes) const;

  // A table, one line per entry and a total.
  std::string to_string() const;

 private:
  std::vector<LedgerEntry> entries_;
};

std::string bytes_text(std::uint64_t bytes);  // "2.30 GiB", "512 KiB"

// Memory that this process may still take: the machine's MemAvailable, or less where a control group sets a limit.
std::uint64_t available_memory_bytes();

}  // namespace tandem::device

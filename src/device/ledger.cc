#include "device/ledger.h"

#include <algorithm>
#include <fstream>

namespace tandem::device {

std::uint64_t Ledger::total_bytes() const {
  std::uint64_t total = 0;
  for (const LedgerEntry& entry : entries_) total += entry.bytes;
  return total;
}

std::uint64_t Ledger::resident_bytes() const {
  std::uint64_t total = 0;
  for (const LedgerEntry& entry : entries_) total += entry.mapped ? 0 : entry.bytes;
  return total;
}

Status Ledger::check_fits(std::uint64_t available_bytes) const {
  if (resident_bytes() <= available_bytes) return ok_status();
  const auto largest = std::max_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return (a.mapped ? 0 : a.bytes) < (b.mapped ? 0 : b.bytes);
  });
  return resource_exhausted("the plan needs {} and {} are available; the largest part is {} ({}): lower it",
                            bytes_text(resident_bytes()), bytes_text(available_bytes), largest->name,
                            bytes_text(largest->bytes));
}

std::string Ledger::to_string() const {
  std::string text;
  for (const LedgerEntry& entry : entries_) {
    text += fmt::format("  {:<22} {:>11}  {}\n", entry.name, bytes_text(entry.bytes), entry.detail);
  }
  text += fmt::format("  {:<22} {:>11}  {} of it beyond the mapped file\n", "total", bytes_text(total_bytes()),
                      bytes_text(resident_bytes()));
  return text;
}

std::string bytes_text(std::uint64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024.0 && unit < 6) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, units[unit]);
}

std::uint64_t available_memory_bytes() {
  std::uint64_t available = ~0ull;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    std::uint64_t kib = 0;
    if (!(meminfo >> kib)) break;
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") available = kib * 1024;
  }
  std::ifstream limit_file("/sys/fs/cgroup/memory.max"), used_file("/sys/fs/cgroup/memory.current");
  std::uint64_t limit = 0, used = 0;
  if (limit_file >> limit && used_file >> used) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

}  // namespace tandem::device

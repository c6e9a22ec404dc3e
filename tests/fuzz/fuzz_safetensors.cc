// Arbitrary bytes as a safetensors file: whatever the header says, an accepted one describes only bytes that exist.
#include <cstdlib>
#include <vector>

#include "base/check.h"
#include "model/checkpoint/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto header = model::parse_safetensors_header(bytes, "fuzz");
  if (!header.ok()) {
    TD_CHECK(header.status().message().find('\n') == std::string::npos, header.status().message());
    return 0;
  }
  const std::span<const std::byte> section = bytes.subspan(header->data_begin);
  std::uint64_t covered = 0, sum = 0;
  for (const model::TensorEntry& entry : header->entries) {
    TD_CHECK(entry.begin == covered && entry.end >= entry.begin && entry.end <= section.size(), entry.name);
    covered = entry.end;
    for (const std::byte byte : section.subspan(entry.begin, entry.end - entry.begin)) {
      sum += std::to_integer<std::uint64_t>(byte);
    }
    if (entry.dtype) {
      TD_CHECK(static_cast<std::uint64_t>(entry.shape.count() * tensor::dtype_bytes(*entry.dtype)) ==
                   entry.end - entry.begin,
               entry.name);
    }
  }
  TD_CHECK(covered == section.size(), covered);

  // What is understood can be written again, and is understood the same.
  std::vector<model::TensorEntry> entries;
  for (const model::TensorEntry& entry : header->entries) {
    if (entry.dtype) entries.push_back(entry);
  }
  std::string again = model::make_safetensors_header(entries, header->metadata);
  again.resize(again.size() + (entries.empty() ? 0 : entries.back().end), static_cast<char>(sum));
  const auto reread = model::parse_safetensors_header(std::as_bytes(std::span(again)), "again");
  TD_CHECK(reread.ok(), reread.status().message());
  TD_CHECK(reread->entries.size() == entries.size() && reread->metadata == header->metadata, again);
  return 0;
}

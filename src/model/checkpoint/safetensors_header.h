// The header of a safetensors file: what tensors it holds and where. On disk (docs/checkpoints.md):
//
//   u64 little-endian n | n bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
//
// Headers come from outside, so everything is checked before anything is believed: after parse_safetensors_header()
// every tensor lies within the file, has exactly the bytes its shape and dtype need, and together they tile the data
// section without holes or overlaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace tandem::model {

struct TensorEntry {
  std::string name;
  std::string stored_dtype;            // as the file spells it: "BF16"
  std::optional<tensor::DType> dtype;  // absent: a dtype Tandem has no use for; refused when the tensor is asked for
  tensor::Shape shape;
  std::uint64_t begin = 0, end = 0;  // bytes within the data section
};

struct SafetensorsHeader {
  std::vector<TensorEntry> entries;             // by begin
  std::map<std::string, std::string> metadata;  // the free-form "__metadata__"
  std::uint64_t data_begin = 0;                 // of the data section, within the file
};

inline constexpr std::uint64_t kSafetensorsHeaderBytesMax = 100'000'000;

// Reads and checks the header of a whole file; touches no byte of the data section.
//   source  names the file in errors
// Errors: kDataLoss (truncated, or not a safetensors file), kInvalidArgument (a header that contradicts itself).
[[nodiscard]] Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file,
                                                                 std::string_view source);

// The first bytes of a file that holds `entries` (begin and end are filled in, in order): length and JSON, padded so
// that the data section starts at a multiple of 64.
std::string make_safetensors_header(std::span<TensorEntry> entries, const std::map<std::string, std::string>& metadata);

// "BF16" for kBf16.
const char* safetensors_dtype_name(tensor::DType dtype);

}  // namespace tandem::model

#include "model/checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <boost/json/basic_parser_impl.hpp>
#include <cstring>
#include <limits>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "base/json.h"
#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

using tensor::DType;

// What the format knows. Sizes are in bits: some dtypes are smaller than a byte.
struct StoredDType {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr StoredDType kStoredDTypes[] = {
    {"F64", 64, DType::kF64},     {"F32", 32, DType::kF32},       {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBf16},   {"F8_E4M3", 8, DType::kF8E4m3}, {"F8_E5M2", 8, DType::kF8E5m2},
    {"I64", 64, DType::kI64},     {"I32", 32, DType::kI32},       {"I16", 16, DType::kI16},
    {"I8", 8, DType::kI8},        {"U8", 8, DType::kU8},          {"BOOL", 8, DType::kBool},
    {"U64", 64, std::nullopt},    {"U32", 32, std::nullopt},      {"U16", 16, std::nullopt},
    {"C64", 64, std::nullopt},    {"F8_E8M0", 8, std::nullopt},   {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt}, {"F4", 4, std::nullopt},
};

const StoredDType* find_stored_dtype(std::string_view name) {
  const auto found = std::ranges::find(kStoredDTypes, name, &StoredDType::name);
  return found == std::end(kStoredDTypes) ? nullptr : found;
}

std::uint64_t read_u64_le(const std::byte* bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

// Receives the header's JSON as events, because a tree would hide duplicate keys. The handler knows the one nesting the
// format has: names, then fields, then lists of integers.
struct HeaderHandler {
  static constexpr std::size_t max_object_size = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t max_array_size = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t max_key_size = std::numeric_limits<std::size_t>::max();
  static constexpr std::size_t max_string_size = std::numeric_limits<std::size_t>::max();
  using Error = boost::system::error_code;

  enum class Field { kNone, kDtype, kShape, kOffsets };

  SafetensorsHeader header;
  std::string problem;  // why parsing stopped; empty for plain syntax errors

  bool refuse(Error& error, std::string reason) {
    problem = std::move(reason);
    error = boost::json::error::syntax;
    return false;
  }

  bool on_document_begin(Error&) { return true; }
  bool on_document_end(Error&) { return true; }

  bool on_object_begin(Error& error) {
    ++depth;
    if (depth == 1) return true;
    if (depth == 2 && in_metadata) return true;
    if (depth == 2) {
      entry = TensorEntry{.name = name};
      has_dtype = has_shape = has_offsets = false;
      return true;
    }
    return refuse(error, fmt::format("tensor {} has an object where a value belongs", shown_text(name)));
  }

  bool on_object_end(std::size_t, Error& error) {
    --depth;
    if (depth != 1) return true;
    if (in_metadata) {
      in_metadata = false;
      return true;
    }
    if (!has_dtype || !has_shape || !has_offsets) {
      const char* missing = !has_dtype ? "dtype" : !has_shape ? "shape" : "data_offsets";
      return refuse(error, fmt::format("tensor {} has no {}", shown_text(name), missing));
    }
    header.entries.push_back(std::move(entry));
    return true;
  }

  bool on_array_begin(Error& error) {
    if (depth == 2 && !in_metadata && !in_array && (field == Field::kShape || field == Field::kOffsets)) {
      in_array = true;
      numbers_count = 0;
      return true;
    }
    return refuse(error, in_metadata  ? "__metadata__ has a list where a string belongs"
                         : depth == 0 ? "the header is a list, not an object"
                                      : fmt::format("tensor {} has a list where none belongs", shown_text(name)));
  }

  bool on_array_end(std::size_t, Error& error) {
    in_array = false;
    const std::span<const std::uint64_t> values(numbers.data(), numbers_count);
    if (field == Field::kOffsets) {
      if (values.size() != 2) {
        return refuse(error,
                      fmt::format("tensor {}: data_offsets has {} numbers, not 2", shown_text(name), values.size()));
      }
      entry.begin = values[0];
      entry.end = values[1];
      return true;
    }
    std::array<std::int64_t, tensor::kRankMax> extents{};
    for (std::size_t axis = 0; axis < values.size(); ++axis) {
      if (values[axis] > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return refuse(error, fmt::format("tensor {}: extent {} is absurd", shown_text(name), values[axis]));
      }
      extents[axis] = static_cast<std::int64_t>(values[axis]);
    }
    entry.shape = tensor::Shape(std::span<const std::int64_t>(extents.data(), values.size()));
    return true;
  }

  bool on_key_part(json::string_view part, std::size_t, Error&) {
    text.append(part.data(), part.size());
    return true;
  }

  bool on_key(json::string_view part, std::size_t, Error& error) {
    text.append(part.data(), part.size());
    const std::string key = std::exchange(text, {});
    if (depth == 1) {
      if (!names.insert(key).second) return refuse(error, fmt::format("{} appears twice", shown_text(key)));
      in_metadata = key == "__metadata__";
      name = key;
      field = Field::kNone;
      return true;
    }
    if (in_metadata) {
      metadata_key = key;
      if (header.metadata.contains(key)) {
        return refuse(error, fmt::format("__metadata__ has {} twice", shown_text(key)));
      }
      return true;
    }
    field = key == "dtype"          ? Field::kDtype
            : key == "shape"        ? Field::kShape
            : key == "data_offsets" ? Field::kOffsets
                                    : Field::kNone;
    if (field == Field::kNone) {
      return refuse(error, fmt::format("tensor {} has an unknown field {}", shown_text(name), shown_text(key)));
    }
    bool& seen = field == Field::kDtype ? has_dtype : field == Field::kShape ? has_shape : has_offsets;
    if (seen) return refuse(error, fmt::format("tensor {} has {} twice", shown_text(name), key));
    seen = true;
    return true;
  }

  bool on_string_part(json::string_view part, std::size_t, Error&) {
    text.append(part.data(), part.size());
    return true;
  }

  bool on_string(json::string_view part, std::size_t, Error& error) {
    text.append(part.data(), part.size());
    std::string value = std::exchange(text, {});
    if (depth == 2 && in_metadata) {
      header.metadata.emplace(metadata_key, std::move(value));
      return true;
    }
    if (depth == 2 && field == Field::kDtype) {
      const StoredDType* stored = find_stored_dtype(value);
      entry.dtype = stored == nullptr ? std::nullopt : stored->dtype;
      entry.stored_dtype = std::move(value);
      return true;
    }
    return refuse_value(error, "a string");
  }

  bool on_number_part(json::string_view, Error&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, Error& error) {
    if (value < 0 && in_array) {
      return refuse(error, fmt::format("tensor {}: {} {} is negative", shown_text(name),
                                       field == Field::kShape ? "extent" : "offset", value));
    }
    return on_uint64(static_cast<std::uint64_t>(value), {}, error);
  }
  bool on_uint64(std::uint64_t value, json::string_view, Error& error) {
    if (!in_array) return refuse_value(error, "a number");
    if (numbers_count == numbers.size()) {
      return refuse(error, fmt::format("tensor {} has more than {} extents", shown_text(name), tensor::kRankMax));
    }
    numbers[numbers_count++] = value;
    return true;
  }
  bool on_double(double, json::string_view, Error& error) {
    return refuse(error, fmt::format("{} has a number that is not a 64-bit integer", shown_text(name)));
  }
  bool on_bool(bool, Error& error) { return refuse_value(error, "a boolean"); }
  bool on_null(Error& error) { return refuse_value(error, "null"); }
  bool on_comment_part(json::string_view, Error&) { return true; }
  bool on_comment(json::string_view, Error&) { return true; }

 private:
  bool refuse_value(Error& error, const char* what) {
    if (depth == 0) return refuse(error, fmt::format("the header is {}, not an object", what));
    if (in_metadata) return refuse(error, fmt::format("__metadata__ has {} where a string belongs", what));
    return refuse(error, fmt::format("tensor {} has {} where something else belongs", shown_text(name), what));
  }

  int depth = 0;
  bool in_metadata = false, in_array = false;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  Field field = Field::kNone;
  std::string text;  // pieces of the key or string being read
  std::string name, metadata_key;
  std::unordered_set<std::string> names;
  std::array<std::uint64_t, tensor::kRankMax> numbers{};
  std::size_t numbers_count = 0;
  TensorEntry entry;
};

// Bytes that `entry` needs by shape and dtype; nullopt for a dtype whose size is not known here.
Result<std::optional<std::uint64_t>> needed_bytes(const TensorEntry& entry, std::string_view source) {
  const std::optional<std::int64_t> count = entry.shape.checked_count();
  const StoredDType* stored = find_stored_dtype(entry.stored_dtype);
  const std::int64_t bits = stored == nullptr ? 8 : stored->bits;
  if (!count || *count > std::numeric_limits<std::int64_t>::max() / bits) {
    return invalid_argument("{}: tensor {}: shape {} has too many elements: the file is damaged or not a checkpoint",
                            source, shown_text(entry.name), entry.shape.to_string());
  }
  if (stored == nullptr) {
    const std::uint64_t spanned_bytes = entry.end - entry.begin;
    if (static_cast<std::uint64_t>(*count) / 8 > spanned_bytes) {
      return invalid_argument("{}: tensor {}: {} elements cannot lie in {} bytes: write the file again", source,
                              shown_text(entry.name), *count, spanned_bytes);
    }
    return std::optional<std::uint64_t>();
  }
  const std::uint64_t total_bits = static_cast<std::uint64_t>(*count) * static_cast<std::uint64_t>(bits);
  if (total_bits % 8 != 0) {
    return invalid_argument("{}: tensor {}: {} elements of {} do not fill whole bytes: write the file again", source,
                            shown_text(entry.name), *count, entry.stored_dtype);
  }
  return std::optional<std::uint64_t>(total_bits / 8);
}

// The tensors tile [0, data_bytes).
Status check_layout(const std::vector<TensorEntry>& entries, std::uint64_t data_begin, std::uint64_t data_bytes,
                    std::string_view source) {
  std::uint64_t expected = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& entry : entries) {
    if (entry.begin > entry.end) {
      return invalid_argument("{}: tensor {}: begins at {} and ends at {}, before it begins: write the file again",
                              source, shown_text(entry.name), entry.begin, entry.end);
    }
    const std::optional<std::uint64_t> needed = TD_TRY(needed_bytes(entry, source));
    if (needed && *needed != entry.end - entry.begin) {
      return invalid_argument("{}: tensor {}: {} {} needs {} bytes, its offsets span {}: write the file again", source,
                              shown_text(entry.name), entry.stored_dtype, entry.shape.to_string(), *needed,
                              entry.end - entry.begin);
    }
    if (entry.begin < expected) {
      return invalid_argument("{}: tensor {} overlaps tensor {}: write the file again", source, shown_text(entry.name),
                              shown_text(previous->name));
    }
    if (entry.begin > expected) {
      return invalid_argument("{}: {} unused bytes before tensor {}: write the file again", source,
                              entry.begin - expected, shown_text(entry.name));
    }
    expected = entry.end;
    previous = &entry;
  }
  if (expected > data_bytes) {
    return data_loss("{}: truncated: the file has {} bytes and its header speaks of {} more: download it again", source,
                     data_begin + data_bytes, expected - data_bytes);
  }
  if (expected < data_bytes) {
    return invalid_argument("{}: {} bytes after the last tensor: the file is damaged; download it again", source,
                            data_bytes - expected);
  }
  return ok_status();
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, std::string_view source) {
  if (file.size() < 8) {
    return data_loss("{}: truncated: {} bytes, and a safetensors file has at least 8: download it again", source,
                     file.size());
  }
  const std::uint64_t header_bytes = read_u64_le(file.data());
  if (header_bytes > kSafetensorsHeaderBytesMax) {
    return invalid_argument("{}: not a safetensors file: its header would be {} bytes, and at most {} are read", source,
                            header_bytes, kSafetensorsHeaderBytesMax);
  }
  if (header_bytes > file.size() - 8) {
    return data_loss("{}: truncated: its header is {} bytes and the file has {}: download it again", source,
                     header_bytes, file.size());
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  if (header_bytes == 0 || text[0] != '{') {
    return invalid_argument("{}: not a safetensors file: its header does not start with '{{'", source);
  }

  json::parse_options options;
  options.max_depth = 8;
  json::basic_parser<HeaderHandler> parser(options);
  boost::system::error_code error;
  const std::size_t consumed = parser.write_some(false, text, header_bytes, error);
  HeaderHandler& handler = parser.handler();
  if (error) {
    if (!handler.problem.empty())
      return invalid_argument("{}: header: {}: write the file again", source, handler.problem);
    return invalid_argument("{}: header is not valid JSON at byte {}: {}; download the file again", source, consumed,
                            error.message());
  }
  if (std::any_of(text + consumed, text + header_bytes, [](char c) { return c != ' '; })) {
    return invalid_argument("{}: bytes after the header's JSON: download the file again", source);
  }
  SafetensorsHeader header = std::move(handler.header);
  header.data_begin = 8 + header_bytes;
  std::ranges::stable_sort(header.entries, {}, [](const TensorEntry& e) { return std::pair(e.begin, e.end); });
  TD_TRY(check_layout(header.entries, header.data_begin, file.size() - header.data_begin, source));
  return header;
}

std::string make_safetensors_header(std::span<TensorEntry> entries,
                                    const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) {
    json::object object;
    for (const auto& [key, value] : metadata) object[key] = value;
    text += "\"__metadata__\":" + to_json_text(object);
  }
  std::uint64_t offset = 0;
  for (TensorEntry& entry : entries) {
    TD_CHECK(entry.dtype.has_value(), entry.name);
    entry.stored_dtype = safetensors_dtype_name(*entry.dtype);
    entry.begin = offset;
    offset += static_cast<std::uint64_t>(entry.shape.count() * tensor::dtype_bytes(*entry.dtype));
    entry.end = offset;
    if (text.size() > 1) text += ',';
    text +=
        fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", to_json_text(json::string(entry.name)),
                    entry.stored_dtype, entry.shape.to_string(), entry.begin, entry.end);
  }
  text += '}';
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(static_cast<std::uint64_t>(text.size()) >> (8 * i) & 0xff);
  return bytes + text;
}

const char* safetensors_dtype_name(DType dtype) {
  const auto found = std::ranges::find(kStoredDTypes, std::optional(dtype), &StoredDType::dtype);
  TD_CHECK(found != std::end(kStoredDTypes), static_cast<int>(dtype));
  return found->name.data();
}

}  // namespace tandem::model

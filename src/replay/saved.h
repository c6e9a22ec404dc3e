// What the files of this folder are written and read with: a name of 8 bytes, u32 format, fields one after the other,
// u64 XXH3 of all before. Little-endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/file.h"
#include "base/status.h"

namespace tandem::replay {

static_assert(std::endian::native == std::endian::little);

class SavedWriter {
 public:
  SavedWriter(std::string_view name, std::uint32_t format) : bytes_(name) { put(format); }

  template <class T>
  void put(const T& value) {
    put(&value, 1);
  }
  template <class T>
  void put(const T* values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count > 0) bytes_.append(reinterpret_cast<const char*>(values), count * sizeof(T));
  }
  std::string finish() &&;

 private:
  std::string bytes_;
};

class SavedReader {
 public:
  // Of a format from `oldest` to `newest`.
  // `what` is told in errors: kDataLoss (another name, another checksum), kInvalidArgument (another format).
  [[nodiscard]] static Result<SavedReader> open(const char* what, std::string_view name, std::uint32_t oldest,
                                                std::uint32_t newest, std::string_view bytes);

  // False if fewer bytes are left; then nothing is taken.
  template <class T>
  [[nodiscard]] bool take(T* values, std::size_t count = 1) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count > bytes_.size() / sizeof(T)) return false;
    if (count == 0) return true;  // `values` may be null
    std::memcpy(values, bytes_.data(), count * sizeof(T));
    bytes_.remove_prefix(count * sizeof(T));
    return true;
  }
  bool at_end() const { return bytes_.empty(); }
  std::size_t left() const { return bytes_.size(); }
  Status damaged(const char* why) const { return damaged(what_, why); }

 private:
  SavedReader(const char* what, std::string_view bytes) : what_(what), bytes_(bytes) {}
  static Status damaged(const char* what, const char* why);

  const char* what_;
  std::string_view bytes_;
};

// T::from_bytes of a file. Errors: its own and those of base/file.h, with the path.
template <class T>
[[nodiscard]] Result<T> load_saved(const std::filesystem::path& path) {
  const MappedFile file = TD_TRY(MappedFile::open(path));
  auto loaded = T::from_bytes({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  if (!loaded.ok()) return std::move(loaded).status().with_context(path.string());
  return loaded;
}

}  // namespace tandem::replay

#define XXH_INLINE_ALL
#include "replay/saved.h"

#include <xxhash.h>

namespace tandem::replay {

std::string SavedWriter::finish() && {
  put(XXH3_64bits(bytes_.data(), bytes_.size()));
  return std::move(bytes_);
}

Status SavedReader::damaged(const char* what, const char* why) {
  return data_loss("{}: {}; the file is damaged, or none of ours: load an earlier one", what, why);
}

Result<SavedReader> SavedReader::open(const char* what, std::string_view name, std::uint32_t oldest,
                                      std::uint32_t newest, std::string_view bytes) {
  std::uint64_t hash;
  if (bytes.size() < name.size() + sizeof hash || !bytes.starts_with(name)) {
    return damaged(what, "it does not begin as one");
  }
  std::memcpy(&hash, bytes.data() + bytes.size() - sizeof hash, sizeof hash);
  bytes.remove_suffix(sizeof hash);
  if (XXH3_64bits(bytes.data(), bytes.size()) != hash) return damaged(what, "its checksum is another");
  SavedReader reader(what, bytes.substr(name.size()));
  std::uint32_t have;
  if (!reader.take(&have)) return reader.damaged("it ends in its header");
  if (have < oldest || have > newest) {
    return invalid_argument("{}: format {}, and this program reads {} to {}; load it with the program that saved it",
                            what, have, oldest, newest);
  }
  return reader;
}

}  // namespace tandem::replay

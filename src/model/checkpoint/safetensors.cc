#include "model/checkpoint/safetensors.h"

#include <cstdint>
#include <utility>

#include "model/config/shown_text.h"

namespace tandem::model {

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile opened;
  opened.file_ = TD_TRY(MappedFile::open(path));
  opened.header_ = TD_TRY(parse_safetensors_header(opened.file_.bytes(), path.string()));
  const auto& entries = opened.header_.entries;
  opened.index_.reserve(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) opened.index_.emplace(entries[i].name, i);
  return opened;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

Result<tensor::TensorView> SafetensorsFile::view(std::string_view name) const {
  const TensorEntry* entry = find(name);
  if (entry == nullptr) return not_found("{}: has no tensor {}", path().string(), shown_text(name));
  return view(*entry);
}

Result<tensor::TensorView> SafetensorsFile::view(const TensorEntry& entry) const {
  if (!entry.dtype) {
    return invalid_argument("{}: tensor {} has dtype {}, which is not supported: convert it to BF16, F16 or F32",
                            path().string(), shown_text(entry.name), shown_text(entry.stored_dtype));
  }
  const std::byte* data = file_.bytes().data() + header_.data_begin + entry.begin;
  const auto element_bytes = static_cast<std::uintptr_t>(tensor::dtype_bytes(*entry.dtype));
  if (reinterpret_cast<std::uintptr_t>(data) % element_bytes != 0) {
    return invalid_argument(
        "{}: tensor {} is not aligned to its {} elements: rewrite the file with a current safetensors library "
        "(load_file, then save_file)",
        path().string(), shown_text(entry.name), entry.stored_dtype);
  }
  return tensor::TensorView(static_cast<const void*>(data), *entry.dtype, entry.shape);
}

}  // namespace tandem::model

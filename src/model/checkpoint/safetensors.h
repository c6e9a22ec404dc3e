// Reads safetensors files: the header is checked whole, the data is mapped and comes in when touched.
// Threads: any, once open.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/file.h"
#include "base/status.h"
#include "model/checkpoint/safetensors_header.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

class SafetensorsFile {
 public:
  // Errors: those of MappedFile::open() and parse_safetensors_header().   Cost: O(header), whatever the data's size.
  [[nodiscard]] static Result<SafetensorsFile> open(const std::filesystem::path& path);

  std::span<const TensorEntry> entries() const { return header_.entries; }  // by place in the file
  const TensorEntry* find(std::string_view name) const;                     // or null
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const std::filesystem::path& path() const { return file_.path(); }

  // A view of the mapped bytes, dense, read-only; it lives as long as this object.
  // Errors: kNotFound (no such tensor), kInvalidArgument (a dtype Tandem does not read, or data at an address that is
  //         not a multiple of the element's size, as some writers before 2023 left it).
  [[nodiscard]] Result<tensor::TensorView> view(std::string_view name) const;
  [[nodiscard]] Result<tensor::TensorView> view(const TensorEntry& entry) const;

 private:
  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, std::size_t> index_;  // name -> entries()[i]; keys borrow the entries' names
};

}  // namespace tandem::model

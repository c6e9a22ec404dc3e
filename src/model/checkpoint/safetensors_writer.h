// Writes safetensors files: the header first, then the tensors' bytes as they come, so that a file of any size costs no
// memory. The file appears under its name only when it is complete (base/atomic_file.h); a crash leaves the old one,
// and without commit() nothing is left of what was written. Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/atomic_file.h"
#include "base/status.h"
#include "model/checkpoint/safetensors_header.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

struct NamedTensor {
  std::string name;
  tensor::TensorView view;  // on the CPU; any strides
};

// Errors: kInvalidArgument (two tensors of one name, or a tensor named __metadata__), kNotFound (no such folder),
//         kResourceExhausted (disk full), kUnavailable (I/O).
[[nodiscard]] Status write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                       const std::map<std::string, std::string>& metadata = {});

// The same in pieces, for tensors that do not exist in memory yet.
class SafetensorsWriter {
 public:
  // `entries` need name, dtype and shape; entries() has them in the order in which append() expects their bytes: wider
  // dtypes first, so that every tensor is aligned, otherwise as given.
  [[nodiscard]] static Result<SafetensorsWriter> create(const std::filesystem::path& path,
                                                        std::vector<TensorEntry> entries,
                                                        const std::map<std::string, std::string>& metadata);
  std::span<const TensorEntry> entries() const { return entries_; }
  // The next bytes of the data section, in pieces of any size.
  [[nodiscard]] Status append(std::span<const std::byte> bytes);
  // Bytes of the data section at any place, instead of append(). Each byte once.   Threads: any, at the same time.
  [[nodiscard]] Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  // Every byte has been written (their number is checked): puts the file in its place, synced first unless told not to.
  using Sync = AtomicFile::Sync;
  [[nodiscard]] Status commit(Sync sync = Sync::kYes);

 private:
  explicit SafetensorsWriter(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::vector<TensorEntry> entries_;
  std::uint64_t data_begin_ = 0;  // in the file
  std::uint64_t written_ = 0;     // bytes of data
};

}  // namespace tandem::model

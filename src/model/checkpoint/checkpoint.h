// A model's tensors as a Hugging Face folder holds them: one model.safetensors, or model.safetensors.index.json and the
// shards it names, joined under one set of names. Opening maps the files and reads their headers only.
// Threads: any, once open.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "model/checkpoint/safetensors.h"
#include "tensor/tensor_view.h"

namespace tandem::model {

class Checkpoint {
 public:
  // Looks for model.safetensors, then for the index, then for a *.safetensors that is the only one in the folder.
  // Errors: kNotFound (no folder, no checkpoint, a shard that the index names is missing), kInvalidArgument (an index
  //         that contradicts its shards, or names files outside the folder), and those of SafetensorsFile::open().
  [[nodiscard]] static Result<Checkpoint> open(const std::filesystem::path& model_dir);

  const TensorEntry* find(std::string_view name) const;  // or null
  bool has(std::string_view name) const { return find(name) != nullptr; }
  // Errors: those of SafetensorsFile::view().
  [[nodiscard]] Result<tensor::TensorView> tensor(std::string_view name) const;

  const std::filesystem::path& model_dir() const { return model_dir_; }
  std::span<const SafetensorsFile> shards() const { return shards_; }
  std::vector<std::string> names() const;  // ascending
  std::size_t tensors_count() const { return tensors_.size(); }
  std::int64_t parameters_count() const { return parameters_count_; }  // elements of all tensors
  std::uint64_t bytes() const { return bytes_; }                       // of all data sections

  // "model.safetensors", or the index: where a reader should look for what is missing.
  const std::string& source() const { return source_; }

 private:
  struct Place {
    std::size_t shard;
    const TensorEntry* entry;
  };
  Status add_shard(const std::filesystem::path& path);

  std::filesystem::path model_dir_;
  std::string source_;
  std::vector<SafetensorsFile> shards_;
  std::unordered_map<std::string_view, Place> tensors_;  // keys borrow the entries' names
  std::int64_t parameters_count_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace tandem::model

#include "model/checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/json.h"
#include "model/config/shown_text.h"

namespace tandem::model {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

using WeightMap = std::map<std::string, std::string>;  // tensor -> shard

// A shard is a file of the folder itself: no path may lead out of it.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\\') == name.npos &&
         name.find('\0') == name.npos;
}

Result<WeightMap> read_index(const fs::path& path) {
  const std::string source = path.string();
  const std::string text = TD_TRY(read_file(path, kSafetensorsHeaderBytesMax));
  const json::value document = TD_TRY(parse_json(text, source));
  const json::value* weight_map = document.is_object() ? find_member(document.get_object(), "weight_map") : nullptr;
  if (weight_map == nullptr || !weight_map->is_object() || weight_map->get_object().empty()) {
    return invalid_argument("{}: has no weight_map from tensor to shard: download it again", source);
  }
  WeightMap shard_of;
  for (const auto& [tensor, shard] : weight_map->get_object()) {
    if (!shard.is_string()) return invalid_argument("{}: weight_map: {} has no file name", source, shown_text(tensor));
    const std::string name(shard.get_string());
    if (!is_plain_file_name(name)) {
      return invalid_argument("{}: weight_map: {} is not a file of this folder: shards lie beside the index", source,
                              shown_text(name));
    }
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

// The one file that ends in .safetensors.
Result<fs::path> find_only_safetensors(const fs::path& model_dir) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(model_dir, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  }
  if (error) return not_found("{}: cannot read the folder: {}", model_dir.string(), error.message());
  if (found.empty()) {
    return not_found("{}: no {} and no {} here: download the model in safetensors format", model_dir.string(),
                     kSingleName, kIndexName);
  }
  if (found.size() > 1) {
    return not_found("{}: {} *.safetensors files and no {} to join them: download the index", model_dir.string(),
                     found.size(), kIndexName);
  }
  return found.front();
}

}  // namespace

Status Checkpoint::add_shard(const fs::path& path) {
  shards_.push_back(TD_TRY(SafetensorsFile::open(path)));
  const SafetensorsFile& shard = shards_.back();
  for (const TensorEntry& entry : shard.entries()) {
    const auto [place, added] = tensors_.emplace(entry.name, Place{shards_.size() - 1, &entry});
    if (!added) {
      return invalid_argument("{}: tensor {} is also in {}: keep one of the two", path.string(), shown_text(entry.name),
                              shards_[place->second.shard].path().filename().string());
    }
    parameters_count_ += entry.shape.count();
    bytes_ += entry.end - entry.begin;
  }
  return ok_status();
}

Result<Checkpoint> Checkpoint::open(const fs::path& model_dir) {
  std::error_code ignored;
  if (!fs::is_directory(model_dir, ignored)) {
    return not_found("{}: no such folder: give the folder that holds config.json and {}", model_dir.string(),
                     kSingleName);
  }
  Checkpoint checkpoint;
  checkpoint.model_dir_ = model_dir;
  if (fs::exists(model_dir / kSingleName, ignored)) {
    checkpoint.source_ = (model_dir / kSingleName).string();
    TD_TRY(checkpoint.add_shard(model_dir / kSingleName));
    return checkpoint;
  }
  if (!fs::exists(model_dir / kIndexName, ignored)) {
    const fs::path only = TD_TRY(find_only_safetensors(model_dir));
    checkpoint.source_ = only.string();
    TD_TRY(checkpoint.add_shard(only));
    return checkpoint;
  }

  checkpoint.source_ = (model_dir / kIndexName).string();
  const WeightMap shard_of = TD_TRY(read_index(model_dir / kIndexName));
  std::set<std::string> shard_names;
  for (const auto& [tensor, shard] : shard_of) shard_names.insert(shard);
  checkpoint.shards_.reserve(shard_names.size());
  for (const std::string& shard : shard_names) {
    if (!fs::exists(model_dir / shard, ignored)) {
      return not_found("{}: names shard {}, which is not here: download it", checkpoint.source_, shown_text(shard));
    }
    TD_TRY(checkpoint.add_shard(model_dir / shard));
  }
  for (const auto& [tensor, shard] : shard_of) {
    const auto place = checkpoint.tensors_.find(tensor);
    if (place == checkpoint.tensors_.end() || checkpoint.shards_[place->second.shard].path().filename() != shard) {
      return invalid_argument("{}: tensor {} is not in {} as the index says: download both again", checkpoint.source_,
                              shown_text(tensor), shown_text(shard));
    }
  }
  return checkpoint;
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.entry;
}

Result<tensor::TensorView> Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return not_found("{}: has no tensor {}", source_, shown_text(name));
  return shards_[found->second.shard].view(*found->second.entry);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : tensors_) names.emplace_back(name);
  std::ranges::sort(names);
  return names;
}

}  // namespace tandem::model

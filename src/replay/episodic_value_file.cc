// An episodic value as bytes.
//
//   "TDEPVALU"   u32 format, state width   i64 capacity   f32 projection [S]
//   the tree     (soft_btree_file.cc, from the bytes of a Real on)
//   f32          states [size,S], by id: none is free
//   u64          XXH3 of all before (saved.h)
#include "replay/episodic_value.h"

#include <algorithm>
#include <cmath>

#include "replay/saved.h"

namespace tandem::replay {
namespace {

constexpr std::string_view kName = "TDEPVALU";
constexpr std::uint32_t kFormat = 2, kOldest = 1;  // 1: the tree's leaves are sorted

}  // namespace

std::string EpisodicValue::to_bytes() const {
  SavedWriter writer(kName, kFormat);
  writer.put(static_cast<std::uint32_t>(width_));
  writer.put(capacity_);
  writer.put(projection_.data(), width_);
  tree_.put(writer);
  writer.put(states_.data(), states_.size());
  return std::move(writer).finish();
}

Result<EpisodicValue> EpisodicValue::from_bytes(std::string_view bytes) {
  SavedReader reader = TD_TRY(SavedReader::open("episodic value", kName, kOldest, kFormat, bytes));
  std::uint32_t width;
  std::int64_t capacity;
  if (!reader.take(&width) || !reader.take(&capacity)) return reader.damaged("it ends in its header");
  if (width < 1 || width > reader.left() / sizeof(float) || capacity < 1) {
    return reader.damaged("its header makes no sense");
  }
  std::vector<float> projection(width);
  if (!reader.take(projection.data(), width)) return reader.damaged("it ends in its projection");
  auto tree = TD_TRY(SoftBTree<float>::take(reader));
  const SoftBTreeOptions<float> of_tree = tree.options();
  if (of_tree.value_width != 1 || tree.size() > capacity) return reader.damaged("its tree is of something else");
  auto created = create({static_cast<int>(width), capacity, of_tree.tau, of_tree.kernel}, projection);
  if (!created.ok()) return reader.damaged("its projection makes no sense");
  EpisodicValue memory = std::move(created).value();
  // An entry leaves only to make room for another, so no id is free; and each state takes bytes, before it takes room.
  const std::size_t count = tree.ids_end();
  if (count != static_cast<std::size_t>(tree.size())) return reader.damaged("its tree has ids that are free");
  if (count > reader.left() / sizeof(float) / width) return reader.damaged("states are missing");
  memory.held_.assign(count, 1);
  memory.states_.resize(count * width);
  if (!reader.take(memory.states_.data(), memory.states_.size())) return reader.damaged("states are missing");
  if (!std::all_of(memory.states_.begin(), memory.states_.end(), [](float x) { return std::isfinite(x); })) {
    return reader.damaged("a state is not finite");
  }
  if (!reader.at_end()) return reader.damaged("there is more behind its end");
  memory.tree_ = std::move(tree);
  return memory;
}

Status EpisodicValue::save(const std::filesystem::path& path) const { return write_file_atomic(path, to_bytes()); }

Result<EpisodicValue> EpisodicValue::load(const std::filesystem::path& path) { return load_saved<EpisodicValue>(path); }

}  // namespace tandem::replay

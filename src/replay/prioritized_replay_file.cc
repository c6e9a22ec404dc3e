// Prioritized replay as bytes.
//
//   "TDREPLAY"   u32 format   i64 capacity   f32 alpha   u8 eviction   i64 size   u64 added   f32 priority_max
//   f32          masses [capacity]: a file is as long as its memory is large, so none can claim more than it has
//   u64          births [size], if the lowest priority is evicted
//   u64          XXH3 of all before (saved.h)
// Sums are made again from the masses: they are a function of those alone.
#include <algorithm>
#include <cmath>

#include "replay/prioritized_replay.h"
#include "replay/saved.h"

namespace tandem::replay {
namespace {

constexpr std::string_view kName = "TDREPLAY";
constexpr std::uint32_t kFormat = 1;

}  // namespace

std::string PrioritizedReplay::to_bytes() const {
  SavedWriter writer(kName, kFormat);
  writer.put(options_.capacity);
  writer.put(options_.alpha);
  writer.put(options_.eviction);
  writer.put(size_);
  writer.put(added_);
  writer.put(priority_max_);
  const auto capacity = static_cast<std::size_t>(options_.capacity);
  for (std::size_t begin = 0; begin < capacity; begin += kFanOut) {
    const std::size_t count = std::min<std::size_t>(kFanOut, capacity - begin);
    writer.put(leaves_[begin / kFanOut].masses.data(), count);
  }
  if (ranked_) writer.put(births_.data(), static_cast<std::size_t>(size_));
  return std::move(writer).finish();
}

Result<PrioritizedReplay> PrioritizedReplay::from_bytes(std::string_view bytes) {
  SavedReader reader = TD_TRY(SavedReader::open("prioritized replay", kName, kFormat, kFormat, bytes));
  PrioritizedReplayOptions options;
  std::int64_t size;
  std::uint64_t added;
  float priority_max;
  std::uint8_t eviction;
  if (!reader.take(&options.capacity) || !reader.take(&options.alpha) || !reader.take(&eviction) ||
      !reader.take(&size) || !reader.take(&added) || !reader.take(&priority_max)) {
    return reader.damaged("it ends in its header");
  }
  const bool known = eviction <= static_cast<std::uint8_t>(ReplayEviction::kLowestPriority);
  options.eviction = static_cast<ReplayEviction>(eviction);
  const auto capacity = static_cast<std::uint64_t>(options.capacity);
  if (!known || options.capacity < 1 || capacity > reader.left() / sizeof(float) || size < 0 ||
      static_cast<std::uint64_t>(size) != std::min(added, capacity) || !(priority_max >= 1) ||
      !std::isfinite(priority_max)) {
    return reader.damaged("its header makes no sense");
  }
  auto created = create(options);
  if (!created.ok()) return reader.damaged("its options make no sense");
  PrioritizedReplay replay = std::move(created).value();
  replay.size_ = size;
  replay.added_ = added;
  replay.priority_max_ = priority_max;
  for (std::size_t begin = 0; begin < capacity; begin += kFanOut) {
    const std::size_t count = std::min<std::size_t>(kFanOut, capacity - begin);
    float* const masses = replay.leaves_[begin / kFanOut].masses.data();
    if (!reader.take(masses, count)) return reader.damaged("masses are missing");
    for (std::size_t i = 0; i < count; ++i) {
      const bool held = begin + i < static_cast<std::size_t>(size);
      if (!(held ? masses[i] >= 0 && std::isfinite(masses[i]) : masses[i] == 0)) {
        return reader.damaged("a mass makes no sense");
      }
    }
  }
  if (replay.ranked_) {
    const auto held = static_cast<std::size_t>(size);
    if (!reader.take(replay.births_.data(), held)) return reader.damaged("births are missing");
    std::vector<std::uint64_t> births(replay.births_.begin(), replay.births_.begin() + size);
    std::sort(births.begin(), births.end());
    if (std::adjacent_find(births.begin(), births.end()) != births.end() || (held > 0 && births.back() >= added)) {
      return reader.damaged("two entries came at once, or one is yet to come");
    }
  }
  if (!reader.at_end()) return reader.damaged("there is more behind its end");
  for (std::size_t group = 0; group < replay.leaves_.size(); ++group) replay.refresh_leaves(group);
  for (std::size_t level = 0; level < replay.levels_.size(); ++level) {
    for (std::size_t node = 0; node < replay.levels_[level].size(); ++node) replay.refresh_node(level, node);
  }
  return replay;
}

Status PrioritizedReplay::save(const std::filesystem::path& path) const { return write_file_atomic(path, to_bytes()); }

Result<PrioritizedReplay> PrioritizedReplay::load(const std::filesystem::path& path) {
  return load_saved<PrioritizedReplay>(path);
}

}  // namespace tandem::replay

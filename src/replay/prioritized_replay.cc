#include "replay/prioritized_replay.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace tandem::replay {
namespace {

constexpr std::size_t kChunk = 1024;  // slots that go up or down the tree together

// Running sums of 16 numbers; they never fall. In four chains, joined after: half the latency of one.
template <class T>
std::array<double, 16> running_sums(const std::array<T, 16>& x) {
  std::array<double, 16> sums;
  for (std::size_t quarter = 0; quarter < 16; quarter += 4) {
    double sum = 0;
    for (std::size_t i = quarter; i < quarter + 4; ++i) sums[i] = sum += static_cast<double>(x[i]);
  }
  for (std::size_t quarter = 4; quarter < 16; quarter += 4) {
    for (std::size_t i = quarter; i < quarter + 4; ++i) sums[i] += sums[quarter - 1];
  }
  return sums;
}

// The child that holds `target`, which becomes the place within it. It has mass, however the sums were rounded.
std::uint32_t child_of(const std::array<double, 16>& prefixes, double& target) {
  constexpr double kBelow = 1 - 0x1p-53;  // x kBelow is the largest number below x
  target = std::min(target, prefixes[15] * kBelow);
  std::uint32_t child = 0;
  for (const double prefix : prefixes) child += prefix <= target ? 1 : 0;
  if (child > 0) target -= prefixes[child - 1];
  return child;
}

std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

bool valid_priority(float priority) { return priority >= 0 && std::isfinite(priority); }

}  // namespace

Result<PrioritizedReplay> PrioritizedReplay::create(const PrioritizedReplayOptions& options) {
  if (options.capacity < 1 || options.capacity > (std::int64_t{1} << 31)) {
    return invalid_argument("prioritized replay: capacity {} is not in 1 .. 2^31", options.capacity);
  }
  if (!(options.alpha >= 0 && options.alpha <= 1)) {
    return invalid_argument("prioritized replay: alpha {} is not in 0 .. 1", options.alpha);
  }
  return PrioritizedReplay(options);
}

PrioritizedReplay::PrioritizedReplay(const PrioritizedReplayOptions& options)
    : options_(options),
      ranked_(options.eviction == ReplayEviction::kLowestPriority),
      leaves_(ceil_div(static_cast<std::size_t>(options.capacity), kFanOut)) {
  std::size_t nodes = leaves_.size();
  do {
    nodes = ceil_div(nodes, kFanOut);
    levels_.emplace_back(nodes);
  } while (nodes > 1);
  if (!ranked_) return;
  constexpr Rank kNobody = {std::numeric_limits<float>::infinity(), 0};
  births_.resize(static_cast<std::size_t>(options.capacity));
  Ranks nobody;
  nobody.least.fill(kNobody);
  for (const auto& level : levels_) ranks_.emplace_back(level.size(), nobody);
}

double PrioritizedReplay::mass() const { return levels_.back()[0].prefixes.back(); }

double PrioritizedReplay::probability(SlotId slot) const {
  return slot < size_ && mass() > 0 ? static_cast<double>(mass_at(slot)) / mass() : 0;
}

float PrioritizedReplay::mass_of(float priority) const {
  return priority == 0 || options_.alpha == 1 ? priority : std::pow(priority, options_.alpha);
}

Result<PrioritizedReplay::Added> PrioritizedReplay::add(float priority) {
  if (!valid_priority(priority)) return invalid_argument("prioritized replay: a priority of {}", priority);
  const bool full = size_ == options_.capacity;
  const auto ring = static_cast<SlotId>(added_ % static_cast<std::uint64_t>(options_.capacity));
  const SlotId slot = full && ranked_ ? lowest() : ring;
  if (!full) ++size_;
  if (ranked_) births_[slot] = added_;
  ++added_;
  priority_max_ = std::max(priority_max_, priority);
  set_mass(slot, mass_of(priority));
  std::uint32_t group = slot / kFanOut;
  refresh({&group, 1});
  return Added{slot, full};
}

Status PrioritizedReplay::update(std::span<const SlotId> slots, std::span<const float> priorities) {
  if (slots.size() != priorities.size()) {
    return invalid_argument("prioritized replay: {} slots but {} priorities", slots.size(), priorities.size());
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] >= size_) return invalid_argument("prioritized replay: slot {} holds nothing", slots[i]);
    if (!valid_priority(priorities[i])) return invalid_argument("prioritized replay: a priority of {}", priorities[i]);
  }
  std::array<std::uint32_t, kChunk> groups;
  for (std::size_t begin = 0; begin < slots.size(); begin += kChunk) {
    const std::size_t count = std::min(kChunk, slots.size() - begin);
    for (std::size_t i = 0; i < count; ++i) {
      const SlotId slot = slots[begin + i];
      const float priority = priorities[begin + i];
      priority_max_ = std::max(priority_max_, priority);
      set_mass(slot, mass_of(priority));
      groups[i] = slot / kFanOut;
    }
    refresh({groups.data(), count});
  }
  return ok_status();
}

// Makes the nodes above the groups again, level by level: the nodes of a level do not wait for each other.
void PrioritizedReplay::refresh(std::span<std::uint32_t> groups) {
  for (const std::uint32_t group : groups) refresh_leaves(group);
  for (std::size_t level = 0; level < levels_.size(); ++level) {
    for (std::uint32_t& node : groups) node /= kFanOut;
    const std::size_t nodes = levels_[level].size();
    if (nodes <= groups.size()) {
      for (std::size_t node = 0; node < nodes; ++node) refresh_node(level, node);
    } else {
      for (const std::uint32_t node : groups) refresh_node(level, node);
    }
  }
}

void PrioritizedReplay::refresh_leaves(std::size_t group) {
  levels_[0][group / kFanOut].sums[group % kFanOut] = running_sums(leaves_[group].masses).back();
  if (ranked_) ranks_[0][group / kFanOut].least[group % kFanOut] = least_of(group);
}

void PrioritizedReplay::refresh_node(std::size_t level, std::size_t node) {
  Node& made = levels_[level][node];
  made.prefixes = running_sums(made.sums);
  if (level + 1 == levels_.size()) return;
  levels_[level + 1][node / kFanOut].sums[node % kFanOut] = made.prefixes.back();
  if (ranked_) {
    const auto& least = ranks_[level][node].least;
    ranks_[level + 1][node / kFanOut].least[node % kFanOut] = *std::min_element(least.begin(), least.end());
  }
}

PrioritizedReplay::Rank PrioritizedReplay::least_of(std::size_t group) const {
  Rank least = {std::numeric_limits<float>::infinity(), 0};
  const std::size_t begin = group * kFanOut, end = std::min(begin + kFanOut, static_cast<std::size_t>(size_));
  for (std::size_t slot = begin; slot < end; ++slot) {
    least = std::min(least, Rank{leaves_[group].masses[slot - begin], births_[slot]});
  }
  return least;
}

SlotId PrioritizedReplay::lowest() const {
  std::size_t node = 0;
  for (std::size_t level = levels_.size(); level-- > 0;) {
    const auto& least = ranks_[level][node].least;
    const auto child = std::min_element(least.begin(), least.end()) - least.begin();
    node = node * kFanOut + static_cast<std::size_t>(child);
  }
  const Rank least = least_of(node);
  for (std::size_t slot = node * kFanOut;; ++slot) {
    if (births_[slot] == least.second) return static_cast<SlotId>(slot);
  }
}

Status PrioritizedReplay::sample(std::span<const double> uniforms, std::span<SlotId> slots) const {
  if (uniforms.size() != slots.size()) {
    return invalid_argument("prioritized replay: {} uniform numbers for {} slots", uniforms.size(), slots.size());
  }
  for (const double uniform : uniforms) {
    if (!(uniform >= 0 && uniform < 1)) return invalid_argument("prioritized replay: {} is not in [0, 1)", uniform);
  }
  const double total = mass();
  if (!(total > 0)) return not_found("prioritized replay: no entry has a priority above 0");
  const double stratum = total / static_cast<double>(uniforms.size());
  std::array<double, kChunk> targets;
  for (std::size_t begin = 0; begin < slots.size(); begin += kChunk) {
    const std::size_t count = std::min(kChunk, slots.size() - begin);
    for (std::size_t j = 0; j < count; ++j) {
      targets[j] = (static_cast<double>(begin + j) + uniforms[begin + j]) * stratum;
    }
    find({targets.data(), count}, slots.subspan(begin, count));
  }
  return ok_status();
}

// Level by level, as refresh(): one target's way down does not wait for another's.
void PrioritizedReplay::find(std::span<double> targets, std::span<SlotId> slots) const {
  std::fill(slots.begin(), slots.end(), SlotId{0});
  for (std::size_t level = levels_.size(); level-- > 0;) {
    for (std::size_t j = 0; j < slots.size(); ++j) {
      slots[j] = slots[j] * kFanOut + child_of(levels_[level][slots[j]].prefixes, targets[j]);
      __builtin_prefetch(level > 0 ? static_cast<const void*>(&levels_[level - 1][slots[j]].prefixes[8])
                                   : &leaves_[slots[j]]);
    }
  }
  for (std::size_t j = 0; j < slots.size(); ++j) {
    slots[j] = slots[j] * kFanOut + child_of(running_sums(leaves_[slots[j]].masses), targets[j]);
  }
}

Status PrioritizedReplay::importance_weights(std::span<const SlotId> slots, float beta,
                                             std::span<float> weights) const {
  if (slots.size() != weights.size()) {
    return invalid_argument("prioritized replay: {} slots but {} weights", slots.size(), weights.size());
  }
  if (!(beta >= 0 && std::isfinite(beta))) return invalid_argument("prioritized replay: a beta of {}", beta);
  float least = std::numeric_limits<float>::infinity();
  for (const SlotId slot : slots) {
    if (slot >= size_ || !(mass_at(slot) > 0)) return invalid_argument("prioritized replay: slot {} has no mass", slot);
    least = std::min(least, mass_at(slot));
  }
  for (std::size_t j = 0; j < slots.size(); ++j) weights[j] = std::pow(least / mass_at(slots[j]), beta);
  return ok_status();
}

void PrioritizedReplay::check_invariants() const {
  TD_CHECK(size_ >= 0 && size_ <= options_.capacity, size_, options_.capacity);
  for (std::size_t group = 0; group < leaves_.size(); ++group) {
    for (std::size_t i = 0; i < kFanOut; ++i) {
      const std::size_t slot = group * kFanOut + i;
      const float mass = leaves_[group].masses[i];
      TD_CHECK(slot < static_cast<std::size_t>(size_) ? valid_priority(mass) : mass == 0, slot, size_, mass);
    }
    const double sum = levels_[0][group / kFanOut].sums[group % kFanOut];
    TD_CHECK(sum == running_sums(leaves_[group].masses).back(), group, sum);
    if (ranked_) TD_CHECK(ranks_[0][group / kFanOut].least[group % kFanOut] == least_of(group), group);
  }
  for (std::size_t level = 0; level < levels_.size(); ++level) {
    for (std::size_t node = 0; node < levels_[level].size(); ++node) {
      const Node& there = levels_[level][node];
      TD_CHECK(there.prefixes == running_sums(there.sums), level, node);
      if (level + 1 == levels_.size()) continue;
      TD_CHECK(levels_[level + 1][node / kFanOut].sums[node % kFanOut] == there.prefixes.back(), level, node);
      if (!ranked_) continue;
      const auto& least = ranks_[level][node].least;
      TD_CHECK(ranks_[level + 1][node / kFanOut].least[node % kFanOut] == *std::min_element(least.begin(), least.end()),
               level, node);
    }
  }
}

}  // namespace tandem::replay

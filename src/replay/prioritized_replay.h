// Proportional prioritized replay: draws slot i with probability p_i^alpha / sum_j p_j^alpha.
//
// Hands out slots 0 .. capacity - 1 and keeps their priorities; what lies in a slot is the caller's, in arrays of its
// own. The masses p^alpha (f32) are the leaves of a tree of fan-out 16 whose sums (f64) are always made again from the
// children, never corrected by a difference: they are a function of the masses alone, whatever came before, so nothing
// drifts and equal priorities draw equal slots, bit for bit.
// Invariants: check_invariants().   Threads: one at a time.   Memory: all in create(), 5.1 bytes a slot (14.2 for
// kLowestPriority). Errors: kInvalidArgument (a NaN, infinite or negative number, a slot that holds nothing, spans of
// unequal length); a refused call changes nothing.
// Source: Schaul et al., arXiv:1511.05952.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tandem::replay {

using SlotId = std::uint32_t;

// Who leaves when all slots hold something.
enum class ReplayEviction : std::uint8_t {
  kOldest,
  kLowestPriority,  // of equals the oldest; changes cost about seven times as much
};

struct PrioritizedReplayOptions {
  std::int64_t capacity = 0;  // 1 .. 2^31
  float alpha = 0.6f;         // 0 (all alike) .. 1 (proportional)
  ReplayEviction eviction = ReplayEviction::kOldest;
};

class PrioritizedReplay {
 public:
  [[nodiscard]] static Result<PrioritizedReplay> create(const PrioritizedReplayOptions& options);

  std::int64_t size() const { return size_; }  // slots that hold something: all below
  const PrioritizedReplayOptions& options() const { return options_; }
  double mass() const;                                  // sum of p^alpha
  float priority_max() const { return priority_max_; }  // ever given, at least 1. What the paper gives to new entries
  double probability(SlotId slot) const;                // 0 of one that holds nothing

  struct Added {
    SlotId slot;
    bool evicted;  // it held something until now
  };
  // A slot for a new entry. A priority of 0 is never drawn (so add a small constant to an error that may vanish).
  [[nodiscard]] Result<Added> add(float priority);
  // Slots may repeat: the last one counts. Cost: O(log n) each, and less in large batches.
  [[nodiscard]] Status update(std::span<const SlotId> slots, std::span<const float> priorities);

  // Stratified: slots[j] is where (j + uniforms[j]) / m of the mass lies, uniforms [m] in [0, 1). kNotFound: no mass.
  [[nodiscard]] Status sample(std::span<const double> uniforms, std::span<SlotId> slots) const;
  // weights[j] = (n P(slots[j]))^-beta, divided by the greatest of them: n and the mass cancel, leaving
  // (least mass of the batch / mass of the slot)^beta, in (0, 1]. kInvalidArgument names a slot without mass.
  [[nodiscard]] Status importance_weights(std::span<const SlotId> slots, float beta, std::span<float> weights) const;

  // The whole of it, exactly: what is loaded goes on as what was saved would have, the same draws by the same numbers.
  // save() leaves the old file or the new one behind, whatever happens (base/file.h). Errors: kDataLoss (bytes that are
  // damaged, or none of ours), kInvalidArgument (another format); those of base/file.h.
  [[nodiscard]] Status save(const std::filesystem::path& path) const;
  [[nodiscard]] static Result<PrioritizedReplay> load(const std::filesystem::path& path);
  std::string to_bytes() const;
  [[nodiscard]] static Result<PrioritizedReplay> from_bytes(std::string_view bytes);

  // Everything that must hold, made again from the masses; aborts otherwise. For tests: O(n).
  void check_invariants() const;

 private:
  static constexpr std::uint32_t kFanOut = 16;
  using Rank = std::pair<float, std::uint64_t>;  // mass, then birth: the least leaves first
  struct alignas(64) Leaves {
    std::array<float, kFanOut> masses{};
  };
  struct alignas(64) Node {
    std::array<double, kFanOut> sums{}, prefixes{};  // of each child; of the children up to and with it
  };
  struct Ranks {
    std::array<Rank, kFanOut> least;  // below each child
  };

  explicit PrioritizedReplay(const PrioritizedReplayOptions& options);
  float mass_of(float priority) const;
  void set_mass(SlotId slot, float mass) { leaves_[slot / kFanOut].masses[slot % kFanOut] = mass; }
  float mass_at(SlotId slot) const { return leaves_[slot / kFanOut].masses[slot % kFanOut]; }
  Rank least_of(std::size_t group) const;
  SlotId lowest() const;
  void find(std::span<double> targets, std::span<SlotId> slots) const;
  void refresh_leaves(std::size_t group);
  void refresh_node(std::size_t level, std::size_t node);
  void refresh(std::span<std::uint32_t> groups);

  PrioritizedReplayOptions options_;
  std::int64_t size_ = 0;
  std::uint64_t added_ = 0;
  float priority_max_ = 1;
  bool ranked_;                            // kLowestPriority: ranks are kept
  std::vector<Leaves> leaves_;             // of 16 slots each
  std::vector<std::vector<Node>> levels_;  // the last is the root alone
  std::vector<std::uint64_t> births_;      // of slots, if ranked
  std::vector<std::vector<Ranks>> ranks_;  // beside levels_, if ranked
};

}  // namespace tandem::replay

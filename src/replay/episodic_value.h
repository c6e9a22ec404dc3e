// A value estimate that is a memory: V(s) = the soft read of past returns at the key <projection, s>.
//
// Entries are (state, return) pairs; the soft B-tree orders them along one learned axis and reads all of them in
// O(log n). A return counts at once, without a step of an optimizer; what is learned is where to look: the projection
// and the temperature, by gradients through queries AND keys (with the keys held still the same memory does not learn).
// An estimate that knows an episode's own return is a biased baseline: advantages() leaves it out, and squared_error()
// is for episodes that are not in yet, so learn first and add() after.
// Threads: one at a time.   Memory: capacity x (state width + 4) floats or so; the oldest entry leaves when it is full.
// Errors: kInvalidArgument (a NaN or infinite number, widths or counts that do not agree), kNotFound (nothing to read,
// an entry that is gone); a refused call changes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "replay/soft_btree.h"

namespace tandem::replay {

struct EpisodicValueOptions {
  int state_width = 1;        // S
  std::int64_t capacity = 0;  // entries
  float tau = 1;              // in units of keys
  SoftKernel kernel = SoftKernel::kLaplace;
};

class EpisodicValue {
 public:
  // projection [S]
  [[nodiscard]] static Result<EpisodicValue> create(const EpisodicValueOptions& options,
                                                    std::span<const float> projection);

  std::int64_t size() const { return tree_.size(); }
  std::span<const float> projection() const { return projection_; }
  float tau() const { return tree_.options().tau; }

  // state [S]; the oldest entry leaves if there is no room. Cost: O(S + log n).
  [[nodiscard]] Result<EntryId> add(std::span<const float> state, float episode_return);

  // states [m,S]; values [m] = V(states).
  [[nodiscard]] Status values(std::span<const float> states, std::span<float> values);
  // advantages[j] = the return of entry ids[j] less what the other entries say of its state.
  [[nodiscard]] Status advantages(std::span<const EntryId> ids, std::span<float> advantages);

  struct SquaredError {
    double loss = 0;                  // sum (V(states[j]) - returns[j])^2 / 2 m
    std::vector<float> d_projection;  // [S]
    float d_tau = 0;
  };
  // states [m,S], returns [m]: of episodes that are not in the memory. Cost: O(m log n + n S).
  [[nodiscard]] Result<SquaredError> squared_error(std::span<const float> states, std::span<const float> returns);

  // All keys move. Cost: O(n (S + log n)).
  [[nodiscard]] Status set_projection(std::span<const float> projection);
  [[nodiscard]] Status set_tau(float tau) { return tree_.set_tau(tau); }

  // The whole of it, exactly: what is loaded goes on as what was saved would have, the same values, and the same ids
  // given out next. save() leaves the old file or the new one behind, whatever happens (base/file.h). Errors: kDataLoss
  // (bytes that are damaged, or none of ours), kInvalidArgument (another format); those of base/file.h.
  [[nodiscard]] Status save(const std::filesystem::path& path) const;
  [[nodiscard]] static Result<EpisodicValue> load(const std::filesystem::path& path);
  std::string to_bytes() const;
  [[nodiscard]] static Result<EpisodicValue> from_bytes(std::string_view bytes);

 private:
  EpisodicValue(const EpisodicValueOptions& options, SoftBTree<float> tree, std::span<const float> projection)
      : width_(static_cast<std::size_t>(options.state_width)),
        capacity_(options.capacity),
        tree_(std::move(tree)),
        projection_(projection.begin(), projection.end()) {}
  std::span<const float> state_of(EntryId id) const { return {&states_[id * width_], width_}; }
  Status expect_entries() const;
  Status project(std::span<const float> states, std::vector<float>& keys) const;

  std::size_t width_;
  std::int64_t capacity_;
  SoftBTree<float> tree_;
  std::vector<float> projection_;
  std::vector<float> states_;       // [ids_end, S]
  std::vector<std::uint8_t> held_;  // [ids_end]: is in the tree
};

}  // namespace tandem::replay

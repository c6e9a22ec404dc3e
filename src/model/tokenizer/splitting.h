// What becomes of the text between and inside matches when a text is cut: removed, kept apart, joined to a neighbour.
#pragma once

#include <optional>
#include <string_view>

#include "base/status.h"

namespace tandem::model {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

inline std::optional<SplitBehavior> split_behavior_of(std::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return std::nullopt;
}

// Takes the parts of a text in order, each a match or not, and passes on the words they make.
// Emit: Status(std::string_view word, bool at_start); empty words are left out.
template <class Emit>
class Splitter {
 public:
  Splitter(std::string_view text, SplitBehavior behavior, const Emit& emit)
      : text_(text), behavior_(behavior), emit_(emit) {}

  // The next part, which ends at `stop`.
  Status part(std::size_t stop, bool is_match) {
    const bool was_match = last_is_match_;
    bool joins = false;  // the word in hand
    switch (behavior_) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated: break;
      case SplitBehavior::kMergedWithPrevious: joins = is_match && !was_match; break;
      // Seen from the end: a match joins what follows it, unless that is a match too.
      case SplitBehavior::kMergedWithNext: joins = was_match && !is_match; break;
      case SplitBehavior::kContiguous: joins = is_match == was_match; break;
    }
    if (!joins) TD_TRY(finish_word());
    dropped_ = behavior_ == SplitBehavior::kRemoved && is_match;
    stop_ = stop;
    last_is_match_ = is_match;
    return ok_status();
  }

  // Passes on the word in hand; call once more at the end.
  Status finish_word() {
    const std::size_t start = start_;
    start_ = stop_;
    if (stop_ == start || dropped_) return ok_status();
    return emit_(text_.substr(start, stop_ - start), start == 0);
  }

 private:
  std::string_view text_;
  SplitBehavior behavior_;
  const Emit& emit_;
  std::size_t start_ = 0, stop_ = 0;  // the word in hand
  bool last_is_match_ = false, dropped_ = false;
};

}  // namespace tandem::model

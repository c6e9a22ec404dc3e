// Merging a word of millions of symbols: candidates are kept per rank, in lists that memory likes.
#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>

#include "model/tokenizer/bpe.h"

namespace tandem::model {
namespace {

// The positions where one merge may apply, smallest first. Positions found before the rank's turn are appended and
// sorted once; those found during its turn (few) go to a heap.
class Candidates {
 public:
  void add(std::int32_t at) {
    if (!sorted_) {
      listed_.push_back(at);
    } else {
      late_.push(at);
    }
  }
  bool empty() const { return next_ == listed_.size() && late_.empty(); }
  std::int32_t pop() {
    if (!sorted_) {
      if (!std::is_sorted(listed_.begin(), listed_.end())) std::sort(listed_.begin(), listed_.end());
      sorted_ = true;
    }
    if (!late_.empty() && (next_ == listed_.size() || late_.top() < listed_[next_])) {
      const std::int32_t at = late_.top();
      late_.pop();
      return at;
    }
    return listed_[next_++];
  }

 private:
  std::vector<std::int32_t> listed_;
  std::size_t next_ = 0;
  bool sorted_ = false;
  std::priority_queue<std::int32_t, std::vector<std::int32_t>, std::greater<>> late_;
};

}  // namespace

void Bpe::merge_long(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  std::unordered_map<std::uint32_t, Candidates> by_rank;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ranks;  // those in by_rank
  std::uint32_t last_rank = 0;
  Candidates* last = nullptr;  // most additions in a row are to one rank
  const auto add = [&](std::int32_t at) {
    const Merge* merge = merge_at(symbols, at);
    if (merge == nullptr) return;
    if (last == nullptr || last_rank != merge->rank) {
      const auto [entry, added] = by_rank.try_emplace(merge->rank);
      if (added) ranks.push(merge->rank);
      last = &entry->second;
      last_rank = merge->rank;
    }
    last->add(at);
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) add(static_cast<std::int32_t>(i));
  while (!ranks.empty()) {
    const std::uint32_t rank = ranks.top();
    const auto found = by_rank.find(rank);
    Candidates& candidates = found->second;
    // A merge may bring up a lower rank, which then goes first.
    while (!candidates.empty() && ranks.top() == rank) {
      const std::int32_t at = candidates.pop();
      const Merge* merge = merge_at(symbols, at);
      if (merge == nullptr || merge->rank != rank) continue;
      join(symbols, at, merge->id);
      const std::int32_t previous = symbols[static_cast<std::size_t>(at)].previous;
      if (previous >= 0) add(previous);
      add(at);
    }
    if (candidates.empty() && ranks.top() == rank) {
      ranks.pop();
      if (last == &candidates) last = nullptr;
      by_rank.erase(found);
    }
  }
}

}  // namespace tandem::model

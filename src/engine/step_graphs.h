// Which steps are kept captured as graphs. Capturing takes about as long as queueing a step by itself, and a captured
// step takes memory on the device: so a shape is captured when it has come kUsesBefore times, and of the captured ones
// the kGraphsMax used last are kept; one that is dropped counts as new.
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>

namespace tandem::engine {

// All that tells one step's launches from another's.
struct StepShape {
  std::int64_t sequences = 0, logit_rows = 0, context_max = 0;
  int gives = 0;         // what the step brings back
  std::size_t slot = 0;  // whose arrays it reads
  friend auto operator<=>(const StepShape&, const StepShape&) = default;
};

// Graph: default-constructed it is none, and false; destroying it while it runs is fine, as it is for device::Graph.
template <class Graph>
class StepGraphs {
 public:
  static constexpr int kUsesBefore = 2;
  static constexpr std::size_t kGraphsMax = 128;   // 1 to 64 sequences with either slot
  static constexpr std::size_t kShapesMax = 1024;  // that are remembered

  // The place of this shape's graph, for the caller to fill if it is none; null if the shape has not come often enough.
  // Valid until the next call.
  Graph* use(const StepShape& shape) {
    if (is_stopped_) return nullptr;
    Entry& entry = to_front(shape);
    if (entry.uses_before < kUsesBefore) {
      entry.uses_before += 1;
      return nullptr;
    }
    if (!entry.has_place) {
      if (places_taken_ == kGraphsMax) {
        drop(*std::find_if(entries_.rbegin(), entries_.rend(), [](const Entry& other) { return other.has_place; }));
      }
      entry.has_place = true;
      places_taken_ += 1;
    }
    return &entry.graph;
  }

  // No further graphs, and none of those that there are.
  void stop() {
    is_stopped_ = true;
    found_.clear();
    entries_.clear();
  }

 private:
  struct Entry {
    StepShape shape;
    int uses_before = 0;
    bool has_place = false;
    Graph graph;
  };

  Entry& to_front(const StepShape& shape) {
    const auto [found, is_new] = found_.try_emplace(shape);
    if (!is_new) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return entries_.front();
    }
    entries_.push_front({.shape = shape});
    found->second = entries_.begin();
    if (entries_.size() > kShapesMax) {
      if (entries_.back().has_place) drop(entries_.back());
      found_.erase(entries_.back().shape);
      entries_.pop_back();
    }
    return entries_.front();
  }
  void drop(Entry& entry) {
    entry.graph = Graph();
    entry.has_place = false;
    entry.uses_before = 0;
    places_taken_ -= 1;
  }

  std::list<Entry> entries_;  // the last used first
  std::map<StepShape, typename std::list<Entry>::iterator> found_;
  std::size_t places_taken_ = 0;
  bool is_stopped_ = false;
};

}  // namespace tandem::engine

// Which steps are kept captured as graphs. Capturing takes about as long as queueing a step by itself, and a captured
// step takes memory on the device: so a shape is captured when it has come kUsesBefore times, and of the captured ones
// the kGraphsMax used last are kept.
// Threads: one at a time.
#pragma once

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
  static constexpr std::size_t kGraphsMax = 64;

  // The place of this shape's graph, for the caller to fill if it is none; null if the shape has not come often enough.
  // Valid until the next call.
  Graph* use(const StepShape& shape) {
    const auto [found, is_new] = places_.try_emplace(shape);
    if (is_new) {
      kept_.push_front({shape, 0, {}});
      found->second = kept_.begin();
      // Those that came once and long ago are forgotten with the others.
      if (kept_.size() > kGraphsMax) {
        places_.erase(kept_.back().shape);
        kept_.pop_back();
      }
    } else {
      kept_.splice(kept_.begin(), kept_, found->second);
    }
    Entry& entry = kept_.front();
    return entry.uses_before++ < kUsesBefore ? nullptr : &entry.graph;
  }

 private:
  struct Entry {
    StepShape shape;
    std::int64_t uses_before;
    Graph graph;
  };
  std::list<Entry> kept_;  // the last used first
  std::map<StepShape, typename std::list<Entry>::iterator> places_;
};

}  // namespace tandem::engine

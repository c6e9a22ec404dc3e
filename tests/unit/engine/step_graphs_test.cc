#include "engine/step_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/rng.h"

namespace tandem::engine {
namespace {

// Counts those that there are.
class CountedGraph {
 public:
  CountedGraph() = default;
  explicit CountedGraph(std::shared_ptr<int> name) : name_(std::move(name)) {}
  explicit operator bool() const { return name_ != nullptr; }
  int name() const { return *name_; }

 private:
  std::shared_ptr<int> name_;
};

StepShape shape_of(std::int64_t sequences) { return {.sequences = sequences, .logit_rows = sequences}; }

TEST(StepGraphs, AShapeIsCapturedOnceItHasComeOften) {
  StepGraphs<CountedGraph> graphs;
  for (int i = 0; i < StepGraphs<CountedGraph>::kUsesBefore; ++i) EXPECT_EQ(graphs.use(shape_of(3)), nullptr);
  CountedGraph* const graph = graphs.use(shape_of(3));
  ASSERT_NE(graph, nullptr);
  EXPECT_FALSE(*graph);
  *graph = CountedGraph(std::make_shared<int>(3));
  EXPECT_EQ(graphs.use(shape_of(4)), nullptr);
  ASSERT_NE(graphs.use(shape_of(3)), nullptr);
  EXPECT_EQ(graphs.use(shape_of(3))->name(), 3);
}

TEST(StepGraphs, EveryPartOfAShapeCounts) {
  StepGraphs<CountedGraph> graphs;
  const StepShape shape = shape_of(3);
  for (int i = 0; i <= StepGraphs<CountedGraph>::kUsesBefore; ++i) graphs.use(shape);
  std::vector<StepShape> others(5, shape);
  others[0].sequences = 4, others[1].logit_rows = 4, others[2].context_max = 4, others[3].gives = 4, others[4].slot = 4;
  for (const StepShape& other : others) EXPECT_EQ(graphs.use(other), nullptr);
}

// Against a list of what was used last.
TEST(StepGraphs, TheLastUsedAreKept) {
  constexpr std::size_t kMax = StepGraphs<CountedGraph>::kGraphsMax;
  StepGraphs<CountedGraph> graphs;
  std::deque<std::int64_t> last_used;
  std::map<std::int64_t, int> uses;
  std::vector<std::weak_ptr<int>> made;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const auto random = philox({7, 0}, i);
    const std::int64_t name = random[0] % (random[1] % 8 == 0 ? 3 * kMax : kMax / 2);
    const auto at = std::ranges::find(last_used, name);
    if (at != last_used.end()) last_used.erase(at);
    last_used.push_front(name);
    if (last_used.size() > kMax) {
      uses.erase(last_used.back());
      last_used.pop_back();
    }
    CountedGraph* const graph = graphs.use(shape_of(name));
    ASSERT_EQ(graph != nullptr, uses[name]++ >= StepGraphs<CountedGraph>::kUsesBefore) << i;
    if (graph == nullptr) continue;
    ASSERT_EQ(static_cast<bool>(*graph), uses[name] > StepGraphs<CountedGraph>::kUsesBefore + 1) << i;
    if (!*graph) {
      const auto value = std::make_shared<int>(static_cast<int>(name));
      made.push_back(value);
      *graph = CountedGraph(value);
    }
    ASSERT_EQ(graph->name(), name);
  }
  const auto alive = std::ranges::count_if(made, [](const auto& graph) { return !graph.expired(); });
  EXPECT_GT(alive, 0);
  EXPECT_LE(alive, static_cast<std::ptrdiff_t>(kMax));
  EXPECT_GT(made.size(), kMax);
}

}  // namespace
}  // namespace tandem::engine

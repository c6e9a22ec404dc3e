#include "engine/step_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
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

// However the number of sequences moves, while nothing else changes, no step is captured twice.
TEST(StepGraphs, EverySizeOfAStepHasItsPlace) {
  StepGraphs<CountedGraph> graphs;
  for (int use = 0; use < 5; ++use) {
    for (std::int64_t sequences = 1; sequences <= 64; ++sequences) {
      for (const std::size_t slot : {0, 1}) {
        CountedGraph* const graph = graphs.use({.sequences = sequences, .logit_rows = sequences, .slot = slot});
        ASSERT_EQ(graph != nullptr, use >= StepGraphs<CountedGraph>::kUsesBefore);
        if (graph == nullptr) continue;
        ASSERT_EQ(static_cast<bool>(*graph), use > StepGraphs<CountedGraph>::kUsesBefore) << sequences;
        *graph = CountedGraph(std::make_shared<int>(0));
      }
    }
  }
}

// Against a list of shapes in the order of their use.
TEST(StepGraphs, TheCapturedOnesUsedLastAreKept) {
  using Graphs = StepGraphs<CountedGraph>;
  struct Shape {
    std::int64_t name = 0;
    int uses = 0;
    bool is_captured = false;
  };
  Graphs graphs;
  std::deque<Shape> shapes;
  std::vector<std::weak_ptr<int>> made;
  for (std::uint64_t i = 0; i < 30'000; ++i) {
    const auto random = philox({7, 0}, i);
    const std::size_t names = random[1] % 8 == 0 ? 2 * Graphs::kShapesMax : Graphs::kGraphsMax / 2;
    const auto name = static_cast<std::int64_t>(random[0] % names);
    const auto at = std::ranges::find(shapes, name, &Shape::name);
    Shape shape{name};
    if (at != shapes.end()) {
      shape = *at;
      shapes.erase(at);
    }
    shapes.push_front(shape);
    if (shapes.size() > Graphs::kShapesMax) shapes.pop_back();
    CountedGraph* const graph = graphs.use(shape_of(name));
    Shape& used = shapes.front();
    ASSERT_EQ(graph != nullptr, used.uses >= Graphs::kUsesBefore) << i;
    if (graph == nullptr) {
      used.uses += 1;
      continue;
    }
    ASSERT_EQ(static_cast<bool>(*graph), used.is_captured) << i;
    if (!used.is_captured) {
      if (std::ranges::count(shapes, true, &Shape::is_captured) == std::ptrdiff_t{Graphs::kGraphsMax}) {
        const auto last = std::find_if(shapes.rbegin(), shapes.rend(), [](const Shape& s) { return s.is_captured; });
        last->is_captured = false;
        last->uses = 0;
      }
      used.is_captured = true;
      const auto value = std::make_shared<int>(static_cast<int>(name));
      made.push_back(value);
      *graph = CountedGraph(value);
    }
    ASSERT_EQ(graph->name(), name);
  }
  const auto alive = std::ranges::count_if(made, [](const auto& graph) { return !graph.expired(); });
  EXPECT_EQ(alive, std::ptrdiff_t{Graphs::kGraphsMax});
  EXPECT_GT(made.size(), 2 * Graphs::kGraphsMax);
}

TEST(StepGraphs, AfterTheEndThereAreNone) {
  StepGraphs<CountedGraph> graphs;
  for (int i = 0; i < StepGraphs<CountedGraph>::kUsesBefore; ++i) graphs.use(shape_of(3));
  const auto value = std::make_shared<int>(3);
  *graphs.use(shape_of(3)) = CountedGraph(value);
  EXPECT_EQ(value.use_count(), 2);
  graphs.stop();
  EXPECT_EQ(value.use_count(), 1);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(graphs.use(shape_of(3)), nullptr);
}

}  // namespace
}  // namespace tandem::engine

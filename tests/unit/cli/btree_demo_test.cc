// What the demonstration shows must be so, in a smaller world.
#include "cli/btree_demo.h"

#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

TEST(BtreeDemo, GradientsToQueriesAndKeysLearnTheRecall) {
  const RecallTask task{.width = 4, .entries = 512, .batch = 128, .steps = 300};
  const double frozen = run_recall(task, RecallMode::kFrozen, 0).value().last;
  const double queries = run_recall(task, RecallMode::kQueries, 0).value().last;
  const double both = run_recall(task, RecallMode::kQueriesAndKeys, 0).value().last;
  EXPECT_GT(frozen, 0.4);
  EXPECT_GT(queries, 0.2);
  EXPECT_LT(both, 0.15);
}

TEST(BtreeDemo, ALearnedBaselineTakesTheVarianceAway) {
  const BanditTask task{.entries = 1024, .steps = 200};
  const double none = run_bandit(task, BaselineMode::kNone, 0).value().variance.last;
  const double learned = run_bandit(task, BaselineMode::kLearnedProjection, 0).value().variance.last;
  EXPECT_GT(none, 40.0);
  EXPECT_LT(learned, 0.5 * none);
}

TEST(BtreeDemo, ACriticDoesToo) {
  const BanditTask task{.entries = 1024, .steps = 200};
  const double none = run_bandit(task, BaselineMode::kNone, 0).value().variance.last;
  EXPECT_LT(run_bandit(task, BaselineMode::kMlp, 0).value().variance.last, 0.5 * none);
  EXPECT_LT(run_bandit(task, BaselineMode::kMlpReplay, 0).value().variance.last, 0.2 * none);
}

TEST(BtreeDemo, TheSameSeedTheSameCurve) {
  const RecallTask task{.entries = 64, .batch = 16, .steps = 20};
  EXPECT_EQ(run_recall(task, RecallMode::kQueriesKeysAndTau, 3).value().points,
            run_recall(task, RecallMode::kQueriesKeysAndTau, 3).value().points);
}

}  // namespace
}  // namespace tandem::cli

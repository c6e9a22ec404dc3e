// Draws of the soft B-tree against the dense oracle's probabilities.
#include <gtest/gtest.h>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

constexpr SoftKernel kKernels[] = {SoftKernel::kLaplace, SoftKernel::kMatern32};

TEST(SoftBTreeOracle, SamplesFollowTheirProbabilities) {
  Random random(12);
  const int draws = kSanitized ? 20000 : 200000;
  for (const SoftKernel kernel : kKernels) {
    std::vector<double> keys(90);
    for (std::size_t i = 0; i < 90; ++i) keys[i] = i % 3 == 0 ? std::round(4 * normal(random)) / 4 : normal(random);
    auto made = make_case<double>(keys, 1, kernel, 0.4, random);
    ASSERT_TRUE(made.tree.set_weight(made.ids[5], 0).ok());
    made.dense.weights[5] = 0;
    const auto snapshot = made.tree.snapshot();
    for (const double query : {0.1, keys[0], -30.0, 30.0}) {
      const std::vector<double> queries(static_cast<std::size_t>(draws), query);
      std::vector<double> uniforms(queries.size());
      for (double& u : uniforms) u = uniform(random);
      uniforms[0] = 0;
      uniforms[1] = std::nextafter(1.0, 0.0);
      std::vector<EntryId> ids(queries.size());
      ASSERT_TRUE(snapshot.sample(queries, uniforms, ids).ok());
      std::vector<double> counts(90);
      for (const EntryId id : ids) {
        const auto place = std::find(made.ids.begin(), made.ids.end(), id) - made.ids.begin();
        ASSERT_LT(place, 90);
        ++counts[static_cast<std::size_t>(place)];
      }
      EXPECT_EQ(counts[5], 0);
      double chi2 = 0, rare = 0, rare_counts = 0, bins = 0;
      for (std::size_t i = 0; i < 90; ++i) {
        if (i == 5) continue;
        const double expected = draws * std::exp(made.oracle().log_prob(query, i));
        if (expected < 10) {
          rare += expected;
          rare_counts += counts[i];
          continue;
        }
        chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++bins;
      }
      if (rare > 0) chi2 += (rare_counts - rare) * (rare_counts - rare) / std::max(rare, 1.0);
      const double dof = std::max(bins, 1.0);
      EXPECT_LT(chi2, dof + 5 * std::sqrt(2 * dof)) << "query " << query;
    }
  }
}

}  // namespace
}  // namespace tandem::replay

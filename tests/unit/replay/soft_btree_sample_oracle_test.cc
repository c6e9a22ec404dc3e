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

// Each entry has one run of uniform numbers, as long as it is probable. So of numbers evenly spaced it gets its share,
// but for one: in a tree of several levels, with runs of equal keys, entries without weight and steps that wait.
template <class Real>
void expect_runs(SoftKernel kernel, double tau) {
  Random random(77);
  const std::size_t n = kSanitized ? 2000 : 6000, draws = kSanitized ? 20000 : 100000;
  std::vector<double> keys(n);
  for (std::size_t i = 0; i < n; ++i) keys[i] = i % 5 == 0 ? std::round(20 * uniform(random)) / 20 : uniform(random);
  auto made = make_case<Real>(keys, 3, kernel, tau, random);
  for (std::size_t i = 0; i < n; i += 7) {
    ASSERT_TRUE(made.tree.set_weight(made.ids[i], 0).ok());
    made.dense.weights[i] = 0;
  }
  for (const double at : {0.2, 0.7}) {
    const std::vector<Real> d_read = {1, -1, 2};
    ASSERT_TRUE(made.tree.sgd_values(static_cast<Real>(at), d_read, Real(0.01)).ok());
  }
  const auto snapshot = made.tree.snapshot();
  const DenseOracle oracle(made.dense, kernel, static_cast<double>(made.tree.options().tau));
  for (const double at : {0.31, 0.5, 0.9999, -2.0, 3.0}) {
    const std::vector<Real> queries(draws, static_cast<Real>(at));
    std::vector<double> uniforms(draws);
    for (std::size_t j = 0; j < draws; ++j) uniforms[j] = (static_cast<double>(j) + 0.5) / static_cast<double>(draws);
    std::vector<EntryId> ids(draws);
    ASSERT_TRUE(snapshot.sample(queries, uniforms, ids).ok());
    std::vector<double> counts(n);
    for (const EntryId id : ids) ++counts[id];
    const double slack = 1 + static_cast<double>(draws) * 20 * std::numeric_limits<Real>::epsilon();
    const DenseRead read = oracle.read(static_cast<double>(queries[0])).value();
    for (std::size_t i = 0; i < n; ++i) {
      const double want = static_cast<double>(draws) * made.dense.weights[i] * read.shares[i];
      ASSERT_NEAR(counts[made.ids[i]], want, made.dense.weights[i] > 0 ? slack : 0)
          << "entry " << i << ", query " << at;
    }
  }
}

TEST(SoftBTreeOracle, DrawsShareOutTheUniformNumbers) {
  for (const SoftKernel kernel : kKernels) {
    for (const double tau : {0.002, 0.1}) {
      expect_runs<float>(kernel, tau);
      expect_runs<double>(kernel, tau);
    }
  }
}

}  // namespace
}  // namespace tandem::replay

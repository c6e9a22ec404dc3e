// Reads and gradients of the soft B-tree against the dense oracle, in both precisions.
#include <gtest/gtest.h>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

constexpr SoftKernel kKernels[] = {SoftKernel::kLaplace, SoftKernel::kMatern32};

TEST(SoftBTreeOracle, DoublesAgreeAtAllKeysSizesAndTemperatures) {
  Random random(1);
  for (const SoftKernel kernel : kKernels) {
    for (const Keys keys : kAllKeys) {
      for (const std::size_t n : {1u, 2u, 3u, 31u, 64u, 65u, 500u, kSanitized ? 900u : 4097u}) {
        for (const double factor : {1e-6, 1e-3, 1.0, 1e3}) {
          const int width = n % 2 == 0 ? 1 : 3;
          auto made = make_case<double>(keys, n, width, kernel, factor * spread(keys), random);
          const auto queries = draw_queries(made, 18, random);
          const Errors errors = compare<double>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
          EXPECT_LT(errors.greatest(), 1e-12) << errors << "; kernel " << static_cast<int>(kernel) << " keys "
                                              << static_cast<int>(keys) << " n " << n << " tau factor " << factor;
        }
      }
    }
  }
}

TEST(SoftBTreeOracle, DoublesAgreeOverAHundredThousand) {
  Random random(2);
  auto made = make_case<double>(Keys::kNormal, kSanitized ? 5000 : 100000, 2, SoftKernel::kLaplace, 100, random);
  const auto queries = draw_queries(made, 12, random);
  const Errors errors = compare<double>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
  EXPECT_LT(errors.greatest(), 1e-12) << errors;
  made.tree.check_invariants();
}

TEST(SoftBTreeOracle, DoublesAgreeOverAMillionAtAllKeys) {
  Random random(12);
  for (const Keys keys : kAllKeys) {
    for (const SoftKernel kernel : kKernels) {
      auto made = make_case<double>(keys, kSanitized ? 5000 : 1000000, 1, kernel, spread(keys), random);
      for (const double factor : {1e-3, 1.0}) {
        ASSERT_TRUE(made.tree.set_tau(factor * spread(keys)).ok());
        const auto queries = draw_queries(made, 4, random);
        std::vector<double> reads(4), log_z(4);
        ASSERT_TRUE(made.tree.snapshot().read(queries, reads, log_z).ok());
        for (std::size_t j = 0; j < queries.size(); ++j) {
          const DenseRead row = *made.oracle().read(queries[j]);
          EXPECT_NEAR(reads[j], row.read[0], 1e-12 * row.scales[0]) << "keys " << static_cast<int>(keys);
          EXPECT_NEAR(log_z[j], row.log_z, 1e-12 * (1 + row.nearest + std::abs(row.log_z)));
        }
      }
    }
  }
}

TEST(SoftBTreeOracle, FloatsStayWithinTheirRoundingAtAllKeys) {
  Random random(3);
  for (const SoftKernel kernel : kKernels) {
    for (const Keys keys : kAllKeys) {
      for (const double factor : {1e-6, 1e-3, 1.0, 1e3}) {
        auto made = make_case<float>(keys, kSanitized ? 1000 : 20000, 4, kernel, factor * spread(keys), random);
        const auto queries = draw_queries(made, 24, random);
        const Errors errors = compare<float>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
        EXPECT_LT(errors.greatest(), 3e-6) << errors << "; kernel " << static_cast<int>(kernel) << " keys "
                                           << static_cast<int>(keys) << " tau factor " << factor;
      }
    }
  }
}

TEST(SoftBTreeOracle, FloatsStayWithinTheirRoundingOverAMillion) {
  Random random(4);
  auto made = make_case<float>(Keys::kUniform, kSanitized ? 5000 : 1000000, 1, SoftKernel::kLaplace, 1e-3, random);
  const auto queries = draw_queries(made, 6, random);
  std::vector<float> reads(6), log_z(6);
  ASSERT_TRUE(made.tree.snapshot().read(queries, reads, log_z).ok());
  for (std::size_t j = 0; j < queries.size(); ++j) {
    const DenseRead row = *made.oracle().read(static_cast<double>(queries[j]));
    EXPECT_NEAR(reads[j], row.read[0], 3e-6 * row.scales[0]);
    EXPECT_NEAR(log_z[j], row.log_z, 1e-6 * (1 + row.nearest));
  }
}

// The loss whose gradients are checked below, through the tree's reads alone.
double loss(SoftBTree<double>& tree, std::span<const double> queries, std::span<const double> d_reads,
            std::span<const double> d_log_z) {
  std::vector<double> reads(d_reads.size()), log_z(queries.size());
  EXPECT_TRUE(tree.snapshot().read(queries, reads, log_z).ok());
  double out = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) out += d_reads[i] * reads[i];
  for (std::size_t j = 0; j < log_z.size(); ++j) out += d_log_z[j] * log_z[j];
  return out;
}

TEST(SoftBTreeOracle, GradientsAreThoseOfFiniteDifferences) {
  Random random(5);
  const double step = 1e-6, tau = 0.3;
  for (const SoftKernel kernel : kKernels) {
    std::vector<double> keys(150);
    for (double& key : keys) key = normal(random);
    keys[11] = keys[12] = keys[10];
    auto made = make_case<double>(keys, 2, kernel, tau, random);
    const std::size_t m = 13;
    std::vector<double> queries = draw_normals<double>(m, random);
    queries[0] = -300;
    queries[1] = 300;
    queries[2] = *std::min_element(keys.begin(), keys.end()) - 1e-3;
    const auto d_reads = draw_normals<double>(2 * m, random), d_log_z = draw_normals<double>(m, random);
    auto& tree = made.tree;
    const auto got = tree_backward<double>(tree.snapshot(), made.ids, queries, d_reads, d_log_z);
    const auto slope = [&](auto&& move) {
      move(step);
      const double above = loss(tree, queries, d_reads, d_log_z);
      move(-step);
      const double below = loss(tree, queries, d_reads, d_log_z);
      move(0.0);
      return (above - below) / (2 * step);
    };
    for (std::size_t j = 0; j < m; ++j) {
      const double query = queries[j];
      EXPECT_NEAR(slope([&](double by) { queries[j] = query + by; }), got.queries[j], 1e-6) << "query " << query;
    }
    for (std::size_t i = 0; i < keys.size(); i += i < 14 ? 1 : 9) {
      const EntryId id = made.ids[i];
      const double weight = made.dense.weights[i];
      EXPECT_NEAR(slope([&](double by) { ASSERT_TRUE(tree.set_key(id, keys[i] + by).ok()); }), got.keys[i], 1e-6);
      EXPECT_NEAR(slope([&](double by) { ASSERT_TRUE(tree.set_weight(id, weight + by).ok()); }), got.weights[i], 1e-6);
      for (std::size_t d = 0; d < 2; ++d) {
        std::vector<double> value = {made.dense.values[2 * i], made.dense.values[2 * i + 1]};
        const double there = value[d];
        EXPECT_NEAR(slope([&](double by) {
                      value[d] = there + by;
                      ASSERT_TRUE(tree.set_value(id, value).ok());
                    }),
                    got.values[2 * i + d], 1e-6);
      }
    }
    EXPECT_NEAR(slope([&](double by) { ASSERT_TRUE(tree.set_tau(tau + by).ok()); }), got.tau, 1e-5 * std::abs(got.tau));
    tree.check_invariants();
  }
}

TEST(SoftBTreeOracle, GradientsKnowShiftsAndScales) {
  // r and Z do not change when all keys and queries move together, nor when they and tau grow by one factor.
  Random random(6);
  for (const SoftKernel kernel : kKernels) {
    for (int round = 0; round < 20; ++round) {
      auto made = make_case<double>(Keys::kUniform, 1 + random() % 700, 3, kernel,
                                    std::pow(10, -2 + 3 * uniform(random)), random);
      const auto queries = draw_queries(made, 20, random);
      const auto d_reads = draw_normals<double>(60, random), d_log_z = draw_normals<double>(20, random);
      const auto got = tree_backward<double>(made.tree.snapshot(), made.ids, queries, d_reads, d_log_z);
      const double tau = made.tree.options().tau;
      double shift = 0, euler = tau * got.tau, shift_scale = 0, euler_scale = std::abs(euler);
      const auto add = [&](double x, double gradient) {
        shift += gradient;
        shift_scale += std::abs(gradient);
        euler += x * gradient;
        euler_scale += std::abs(x * gradient);
      };
      for (std::size_t j = 0; j < queries.size(); ++j) add(queries[j], got.queries[j]);
      for (std::size_t i = 0; i < made.ids.size(); ++i) add(made.dense.keys[i], got.keys[i]);
      EXPECT_NEAR(shift, 0, 1e-12 * shift_scale);
      EXPECT_NEAR(euler, 0, 1e-12 * euler_scale);
    }
  }
}

TEST(SoftBTreeOracle, QueriesUponDuplicatesAndKeysThatCross) {
  Random random(7);
  for (const SoftKernel kernel : kKernels) {
    std::vector<double> keys;
    for (int i = 0; i < 400; ++i) keys.push_back(static_cast<double>(i % 5));  // runs of 80: wider than a leaf
    auto made = make_case<double>(keys, 2, kernel, 0.7, random);
    const std::vector<double> queries = {0, 1, 2, 3, 4, 2.5, -1, 5};
    Errors errors = compare<double>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
    EXPECT_LT(errors.greatest(), 1e-12) << errors;
    // One entry walks over the others, resting upon them as well.
    const EntryId walker = made.ids[7];
    for (double key = -1; key <= 5; key += 0.125) {
      ASSERT_TRUE(made.tree.set_key(walker, key).ok());
      made.dense.keys[7] = key;
      made.tree.check_invariants();
      errors = compare<double>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
      EXPECT_LT(errors.greatest(), 1e-12) << errors << " key " << key;
    }
  }
}

TEST(SoftBTreeOracle, AnEntryWithoutWeightIsAbsentButHasAGradient) {
  Random random(8);
  for (const SoftKernel kernel : kKernels) {
    auto made = make_case<double>(Keys::kUniform, 300, 2, kernel, 0.1, random);
    for (std::size_t i = 0; i < 300; i += 3) {
      ASSERT_TRUE(made.tree.set_weight(made.ids[i], 0).ok());
      made.dense.weights[i] = 0;
    }
    const auto queries = draw_queries(made, 30, random);
    const Errors errors = compare<double>(made.tree.snapshot(), made.oracle(), made.ids, queries, random);
    EXPECT_LT(errors.greatest(), 1e-12) << errors;
    // Far from all others, too: nothing may be lost to the distance of those that count.
    auto far = make_case<double>({0, 1e4, 1e4 + 1}, 1, kernel, 1, random);
    ASSERT_TRUE(far.tree.set_weight(far.ids[0], 0).ok());
    far.dense.weights[0] = 0;
    const std::vector<double> query = {300};
    std::vector<double> read(1), log_z(1);
    ASSERT_TRUE(far.tree.snapshot().read(query, read, log_z).ok());
    EXPECT_NEAR(read[0], far.oracle().read(300)->read[0], 1e-12);
    EXPECT_NEAR(log_z[0], far.oracle().read(300)->log_z, 1e-8);
  }
}

TEST(SoftBTreeOracle, ReadsWithoutAnEntry) {
  Random random(9);
  for (const SoftKernel kernel : kKernels) {
    for (const Keys keys : {Keys::kNormal, Keys::kDuplicates, Keys::kLognormal}) {
      for (const std::size_t n : {1u, 2u, 3u, 65u, 2000u}) {
        for (const double factor : {1e-6, 1e-2, 10.0}) {
          auto made = make_case<double>(keys, n, 2, kernel, factor * spread(keys), random);
          std::vector<double> queries = draw_queries(made, 12, random);
          std::vector<EntryId> except;
          std::vector<std::size_t> places;
          for (std::size_t j = 0; j < queries.size(); ++j) {
            places.push_back(random() % n);
            except.push_back(made.ids[places[j]]);
            if (j % 2 == 0) queries[j] = made.dense.keys[places[j]];  // the entry asks for itself
          }
          std::vector<double> reads(24);
          const Status status = made.tree.snapshot().read_without(queries, except, reads);
          if (n == 1) {
            EXPECT_EQ(status.code(), StatusCode::kNotFound);
            continue;
          }
          ASSERT_TRUE(status.ok()) << status.to_string();
          for (std::size_t j = 0; j < queries.size(); ++j) {
            const DenseRead row = *made.oracle().read(queries[j], places[j]);
            EXPECT_LT(worst<double>({&reads[2 * j], 2}, row.read, row.scales), 1e-12) << "n " << n;
          }
        }
      }
    }
  }
}

TEST(SoftBTreeOracle, AReadDoesNotDependOnItsNeighbours) {
  Random random(10);
  auto made = make_case<float>(Keys::kDuplicates, 5000, 5, SoftKernel::kLaplace, 0.01, random);
  const auto snapshot = made.tree.snapshot();
  auto queries = draw_queries(made, 200, random);
  std::vector<float> reads(1000), log_z(200), one(5), one_z(1);
  for (int sorted = 0; sorted < 2; ++sorted) {
    ASSERT_TRUE(snapshot.read(queries, reads, log_z).ok());
    for (std::size_t j = 0; j < 200; ++j) {
      ASSERT_TRUE(snapshot.read({&queries[j], 1}, one, one_z).ok());
      EXPECT_EQ(one_z[0], log_z[j]);
      EXPECT_TRUE(std::equal(one.begin(), one.end(), &reads[5 * j])) << "query " << j;
    }
    std::sort(queries.begin(), queries.end());
  }
  const auto d_reads = draw_normals<float>(1000, random);
  const auto first = tree_backward<float>(snapshot, made.ids, queries, d_reads, {});
  const auto again = tree_backward<float>(snapshot, made.ids, queries, d_reads, {});
  EXPECT_EQ(first.queries, again.queries);
  EXPECT_EQ(first.keys, again.keys);
  EXPECT_EQ(first.values, again.values);
  EXPECT_EQ(first.weights, again.weights);
  EXPECT_EQ(first.tau, again.tau);
}

template <class Real>
void check_log_probs(double tolerance) {
  Random random(11);
  for (const SoftKernel kernel : kKernels) {
    for (const Keys keys : {Keys::kUniform, Keys::kDuplicates, Keys::kCauchy}) {
      auto made = make_case<Real>(keys, 400, 1, kernel, 0.05 * spread(keys), random);
      const auto snapshot = made.tree.snapshot();
      for (const Real query : draw_queries(made, 12, random)) {
        const std::vector<Real> queries(400, query);
        std::vector<Real> log_probs(400);
        ASSERT_TRUE(snapshot.log_prob(queries, made.ids, log_probs).ok());
        double sum = 0;
        for (std::size_t i = 0; i < 400; ++i) {
          const auto got = static_cast<double>(log_probs[i]);
          const double u =
              std::abs(static_cast<double>(query) - made.dense.keys[i]) / static_cast<double>(made.tree.options().tau);
          EXPECT_NEAR(got, made.oracle().log_prob(static_cast<double>(query), i), tolerance * (1 + u));
          sum += std::exp(got);
        }
        EXPECT_NEAR(sum, 1, tolerance * 2000) << "query " << query;  // queries are up to 1000 tau away
      }
    }
  }
}

TEST(SoftBTreeOracle, LogProbabilitiesSumToOneInDoubles) { check_log_probs<double>(1e-14); }
TEST(SoftBTreeOracle, LogProbabilitiesSumToOneInFloats) { check_log_probs<float>(1e-6); }

}  // namespace
}  // namespace tandem::replay

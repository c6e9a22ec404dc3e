// The kernel that ends, against the dense formula: reads, gradients, draws, steps on values, histories, files.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "unit/replay/dense_window.h"
#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

constexpr SoftKernel kKernel = SoftKernel::kEpanechnikov;

// Queries that reach something: near keys, upon them, and with a key at the very edge.
template <class Real>
std::vector<Real> reaching_queries(const Case<Real>& made, std::size_t m, Random& random) {
  const DenseWindow oracle(made.dense, static_cast<double>(made.tree.options().tau));
  const auto tau = static_cast<double>(made.tree.options().tau);
  std::vector<Real> queries;
  for (std::size_t tries = 0; queries.size() < m && tries < 40 * m; ++tries) {
    const double key = made.dense.keys[random() % made.dense.keys.size()];
    double query = key;
    if (tries % 3 == 1) query = key + tau * (2 * uniform(random) - 1);
    if (tries % 3 == 2) query = key + (random() % 2 == 0 ? tau : -tau);
    const auto rounded = static_cast<Real>(query);
    const auto row = oracle.read(static_cast<double>(rounded));
    if (row && row->log_z_scale < 1e3) queries.push_back(rounded);  // else only edges are in reach: nobody's to say
  }
  return queries;
}

// Slopes jump where an entry comes into reach, and whether it is there is a matter of rounding.
std::vector<float> off_the_edges(const DenseEntries& entries, double tau, const std::vector<float>& queries) {
  std::vector<float> out;
  for (const float query : queries) {
    const bool off = std::none_of(entries.keys.begin(), entries.keys.end(), [&](double key) {
      return std::abs(std::abs(static_cast<double>(query) - key) / tau - 1) < 2e-6;
    });
    if (off) out.push_back(query);
  }
  return out;
}
const std::vector<double>& off_the_edges(const DenseEntries&, double, const std::vector<double>& queries) {
  return queries;  // the formula's rounding is the tree's
}

template <class Real>
double compare_reads(const SoftBTreeSnapshot<Real>& snapshot, const DenseWindow& oracle,
                     std::span<const Real> queries) {
  const std::size_t m = queries.size(), d = static_cast<std::size_t>(snapshot.value_width());
  std::vector<Real> reads(m * d), log_z(m);
  const Status status = snapshot.read(queries, reads, log_z);
  EXPECT_TRUE(status.ok()) << status.to_string();
  double out = 0;
  for (std::size_t j = 0; j < m; ++j) {
    const auto row = *oracle.read(static_cast<double>(queries[j]));
    out = std::max(out, worst<Real>({&reads[j * d], d}, row.read, row.scales));
    const double want = std::log(row.z);
    out = std::max(out, worst<Real>({&log_z[j], 1}, {&want, 1}, {&row.log_z_scale, 1}));
  }
  return out;
}

template <class Real>
double compare_gradients(const SoftBTreeSnapshot<Real>& snapshot, const DenseWindow& oracle,
                         std::span<const EntryId> ids, std::span<const Real> queries, Random& random) {
  const std::size_t m = queries.size(), d = static_cast<std::size_t>(snapshot.value_width());
  const auto d_reads = draw_normals<Real>(m * d, random), d_log_z = draw_normals<Real>(m, random);
  double out = 0;
  for (const std::span<const Real> d_z : {std::span<const Real>(), std::span<const Real>(d_log_z)}) {
    const auto got = tree_backward<Real>(snapshot, ids, queries, d_reads, d_z);
    const DenseBackward want = oracle.backward<Real>(queries, d_reads, d_z);
    out = std::max({out, worst<Real>(got.queries, want.of.queries, want.scales.queries),
                    worst<Real>(got.keys, want.of.keys, want.scales.keys),
                    worst<Real>(got.values, want.of.values, want.scales.values),
                    worst<Real>(got.weights, want.of.weights, want.scales.weights),
                    worst<Real>({&got.tau, 1}, {&want.of.tau, 1}, {&want.scales.tau, 1})});
  }
  return out;
}

template <class Real>
void expect_dense_formula(double bound) {
  Random random(31);
  for (const Keys keys : kAllKeys) {
    for (const std::size_t n : {1u, 2u, 63u, 65u, 700u, 5000u}) {
      for (const double factor : {1e-4, 1e-2, 0.3, 3.0, 1e3}) {
        if (kSanitized && n > 700) continue;
        auto made = make_case<Real>(keys, n, 2, kKernel, factor * spread(keys), random);
        for (std::size_t i = 0; i < n; i += 7) {
          if (n < 7) break;
          ASSERT_TRUE(made.tree.set_weight(made.ids[i], 0).ok());
          made.dense.weights[i] = 0;
        }
        SCOPED_TRACE(testing::Message() << "keys " << static_cast<int>(keys) << " n " << n << " tau " << factor);
        made.tree.check_invariants();
        const auto queries = reaching_queries(made, n > 1000 ? 6 : 15, random);
        const auto snapshot = made.tree.snapshot();
        const DenseWindow oracle(made.dense, static_cast<double>(made.tree.options().tau));
        ASSERT_LT(compare_reads<Real>(snapshot, oracle, queries), bound);
        const std::vector<Real> off = off_the_edges(made.dense, static_cast<double>(made.tree.options().tau), queries);
        ASSERT_LT(compare_gradients<Real>(snapshot, oracle, made.ids, off, random), bound * 4);
      }
    }
  }
}

TEST(SoftBTreeWindow, ReadsAndGradientsInDoubles) { expect_dense_formula<double>(2e-14); }
TEST(SoftBTreeWindow, ReadsAndGradientsInFloats) { expect_dense_formula<float>(1e-5); }

TEST(SoftBTreeWindow, DoublesAgreeOverAMillionAtAllKeys) {
  Random random(34);
  for (const Keys keys : kAllKeys) {
    auto made = make_case<double>(keys, kSanitized ? 5000 : 1000000, 1, kKernel, spread(keys) / 50, random);
    const auto queries = reaching_queries(made, 3, random);
    const DenseWindow oracle(made.dense, spread(keys) / 50);
    EXPECT_LT(compare_reads<double>(made.tree.snapshot(), oracle, queries), 2e-14);
  }
}

TEST(SoftBTreeWindow, GradientsAreThoseOfDifferences) {
  Random random(32);
  auto made = make_case<double>(Keys::kUniform, 200, 1, kKernel, 0.3, random);
  const std::vector<double> queries = {0.31, 0.77}, d_reads = {1.0, -2.0}, d_log_z = {0.3, 0.7};
  const auto loss = [&](double tau, double q0, double key, double value, double weight) {
    auto tree = SoftBTree<double>::create({1, tau, kKernel}).value();
    DenseEntries e = made.dense;
    e.keys[5] = key, e.values[5] = value, e.weights[5] = weight;
    std::vector<EntryId> ids(e.size());
    EXPECT_TRUE(tree.insert_batch(e.keys, e.values, e.weights, ids).ok());
    std::vector<double> reads(2), log_z(2);
    EXPECT_TRUE(tree.snapshot().read(std::vector<double>{q0, queries[1]}, reads, log_z).ok());
    return reads[0] * d_reads[0] + reads[1] * d_reads[1] + log_z[0] * d_log_z[0] + log_z[1] * d_log_z[1];
  };
  const double k = made.dense.keys[5] = 0.5, v = made.dense.values[5], w = made.dense.weights[5], h = 1e-6;
  ASSERT_TRUE(made.tree.set_key(made.ids[5], k).ok());
  const auto got = tree_backward<double>(made.tree.snapshot(), made.ids, queries, d_reads, d_log_z);
  EXPECT_NEAR(got.tau, (loss(0.3 + h, 0.31, k, v, w) - loss(0.3 - h, 0.31, k, v, w)) / (2 * h), 1e-6);
  EXPECT_NEAR(got.queries[0], (loss(0.3, 0.31 + h, k, v, w) - loss(0.3, 0.31 - h, k, v, w)) / (2 * h), 1e-6);
  EXPECT_NEAR(got.keys[5], (loss(0.3, 0.31, k + h, v, w) - loss(0.3, 0.31, k - h, v, w)) / (2 * h), 1e-6);
  EXPECT_NEAR(got.values[5], (loss(0.3, 0.31, k, v + h, w) - loss(0.3, 0.31, k, v - h, w)) / (2 * h), 1e-6);
  EXPECT_NEAR(got.weights[5], (loss(0.3, 0.31, k, v, w + h) - loss(0.3, 0.31, k, v, w - h)) / (2 * h), 1e-6);
}

TEST(SoftBTreeWindow, WhatReachesNothingIsRefused) {
  auto tree = SoftBTree<double>::create({1, 1, kKernel}).value();
  const std::vector<double> far = {2, 3.0}, value = {5};
  std::vector<double> reads(2), log_z(2);
  EXPECT_EQ(tree.snapshot().read(far, reads).code(), StatusCode::kNotFound);
  const EntryId id = tree.insert(2, value).value();
  for (const Status& status :
       {tree.snapshot().read(far, reads), tree.snapshot().backward(far, reads, {}, {}),
        tree.snapshot().log_prob(far, std::vector<EntryId>{id, id}, log_z), tree.sgd_values(3, value, 0.1),
        tree.snapshot().read_without(std::vector<double>{2}, {&id, 1}, {reads.data(), 1})}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_NE(status.message().find("raise tau"), std::string::npos) << status.message();
  }
  ASSERT_TRUE(tree.snapshot().read(std::vector<double>{2.9}, {reads.data(), 1}, {log_z.data(), 1}).ok());
  EXPECT_EQ(reads[0], 5);
  EXPECT_NEAR(log_z[0], std::log(1 - 0.81), 1e-14);
}

TEST(SoftBTreeWindow, DrawsFollowTheProbabilitiesAndTheirLogarithms) {
  Random random(33);
  auto made = make_case<double>(Keys::kUniform, 300, 1, kKernel, 0.1, random);
  const auto snapshot = made.tree.snapshot();
  const DenseWindow oracle(made.dense, 0.1);
  const double query = 0.4, z = oracle.read(query)->z;
  constexpr std::size_t kDraws = 40000;
  std::vector<double> uniforms(kDraws);
  for (std::size_t j = 0; j < kDraws; ++j) uniforms[j] = (static_cast<double>(j) + uniform(random)) / kDraws;
  uniforms[0] = 0;
  uniforms.back() = std::nextafter(1.0, 0.0);
  std::vector<EntryId> ids(kDraws);
  ASSERT_TRUE(snapshot.sample(std::vector<double>(kDraws, query), uniforms, ids).ok());
  std::map<EntryId, int> counts;
  for (const EntryId id : ids) ++counts[id];
  std::vector<double> log_probs(300);
  ASSERT_TRUE(snapshot.log_prob(std::vector<double>(300, query), made.ids, log_probs).ok());
  double sum = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    const double p = made.dense.weights[i] * oracle.shape(query, i) / z;
    EXPECT_NEAR(std::exp(log_probs[i]), p, 1e-14);
    EXPECT_NEAR(counts[made.ids[i]], p * kDraws, 3) << i;  // stratified
    sum += std::exp(log_probs[i]);
  }
  EXPECT_NEAR(sum, 1, 1e-13);
}

// Inserts, erasures, moves, weights, temperatures and steps, all against the model; snapshots keep what they said.
template <class Real>
void run_history(std::uint64_t seed, double bound) {
  Random random(seed);
  auto made = make_case<Real>(Keys::kUniform, 400, 2, kKernel, 0.05, random);
  std::size_t next = 0;
  for (int turn = 0; turn < 150; ++turn) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " turn " << turn);
    const auto kept = made.tree.snapshot();
    const DenseEntries was = made.dense;
    const auto tau_then = static_cast<double>(made.tree.options().tau);
    const std::size_t i = random() % made.ids.size();
    const auto set_key = [&](double key) {
      const auto rounded = static_cast<Real>(key);
      ASSERT_TRUE(made.tree.set_key(made.ids[i], rounded).ok());
      made.dense.keys[i] = static_cast<double>(rounded);
    };
    switch (turn % 6) {
      case 0:
        for (int k = 0; k < 30; ++k) {
          const auto key = static_cast<Real>(uniform(random));
          const auto value = draw_normals<Real>(2, random);
          made.ids.push_back(made.tree.insert(key, value).value());
          made.dense.keys.push_back(static_cast<double>(key));
          made.dense.weights.push_back(1);
          made.dense.values.insert(made.dense.values.end(), value.begin(), value.end());
        }
        break;
      case 1: {
        const std::size_t count = std::min<std::size_t>(50, made.ids.size() - 100);
        ASSERT_TRUE(made.tree.erase_batch({made.ids.data(), count}).ok());
        made.ids.erase(made.ids.begin(), made.ids.begin() + static_cast<std::ptrdiff_t>(count));
        auto& d = made.dense;
        d.keys.erase(d.keys.begin(), d.keys.begin() + static_cast<std::ptrdiff_t>(count));
        d.weights.erase(d.weights.begin(), d.weights.begin() + static_cast<std::ptrdiff_t>(count));
        d.values.erase(d.values.begin(), d.values.begin() + 2 * static_cast<std::ptrdiff_t>(count));
        break;
      }
      case 2: set_key(random() % 2 == 0 ? uniform(random) : made.dense.keys[next++ % made.ids.size()]); break;
      case 3:
        made.dense.weights[i] = random() % 2 == 0 ? 0 : 2;
        ASSERT_TRUE(made.tree.set_weight(made.ids[i], static_cast<Real>(made.dense.weights[i])).ok());
        break;
      case 4: ASSERT_TRUE(made.tree.set_tau(static_cast<Real>(0.02 + 0.3 * uniform(random))).ok()); break;
      default: {
        const auto query = reaching_queries(made, 1, random);
        const auto g = draw_normals<Real>(2, random);
        ASSERT_TRUE(made.tree.sgd_values(query[0], g, static_cast<Real>(0.5)).ok());
        const DenseWindow oracle(made.dense, static_cast<double>(made.tree.options().tau));
        const double z = oracle.read(static_cast<double>(query[0]))->z;
        for (std::size_t e = 0; e < made.ids.size(); ++e) {
          const double p = made.dense.weights[e] * oracle.shape(static_cast<double>(query[0]), e) / z;
          for (std::size_t k = 0; k < 2; ++k) {
            made.dense.values[2 * e + k] -= 0.5 * p * static_cast<double>(g[k]);
          }
        }
      }
    }
    made.tree.check_invariants();
    const auto queries = reaching_queries(made, 8, random);
    const DenseWindow oracle(made.dense, static_cast<double>(made.tree.options().tau));
    ASSERT_LT(compare_reads<Real>(made.tree.snapshot(), oracle, queries), bound);
    std::vector<EntryId> except;
    std::vector<std::size_t> places;
    std::vector<Real> asked;
    for (const Real query : queries) {
      const std::size_t place = random() % made.ids.size();
      if (!oracle.read(static_cast<double>(query), place)) continue;
      asked.push_back(query);
      places.push_back(place);
      except.push_back(made.ids[place]);
    }
    std::vector<Real> reads(2 * asked.size());
    ASSERT_TRUE(made.tree.snapshot().read_without(asked, except, reads).ok());
    for (std::size_t j = 0; j < asked.size(); ++j) {
      const auto row = *oracle.read(static_cast<double>(asked[j]), places[j]);
      ASSERT_LT(worst<Real>({&reads[2 * j], 2}, row.read, row.scales), bound);
    }
    const DenseWindow then(was, tau_then);
    std::vector<Real> old_queries;
    for (const Real query : queries) {
      const auto row = then.read(static_cast<double>(query));
      if (row && row->log_z_scale < 1e3) old_queries.push_back(query);
    }
    ASSERT_LT(compare_reads<Real>(kept, then, old_queries), bound);
  }
  auto loaded = SoftBTree<Real>::from_bytes(made.tree.to_bytes()).value();
  const auto queries = reaching_queries(made, 20, random);
  std::vector<Real> reads(40), loaded_reads(40);
  ASSERT_TRUE(made.tree.snapshot().read(queries, reads).ok());
  ASSERT_TRUE(loaded.snapshot().read(queries, loaded_reads).ok());
  EXPECT_EQ(reads, loaded_reads);
}

TEST(SoftBTreeWindow, HistoriesInDoubles) {
  for (std::uint64_t seed = 40; seed < 46; ++seed) run_history<double>(seed, 1e-13);
}
TEST(SoftBTreeWindow, HistoriesInFloats) {
  for (std::uint64_t seed = 50; seed < 56; ++seed) run_history<float>(seed, 1e-5);
}

}  // namespace
}  // namespace tandem::replay

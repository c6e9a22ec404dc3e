#include "replay/soft_btree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "unit/replay/soft_btree_plain.h"

namespace tandem::replay {
namespace {

using namespace plain;

template <class Real>
class SoftBTreeTyped : public testing::Test {
 public:
  static constexpr double kTolerance = sizeof(Real) == 8 ? 1e-12 : 2e-6;
};
using Reals = testing::Types<float, double>;
TYPED_TEST_SUITE(SoftBTreeTyped, Reals);

TYPED_TEST(SoftBTreeTyped, EmptyTreeHasNothingToRead) {
  auto tree = make<TypeParam>(2, 1);
  std::vector<TypeParam> q = {0}, r(2);
  EXPECT_EQ(tree.snapshot().read(q, r).code(), StatusCode::kNotFound);
  EXPECT_EQ(tree.snapshot().backward(q, r, {}, {}).code(), StatusCode::kNotFound);
  EXPECT_TRUE(tree.snapshot().read({}, {}).ok());
  EXPECT_EQ(tree.size(), 0);
  EXPECT_EQ(tree.oldest(), std::nullopt);
  EXPECT_EQ(tree.lightest(), std::nullopt);
  EXPECT_EQ(tree.erase(0).code(), StatusCode::kNotFound);
  tree.check_invariants();
}

TYPED_TEST(SoftBTreeTyped, OneEntryIsReadFromAnywhere) {
  auto tree = make<TypeParam>(2, TypeParam(0.001));
  const std::vector<TypeParam> v = {3, -4};
  const auto id = tree.insert(5, v, 2);
  ASSERT_TRUE(id.ok());
  const std::vector<TypeParam> q = {-1000, 5, 1000};
  std::vector<TypeParam> r(6), z(3);
  ASSERT_TRUE(tree.snapshot().read(q, r, z).ok());
  for (int j = 0; j < 3; ++j) {
    EXPECT_EQ(r[2 * j], 3);
    EXPECT_EQ(r[2 * j + 1], -4);
  }
  EXPECT_NEAR(z[1], std::log(2.0), 1e-6);
  ASSERT_TRUE(tree.erase(*id).ok());
  EXPECT_EQ(tree.snapshot().read(q, r).code(), StatusCode::kNotFound);
  tree.check_invariants();
}

// What far entries add where near ones have nothing is kept below the smallest normal float, and is not wrong for that.
TYPED_TEST(SoftBTreeTyped, FarEntriesOfLargeValuesMayUnderflow) {
  auto tree = make<TypeParam>(1, 1);
  for (int i = 0; i < 600; ++i) {
    const TypeParam value = i % 2 == 0 ? TypeParam(0) : TypeParam(1e12);
    const TypeParam key = TypeParam(i % 2 * 97) + TypeParam(i) / 512;
    ASSERT_TRUE(tree.insert(key, std::span(&value, 1), TypeParam(1 + i % 100)).ok());
  }
  tree.check_invariants();
}

// Inserts, erases, batches and changes of every kind against the formula, with many equal keys.
template <class Real>
void churn(SoftKernel kernel, double tolerance) {
  std::mt19937 random(7);
  const int width = 3;
  auto tree = make<Real>(width, Real(0.1), kernel);
  Plain<Real> plain;
  std::normal_distribution<double> normal;
  const auto key = [&] { return random() % 2 ? Real(std::round(normal(random) * 4) / 4) : Real(normal(random)); };
  const auto weight = [&] { return random() % 8 == 0 ? Real(0) : Real(0.5 + (random() % 100) / 50.0); };
  const auto value = [&] {
    return std::vector<Real>{Real(normal(random)), Real(normal(random)), Real(normal(random))};
  };
  const auto any = [&] { return std::next(plain.entries.begin(), random() % plain.entries.size())->first; };
  std::vector<std::pair<SoftBTreeSnapshot<Real>, Plain<Real>>> kept;
  for (int step = 0; step < 600; ++step) {
    const bool growing = step % 300 < 200;
    const int what = random() % 12;
    if (plain.entries.empty() || (growing ? what < 6 : what < 2)) {
      const std::size_t m = random() % 4 == 0 ? 1 + random() % 300 : 1;
      std::vector<Real> keys, values, weights;
      std::vector<EntryId> ids(m);
      for (std::size_t j = 0; j < m; ++j) {
        const auto v = value();
        keys.push_back(key());
        weights.push_back(weight());
        values.insert(values.end(), v.begin(), v.end());
      }
      ASSERT_TRUE(tree.insert_batch(keys, values, weights, ids).ok());
      for (std::size_t j = 0; j < m; ++j) {
        plain.entries[ids[j]] = {keys[j], weights[j], {values.begin() + 3 * j, values.begin() + 3 * j + 3}};
      }
    } else if (what < 8) {
      std::vector<EntryId> ids;
      const std::size_t m = random() % 3 == 0 ? 1 + random() % 200 : 1;
      for (std::size_t j = 0; j < m && !plain.entries.empty(); ++j) {
        ids.push_back(any());
        plain.entries.erase(ids.back());
      }
      ASSERT_TRUE(tree.erase_batch(ids).ok());
    } else if (what == 8) {
      const EntryId id = any();
      ASSERT_TRUE(tree.set_weight(id, plain.entries[id].weight = weight()).ok());
    } else if (what == 9) {
      const EntryId id = any();
      ASSERT_TRUE(tree.set_value(id, plain.entries[id].value = value()).ok());
    } else if (what == 10) {
      const EntryId id = any();
      ASSERT_TRUE(tree.set_key(id, plain.entries[id].key = key()).ok());
    } else if (step % 5 == 0) {
      ASSERT_TRUE(tree.set_tau(Real(std::pow(10.0, normal(random) - 1))).ok());
    }
    ASSERT_EQ(tree.size(), std::int64_t(plain.entries.size()));
    tree.check_invariants();
    bool live = false;
    for (const auto& [id, e] : plain.entries) live |= e.weight > 0;
    if (!live) continue;
    std::vector<Real> queries = {key(), key(), Real(-30), Real(40), plain.entries.begin()->second.key};
    expect_reads(tree.snapshot(), plain, kernel, queries, tolerance);
    if (step % 40 == 0) kept.emplace_back(tree.snapshot(), plain);
  }
  for (const auto& [snapshot, was] : kept) expect_reads(snapshot, was, kernel, {key(), key(), key()}, tolerance);
}

TYPED_TEST(SoftBTreeTyped, ChurnKeepsReadsAndSnapshotsLaplace) {
  churn<TypeParam>(SoftKernel::kLaplace, this->kTolerance);
}
TYPED_TEST(SoftBTreeTyped, ChurnKeepsReadsAndSnapshotsMatern) {
  churn<TypeParam>(SoftKernel::kMatern32, this->kTolerance);
}

// A grid of uniforms finds every entry as often as its probability says, and log_prob agrees.
template <class Real>
void samples_of(SoftKernel kernel) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  auto tree = make<Real>(1, Real(0.5), kernel);
  std::vector<EntryId> there;
  const std::vector<Real> value = {0};
  for (int i = 0; i < 400; ++i) {
    const Real key = i < 150 ? Real(0.25) : Real(normal(random));  // a run of equal keys over several leaves
    const auto id = tree.insert(key, value, i % 9 == 0 ? Real(0) : Real(0.5 + i % 5));
    there.push_back(*id);
  }
  const auto snapshot = tree.snapshot();
  for (const Real q : {Real(0.25), Real(-0.7), Real(9), Real(-9)}) {
    const std::size_t draws = 200000;
    std::vector<Real> queries(draws, q), log_probs(there.size());
    std::vector<double> uniforms(draws);
    for (std::size_t j = 0; j < draws; ++j) uniforms[j] = (double(j) + 0.5) / double(draws);
    std::vector<EntryId> ids(draws);
    ASSERT_TRUE(snapshot.sample(queries, uniforms, ids).ok());
    std::vector<int> counts(there.size());
    for (const EntryId id : ids) ++counts[id];
    queries.resize(there.size());
    ASSERT_TRUE(snapshot.log_prob(queries, there, log_probs).ok());
    double sum = 0;
    for (std::size_t i = 0; i < there.size(); ++i) {
      const double p = std::exp(double(log_probs[i]));
      sum += p;
      ASSERT_NEAR(counts[i], p * double(draws), 1.5 + 1e-4 * double(draws) * p) << "entry " << i << " query " << q;
    }
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

TYPED_TEST(SoftBTreeTyped, SamplesFollowTheProbabilities) {
  samples_of<TypeParam>(SoftKernel::kLaplace);
  samples_of<TypeParam>(SoftKernel::kMatern32);
}

TYPED_TEST(SoftBTreeTyped, ReadWithoutIsTheTreeWithoutIt) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    std::mt19937 random(5);
    std::normal_distribution<double> normal;
    auto tree = make<TypeParam>(1, TypeParam(0.05), kernel);
    Plain<TypeParam> plain;
    std::vector<TypeParam> queries, reads;
    std::vector<EntryId> except;
    for (int i = 0; i < 600; ++i) {
      const TypeParam key = i < 200 ? TypeParam(0.5) : TypeParam(normal(random));
      const std::vector<TypeParam> value = {TypeParam(normal(random))};
      const TypeParam weight = i % 7 == 0 ? TypeParam(0) : TypeParam(1);
      const auto id = tree.insert(key, value, weight);
      plain.entries[*id] = {key, weight, value};
      queries.push_back(i % 2 ? key : TypeParam(normal(random)));
      except.push_back(*id);
    }
    reads.resize(queries.size());
    ASSERT_TRUE(tree.snapshot().read_without(queries, except, reads).ok());
    for (std::size_t j = 0; j < queries.size(); ++j) {
      const auto want = plain.read(queries[j], tree.options().tau, kernel, nullptr, except[j]);
      ASSERT_NEAR(reads[j], want[0], this->kTolerance) << j;
    }
  }
  auto one = make<TypeParam>(1, 1);
  const std::vector<TypeParam> value = {1}, query = {0};
  const std::vector<EntryId> id = {*one.insert(0, value)};
  std::vector<TypeParam> read = {7};
  EXPECT_EQ(one.snapshot().read_without(query, id, read).code(), StatusCode::kNotFound);
  EXPECT_EQ(read[0], 7);
}

TYPED_TEST(SoftBTreeTyped, OldestAndLightest) {
  auto tree = make<TypeParam>(1, 1);
  const std::vector<TypeParam> value = {1};
  const EntryId a = *tree.insert(3, value, 2), b = *tree.insert(1, value, 1), c = *tree.insert(2, value, 1);
  EXPECT_EQ(tree.oldest(), a);
  EXPECT_EQ(tree.lightest(), b);
  ASSERT_TRUE(tree.erase(b).ok());
  EXPECT_EQ(tree.lightest(), c);
  const EntryId d = *tree.insert(0, value, 1);  // takes b's id, and is younger than c
  EXPECT_EQ(d, b);
  EXPECT_EQ(tree.lightest(), c);
  ASSERT_TRUE(tree.set_weight(c, 5).ok());
  EXPECT_EQ(tree.lightest(), d);
  ASSERT_TRUE(tree.erase(a).ok());
  EXPECT_EQ(tree.oldest(), c);
  tree.check_invariants();
}

TYPED_TEST(SoftBTreeTyped, AnEntrysValueMayBeWrittenAgain) {
  constexpr int kWidth = 3;
  auto tree = SoftBTree<TypeParam>::create({.value_width = kWidth}).value();
  std::vector<EntryId> ids;
  for (int i = 0; i < 500; ++i) {  // leaves move their entries and split
    const auto x = static_cast<TypeParam>(i);
    ids.push_back(tree.insert(0, std::vector<TypeParam>{x, -x, 2 * x}).value());
    const auto value = tree.entry(ids[0]).value().value;
    const EntryId copied = tree.insert(TypeParam(-1), value).value();
    ASSERT_EQ(tree.entry(copied).value().value[2], 0) << i;
    const auto last = tree.entry(ids.back()).value().value;
    ASSERT_TRUE(tree.set_value(copied, last).ok());
    const EntryId again = tree.insert(TypeParam(-1), tree.entry(copied).value().value).value();
    for (const EntryId id : {copied, again}) {
      const auto read = tree.entry(id).value().value;
      ASSERT_EQ(std::vector<TypeParam>(read.begin(), read.end()), (std::vector<TypeParam>{x, -x, 2 * x})) << i;
    }
  }
}

TYPED_TEST(SoftBTreeTyped, RefusedCallsChangeNothing) {
  constexpr TypeParam kNan = std::numeric_limits<TypeParam>::quiet_NaN();
  constexpr TypeParam kInfinity = std::numeric_limits<TypeParam>::infinity();
  EXPECT_FALSE(SoftBTree<TypeParam>::create({.value_width = 0}).ok());
  for (const int width : {kSoftWidthMax + 1, 1 << 27, std::numeric_limits<int>::max()}) {  // a node's bytes would wrap
    EXPECT_EQ(SoftBTree<TypeParam>::create({.value_width = width}).code(), StatusCode::kInvalidArgument) << width;
  }
  EXPECT_FALSE(SoftBTree<TypeParam>::create({.tau = 0}).ok());
  EXPECT_FALSE(SoftBTree<TypeParam>::create({.tau = kNan}).ok());
  auto tree = make<TypeParam>(1, 1);
  const std::vector<TypeParam> one = {1}, two = {1, 2}, bad = {kNan};
  const EntryId id = *tree.insert(0, one, 3);
  const std::uint64_t version = tree.version();
  EXPECT_EQ(tree.insert(kNan, one).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.insert(kInfinity, one).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.insert(0, one, -1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.insert(0, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.insert(0, bad).code(), StatusCode::kInvalidArgument);
  std::vector<EntryId> ids(2);
  EXPECT_EQ(tree.insert_batch(std::vector<TypeParam>{0, kNan}, two, {}, ids).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.erase(id + 1).code(), StatusCode::kNotFound);
  EXPECT_EQ(tree.erase_batch(std::vector<EntryId>{id, id + 1}).code(), StatusCode::kNotFound);
  EXPECT_EQ(tree.erase_batch(std::vector<EntryId>{id, id}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.set_key(id, kInfinity).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.set_weight(id, kNan).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.set_weight(id + 1, 1).code(), StatusCode::kNotFound);
  EXPECT_EQ(tree.set_value(id, two).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.set_tau(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.entry(id + 1).code(), StatusCode::kNotFound);
  std::vector<TypeParam> read = {5};
  EXPECT_EQ(tree.snapshot().read(bad, read).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tree.snapshot().read(two, read).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(read[0], 5);
  EXPECT_EQ(tree.version(), version);
  EXPECT_EQ(tree.size(), 1);
  EXPECT_EQ(tree.entry(id)->weight, 3);
  tree.check_invariants();
  // All weights 0: nothing to read, though entries are there.
  ASSERT_TRUE(tree.set_weight(id, 0).ok());
  EXPECT_EQ(tree.snapshot().read(one, read).code(), StatusCode::kNotFound);
}

// One writer; readers on snapshots, which they drop while nodes change. (Meant for the thread sanitizer.)
TEST(SoftBTreeThreads, SnapshotsAreReadWhileTheTreeChanges) {
  auto tree = make<float>(2, 0.1f);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<EntryId> there;
  const auto grow = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const std::vector<float> value = {1, normal(random)};
      there.push_back(*tree.insert(normal(random), value));
    }
  };
  grow(2000);
  for (int round = 0; round < 30; ++round) {
    std::vector<std::thread> readers;
    for (int r = 0; r < 2; ++r) {
      readers.emplace_back([snapshot = tree.snapshot()]() mutable {
        const std::vector<float> queries = {-1, 0, 0.5f, 3};
        std::vector<float> first(8), again(8), weights(snapshot.ids_end());
        ASSERT_TRUE(snapshot.read(queries, first).ok());
        ASSERT_TRUE(snapshot.backward(queries, first, {}, {.weights = weights}).ok());
        ASSERT_TRUE(snapshot.read(queries, again).ok());
        EXPECT_EQ(first, again);
        for (int j = 0; j < 4; ++j) EXPECT_NEAR(first[2 * j], 1, 1e-6);
        snapshot = {};
      });
    }
    grow(50);
    std::vector<float> keys(200), values(400);  // and a batch, which looks ahead
    for (float& key : keys) key = normal(random);
    for (std::size_t i = 0; i < keys.size(); ++i) values[2 * i] = 1;
    std::vector<EntryId> ids(keys.size());
    ASSERT_TRUE(tree.insert_batch(keys, values, {}, ids).ok());
    there.insert(there.end(), ids.begin(), ids.end());
    for (int i = 0; i < 50; ++i) {
      const std::size_t at = random() % there.size();
      ASSERT_TRUE(tree.erase(there[at]).ok());
      there[at] = there.back();
      there.pop_back();
    }
    for (std::thread& reader : readers) reader.join();
  }
  tree.check_invariants();
}

// Keys as far apart as numbers go: distances overflow to infinity, and that is far enough.
TYPED_TEST(SoftBTreeTyped, ExtremeKeys) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    constexpr TypeParam kLargest = std::numeric_limits<TypeParam>::max();
    auto tree = make<TypeParam>(1, 1, kernel);
    for (int i = 0; i < 100; ++i) {  // more than a leaf
      for (const TypeParam key : {-kLargest, TypeParam(0), kLargest}) {
        const std::vector<TypeParam> value = {key == 0 ? TypeParam(2) : key > 0 ? TypeParam(3) : TypeParam(1)};
        ASSERT_TRUE(tree.insert(key, value).ok());
      }
    }
    const std::vector<TypeParam> queries = {-kLargest, 0, kLargest}, d_reads = {1, 1, 1};
    std::vector<TypeParam> reads(3), d_queries(3), d_keys(300), d_values(300), d_weights(300);
    TypeParam d_tau = 0;
    ASSERT_TRUE(tree.snapshot().read(queries, reads).ok());
    EXPECT_EQ(reads, (std::vector<TypeParam>{1, 2, 3}));
    ASSERT_TRUE(tree.snapshot().backward(queries, d_reads, {}, {d_queries, d_keys, d_values, d_weights, &d_tau}).ok());
    EXPECT_EQ(d_queries, std::vector<TypeParam>(3));
    EXPECT_EQ(d_keys, std::vector<TypeParam>(300));
    for (const TypeParam d : d_values) EXPECT_NEAR(d, 0.01, 1e-8);
    for (const TypeParam d : d_weights) EXPECT_NEAR(d, 0, 1e-7);
    EXPECT_EQ(d_tau, 0);
  }
}

}  // namespace
}  // namespace tandem::replay

// Steps on all values that wait in the tree, against the same steps on each value, in double precision: mixed with all
// that changes a tree, and read in every way that looks at values while they wait.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <string>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

constexpr double kTolerance = 1e-12;

// A tree of doubles and its entries, in the order that `ids` has them.
class Stepped {
 public:
  Stepped(SoftKernel kernel, std::size_t n, double tau, Random& random)
      : made_(make_case<double>(Keys::kNormal, n, 2, kernel, tau, random)), random_(random) {
    for (std::size_t i = 0; i < n; i += 9) set_weight(i, 0);
  }
  Stepped(Case<double> made, Random& random) : made_(std::move(made)), random_(random) {}
  std::size_t size() const { return made_.ids.size(); }
  SoftBTree<double>& tree() { return made_.tree; }
  Case<double>& made() { return made_; }
  std::size_t draw() { return random_() % size(); }

  void step() { step_at(random_() % 4 == 0 ? made_.dense.keys[draw()] : draw_key(Keys::kNormal, random_)); }
  void step_at(double query) {
    const auto d_read = draw_normals<double>(2, random_);
    ASSERT_TRUE(made_.tree.sgd_values(query, d_read, 0.25).ok());
    const DenseRead row = *made_.oracle().read(query);
    for (std::size_t i = 0; i < size(); ++i) {
      if (made_.dense.weights[i] == 0) continue;
      const double p = made_.dense.weights[i] * row.shares[i];
      for (std::size_t d = 0; d < 2; ++d) made_.dense.values[2 * i + d] -= 0.25 * p * d_read[d];
    }
  }
  void set_weight(std::size_t i, double weight) {
    ASSERT_TRUE(made_.tree.set_weight(made_.ids[i], weight).ok());
    made_.dense.weights[i] = weight;
  }
  void set_key(std::size_t i, double key) {
    ASSERT_TRUE(made_.tree.set_key(made_.ids[i], key).ok());
    made_.dense.keys[i] = key;
  }
  void erase(std::size_t i) {
    ASSERT_TRUE(made_.tree.erase(made_.ids[i]).ok());
    const auto at = static_cast<std::ptrdiff_t>(i);
    made_.ids.erase(made_.ids.begin() + at);
    made_.dense.keys.erase(made_.dense.keys.begin() + at);
    made_.dense.weights.erase(made_.dense.weights.begin() + at);
    made_.dense.values.erase(made_.dense.values.begin() + 2 * at, made_.dense.values.begin() + 2 * at + 2);
  }
  void insert() {
    const double key = draw_key(Keys::kNormal, random_);
    const auto value = draw_normals<double>(2, random_);
    made_.ids.push_back(made_.tree.insert(key, value, 1.5).value());
    made_.dense.keys.push_back(key);
    made_.dense.weights.push_back(1.5);
    made_.dense.values.insert(made_.dense.values.end(), value.begin(), value.end());
  }

  void check_reads() {
    const auto snapshot = made_.tree.snapshot();
    const auto queries = draw_queries(made_, 12, random_);
    const Errors errors = compare<double>(snapshot, made_.oracle(), made_.ids, queries, random_);
    ASSERT_LT(errors.greatest(), kTolerance) << errors;
    std::vector<EntryId> except;
    std::vector<std::size_t> places;
    for (std::size_t j = 0; j < queries.size(); ++j) {
      places.push_back(draw());
      except.push_back(made_.ids[places[j]]);
    }
    std::vector<double> reads(2 * queries.size());
    ASSERT_TRUE(snapshot.read_without(queries, except, reads).ok());
    for (std::size_t j = 0; j < queries.size(); ++j) {
      const DenseRead row = *made_.oracle().read(queries[j], places[j]);
      ASSERT_LT(worst<double>({&reads[2 * j], 2}, row.read, row.scales), kTolerance);
    }
  }
  void check_values() {
    for (std::size_t i = 0; i < size(); ++i) {
      const auto entry = made_.tree.entry(made_.ids[i]).value();
      for (std::size_t d = 0; d < 2; ++d) {
        ASSERT_NEAR(entry.value[d], made_.dense.values[2 * i + d], kTolerance * 20) << "entry " << i;
      }
    }
  }

 private:
  Case<double> made_;
  Random& random_;
};

TEST(SoftBTreeSgd, WaitingStepsAreSeenByAllThatReads) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    for (const double tau : {20.0, 1e3, 1e5}) {  // keys are spread over 1e4
      Random random(21);
      Stepped stepped(kernel, kSanitized ? 600 : 3000, tau, random);
      for (int turn = 0; turn < 60 && !testing::Test::HasFatalFailure(); ++turn) {
        SCOPED_TRACE(testing::Message() << "tau " << tau << " turn " << turn);
        for (int i = 0; i < 3; ++i) stepped.step();
        const auto kept = stepped.tree().snapshot();
        const DenseEntries was = stepped.made().dense;
        const std::vector<EntryId> ids_then = stepped.made().ids;
        switch (turn % 6) {
          case 0:
            for (int i = 0; i < 40; ++i) stepped.insert();
            break;
          case 1:
            for (int i = 0; i < 40; ++i) stepped.erase(stepped.draw());
            break;
          case 2: stepped.set_key(stepped.draw(), 1e4 * normal(random)); break;
          case 3: stepped.set_weight(stepped.draw(), random() % 2 == 0 ? 0 : 2); break;
          case 4: (void)stepped.tree().entry(stepped.made().ids[stepped.draw()]); break;
          default: break;
        }
        stepped.step();
        stepped.tree().check_invariants();
        stepped.check_reads();
        // What was read before is as it was.
        const DenseOracle oracle(was, kernel, tau);
        const std::vector<double> queries = {1e4 * normal(random), was.keys[random() % was.keys.size()]};
        const Errors errors = compare<double>(kept, oracle, ids_then, queries, random);
        ASSERT_LT(errors.greatest(), kTolerance) << errors;
      }
      stepped.check_values();
    }
  }
}

TEST(SoftBTreeSgd, ALongHistoryOfStepsDoesNotDrift) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    Random random(22);
    Stepped stepped(kernel, 700, 500, random);
    for (int i = 0; i < (kSanitized ? 300 : 3000); ++i) stepped.step();
    stepped.tree().check_invariants();
    stepped.check_reads();
    stepped.check_values();
  }
}

TEST(SoftBTreeSgd, AStepAtTheKeyOfMostEntriesIsOneOfItsEdge) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    Random random(24);
    std::vector<double> keys(2000);
    for (double& key : keys) key = uniform(random) < 0.9 ? 0.5 : uniform(random);
    Stepped stepped(make_case<double>(keys, 2, kernel, 0.1, random), random);
    // Nodes that are shared are copied when a step comes to them: on each of at most 4 levels, those where the key
    // begins and ends, and no others of the 60 and more leaves that hold nothing else.
    const auto nodes_met = [&](double query) {
      const auto shares_all = stepped.tree().snapshot();
      const std::int64_t before = stepped.tree().nodes_made();
      stepped.step_at(query);
      return stepped.tree().nodes_made() - before;
    };
    for (int turn = 0; turn < 20; ++turn) {
      EXPECT_LE(nodes_met(0.5), 8);
      EXPECT_LE(nodes_met(uniform(random)), 8);
      stepped.check_reads();
    }
    stepped.tree().check_invariants();
    stepped.check_values();
  }
}

// Distances of 1e5 to 1e11 tau, as floats have them: what the nearest entry gets is measured from the nearest entry.
TEST(SoftBTreeSgd, FarFromAllKeysTheNearestEntryIsAllThereIs) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    for (const float tau : {1e-2f, 1e-4f, 1e-6f, 1e-8f}) {
      SCOPED_TRACE(tau);
      auto tree = std::move(SoftBTree<float>::create({.value_width = 1, .tau = tau, .kernel = kernel})).value();
      const float zero = 0, one = 1, query = 1234.567f;
      const EntryId id = *tree.insert(0.1f, {&zero, 1});
      const EntryId absent = *tree.insert(0.1f, {&one, 1}, 0.0f);
      const auto snapshot = tree.snapshot();
      float log_prob = 9;
      ASSERT_TRUE(snapshot.log_prob({&query, 1}, {&id, 1}, {&log_prob, 1}).ok());
      EXPECT_NEAR(log_prob, 0, 1e-6);
      std::vector<float> weights(snapshot.ids_end());
      ASSERT_TRUE(snapshot.backward({&query, 1}, {&zero, 1}, {&one, 1}, {.weights = weights}).ok());
      EXPECT_NEAR(weights[id], 1, 1e-6);
      EXPECT_NEAR(weights[absent], 1, 1e-6);
      ASSERT_TRUE(tree.sgd_values(query, {&one, 1}, 0.5f).ok());
      EXPECT_NEAR(tree.entry(id)->value[0], -0.5f, 1e-6);
      tree.check_invariants();
    }
  }
}

TEST(SoftBTreeSgd, AStepThatIsNotFiniteChangesNothing) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    Random random(26);
    auto made = make_case<float>(Keys::kUniform, 100, 2, kernel, 0.5, random);
    const std::string bytes = made.tree.to_bytes();
    const float largest = std::numeric_limits<float>::max();
    for (const float g : {largest, -largest}) {
      const Status status = made.tree.sgd_values(0.5f, std::vector<float>{0, g}, 4.0f);
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_NE(status.message().find("lower the rate"), std::string::npos) << status.message();
    }
    EXPECT_EQ(made.tree.to_bytes(), bytes);
  }
}

TEST(SoftBTreeSgd, ADivergedTreeDoesNotReplaceTheFileOfAGoodOne) {
  const auto path = std::filesystem::temp_directory_path() / "tandem_soft_btree_sgd_test.tree";
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    Random random(27);
    auto made = make_case<float>(Keys::kUniform, 40, 2, kernel, 0.5, random);
    ASSERT_TRUE(made.tree.save(path).ok());
    const std::string bytes = made.tree.to_bytes();
    for (int i = 0; i < 5000; ++i) ASSERT_TRUE(made.tree.sgd_values(0.5f, std::vector<float>{1, 1}, 3e37f).ok());
    EXPECT_EQ(made.tree.save(path).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(SoftBTree<float>::load(path).value().to_bytes(), bytes);
  }
  std::filesystem::remove(path);
}

TEST(SoftBTreeSgd, SavingWhatWaitsIsANewVersion) {
  Random random(28);
  Stepped stepped(SoftKernel::kLaplace, 2000, 300, random);
  const std::uint64_t version = stepped.tree().version();
  (void)stepped.tree().to_bytes();
  EXPECT_EQ(stepped.tree().version(), version);  // nothing waited
  stepped.step();
  (void)stepped.tree().to_bytes();
  EXPECT_EQ(stepped.tree().version(), version + 2);
  (void)stepped.tree().to_bytes();
  EXPECT_EQ(stepped.tree().version(), version + 2);
}

TEST(SoftBTreeSgd, LookingAtEntriesChangesNoBitOfAnyRead) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    Random random(29);
    Stepped stepped(kernel, 2000, 300, random);
    const auto queries = draw_queries(stepped.made(), 200, random);
    const auto read = [&] {
      std::vector<double> reads(2 * queries.size());
      EXPECT_TRUE(stepped.tree().snapshot().read(queries, reads).ok());
      return reads;
    };
    for (int i = 0; i < 50; ++i) stepped.step();
    const auto before = read();
    const std::uint64_t version = stepped.tree().version();
    const std::int64_t nodes_made = stepped.tree().nodes_made();
    stepped.check_values();
    EXPECT_EQ(read(), before);
    EXPECT_EQ(stepped.tree().version(), version);
    EXPECT_EQ(stepped.tree().nodes_made(), nodes_made);
  }
}

// Squares of such weights are not floats.
TEST(SoftBTreeSgd, FloatWeightsMayBeHugeOrTiny) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    for (const float scale : {1e-22f, 1e-20f, 1e-15f, 1.0f, 1e15f, 1e20f, 1e22f}) {
      SCOPED_TRACE(testing::Message() << "scale " << scale);
      Random random(25);
      auto made = make_case<float>(Keys::kUniform, 500, 2, kernel, 0.1, random);
      for (std::size_t i = 0; i < made.ids.size(); ++i) {
        const auto weight = static_cast<float>(made.dense.weights[i]) * scale;
        ASSERT_TRUE(made.tree.set_weight(made.ids[i], weight).ok());
        made.dense.weights[i] = weight;
      }
      for (int step = 0; step < 30; ++step) {
        const auto query = static_cast<float>(uniform(random));
        const auto d_read = draw_normals<float>(2, random);
        ASSERT_TRUE(made.tree.sgd_values(query, d_read, 0.25f).ok());
        const DenseRead row = *made.oracle().read(query);
        for (std::size_t i = 0; i < made.ids.size(); ++i) {
          for (std::size_t d = 0; d < 2; ++d) {
            made.dense.values[2 * i + d] -= 0.25 * made.dense.weights[i] * row.shares[i] * d_read[d];
          }
        }
      }
      made.tree.check_invariants();
      std::vector<float> queries(40), reads(80), log_z(40);
      for (float& query : queries) query = static_cast<float>(uniform(random));
      ASSERT_TRUE(made.tree.snapshot().read(queries, reads, log_z).ok());  // while steps wait
      for (std::size_t j = 0; j < queries.size(); ++j) {
        const DenseRead row = *made.oracle().read(queries[j]);
        ASSERT_LT(worst<float>({&reads[2 * j], 2}, row.read, row.scales), 1e-5) << j;
        ASSERT_NEAR(log_z[j], row.log_z, 1e-4) << j;
      }
      for (std::size_t i = 0; i < made.ids.size(); ++i) {
        const auto entry = made.tree.entry(made.ids[i]).value();
        for (std::size_t d = 0; d < 2; ++d) ASSERT_NEAR(entry.value[d], made.dense.values[2 * i + d], 2e-5) << i;
      }
    }
  }
}

TEST(SoftBTreeSgd, ATreeSavedWhileStepsWaitGoesOnWithTheSameBits) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32}) {
    Random random(23);
    Stepped stepped(kernel, 2000, 300, random);
    for (int i = 0; i < 20; ++i) stepped.step();
    auto loaded = SoftBTree<double>::from_bytes(stepped.tree().to_bytes()).value();
    loaded.check_invariants();
    for (int turn = 0; turn < 3; ++turn) {
      const auto queries = draw_queries(stepped.made(), 30, random);
      std::vector<double> reads(60), loaded_reads(60);
      ASSERT_TRUE(stepped.tree().snapshot().read(queries, reads).ok());
      ASSERT_TRUE(loaded.snapshot().read(queries, loaded_reads).ok());
      EXPECT_EQ(reads, loaded_reads);
      for (SoftBTree<double>* tree : {&stepped.tree(), &loaded}) {
        ASSERT_TRUE(tree->sgd_values(queries[turn], std::vector<double>{1, -1}, 0.5).ok());
      }
    }
    EXPECT_EQ(stepped.tree().to_bytes(), loaded.to_bytes());
  }
}

}  // namespace
}  // namespace tandem::replay

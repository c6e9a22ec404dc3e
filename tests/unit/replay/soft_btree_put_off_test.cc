// Sums that changes put off until somebody looks: a tree that is looked at now and then reads, bit for bit, as one of
// the same history that is looked at after each change.
#include <gtest/gtest.h>

#include <optional>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

template <class Real>
class Twins {
 public:
  Twins(SoftKernel kernel, Random& random) : random_(random), eager_(create(kernel)), lazy_(create(kernel)) {}

  void change() {
    switch (random_() % 10) {
      case 0:
      case 1:
      case 2: insert(1); break;
      case 3: insert(1 + random_() % 40); break;
      case 4:
      case 5: erase(1); break;
      case 6: erase(std::min<std::size_t>(ids_.size(), 1 + random_() % 40)); break;
      case 7: {
        if (ids_.empty()) break;
        const EntryId id = draw();
        const Real key = draw_real();
        both([&](auto& tree) { return tree.set_key(id, key); });
        break;
      }
      case 8: {
        if (ids_.empty()) break;
        const EntryId id = draw();
        const Real weight = random_() % 3 == 0 ? Real(0) : Real(0.5 + uniform(random_));
        both([&](auto& tree) { return tree.set_weight(id, weight); });
        break;
      }
      default: {
        if (ids_.empty()) break;
        const EntryId id = draw();
        const auto value = draw_normals<Real>(3, random_);
        both([&](auto& tree) { return tree.set_value(id, value); });
        break;
      }
    }
    (void)eager_.snapshot();
  }
  void step() {
    const Real query = draw_real();
    const auto d_read = draw_normals<Real>(3, random_);
    const Status a = eager_.sgd_values(query, d_read, Real(0.1)), b = lazy_.sgd_values(query, d_read, Real(0.1));
    ASSERT_EQ(a.code(), b.code());
  }
  void insert(std::size_t count) {
    std::vector<Real> keys(count), weights(count);
    for (Real& key : keys) key = draw_real();
    for (Real& weight : weights) weight = random_() % 8 == 0 ? Real(0) : Real(0.5 + uniform(random_));
    const auto values = draw_normals<Real>(3 * count, random_);
    std::vector<EntryId> ids(count);
    both([&](auto& tree) { return tree.insert_batch(keys, values, weights, ids); });
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  void erase(std::size_t count) {
    std::vector<EntryId> gone;
    for (; count > 0 && !ids_.empty(); --count) {
      const std::size_t at = random_() % ids_.size();
      gone.push_back(ids_[at]);
      ids_.erase(ids_.begin() + static_cast<std::ptrdiff_t>(at));
    }
    both([&](auto& tree) { return tree.erase_batch(gone); });
  }
  void look() {
    std::vector<Real> queries(20);
    for (Real& query : queries) query = draw_real();
    const auto read = [&](auto& tree) {
      std::vector<Real> out(4 * queries.size());
      const auto snapshot = tree.snapshot();
      for (std::size_t j = 0; j < queries.size(); ++j) {  // each by itself: some may be out of reach
        (void)snapshot.read({&queries[j], 1}, {&out[4 * j], 3}, {&out[4 * j + 3], 1});
      }
      return out;
    };
    ASSERT_EQ(read(lazy_), read(eager_));
    lazy_.check_invariants();
    // One that is kept has its nodes copied by what comes next.
    kept_ = random_() % 2 == 0 ? std::optional(lazy_.snapshot()) : std::nullopt;
  }
  std::size_t size() const { return ids_.size(); }

 private:
  static SoftBTree<Real> create(SoftKernel kernel) { return SoftBTree<Real>::create({3, Real(0.2), kernel}).value(); }
  template <class Change>
  void both(Change&& change) {
    ASSERT_TRUE(change(eager_).ok());
    ASSERT_TRUE(change(lazy_).ok());
  }
  EntryId draw() { return ids_[random_() % ids_.size()]; }
  Real draw_real() {  // a third of the keys are of a few values
    return Real(random_() % 3 == 0 ? static_cast<double>(random_() % 5) / 4 : uniform(random_));
  }

  Random& random_;
  SoftBTree<Real> eager_, lazy_;
  std::vector<EntryId> ids_;
  std::optional<SoftBTreeSnapshot<Real>> kept_;
};

template <class Real>
void compare_histories(SoftKernel kernel, bool with_steps) {
  Random random(40 + static_cast<int>(kernel));
  Twins<Real> twins(kernel, random);
  twins.insert(4000);  // three levels above the leaves
  for (int turn = 0; turn < (kSanitized ? 30 : 150) && !testing::Test::HasFatalFailure(); ++turn) {
    SCOPED_TRACE(testing::Message() << "turn " << turn);
    for (std::size_t changes = random() % 60; changes > 0; --changes) twins.change();
    if (turn % 40 == 39) twins.erase(twins.size() - random() % 100);  // levels come and go
    if (turn % 40 == 5) twins.insert(3000);
    if (with_steps && turn % 3 == 0) twins.step();
    twins.look();
  }
}

TEST(SoftBTreePutOff, ComesOutTheSameWithEachKernel) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    compare_histories<double>(kernel, false);
    compare_histories<float>(kernel, false);
  }
}

TEST(SoftBTreePutOff, ComesOutTheSameBetweenSteps) {
  for (const SoftKernel kernel : {SoftKernel::kLaplace, SoftKernel::kMatern32, SoftKernel::kEpanechnikov}) {
    compare_histories<double>(kernel, true);
  }
}

TEST(SoftBTreePutOff, SavingAndLoadingNeedsNoLook) {
  Random random(47);
  auto made = make_case<double>(Keys::kUniform, 3000, 2, SoftKernel::kLaplace, 0.1, random);
  const std::vector<double> value = {1, 2};
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(made.tree.insert(uniform(random), value).ok());
  auto loaded = SoftBTree<double>::from_bytes(made.tree.to_bytes()).value();
  const std::vector<double> queries = {0.1, 0.5, 0.9};
  std::vector<double> a(6), b(6);
  ASSERT_TRUE(made.tree.snapshot().read(queries, a).ok());
  ASSERT_TRUE(loaded.snapshot().read(queries, b).ok());
  EXPECT_EQ(a, b);
}

}  // namespace
}  // namespace tandem::replay

// Random histories of the soft B-tree against a std::map read densely; old snapshots are asked again later. Each
// history is a pure function of its seed, which a failure prints.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "unit/replay/soft_btree_cases.h"

namespace tandem::replay {
namespace {

template <class Real>
class History {
 public:
  History(std::uint64_t seed, int width, SoftKernel kernel)
      : random_(seed),
        width_(static_cast<std::size_t>(width)),
        kernel_(kernel),
        tau_(static_cast<Real>(0.2)),
        tree_(SoftBTree<Real>::create({width, tau_, kernel}).value()) {}

  void run(int steps) {
    std::size_t goal = 50;
    for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      SCOPED_TRACE(testing::Message() << "step " << step << " size " << model_.size());
      if (step % 60 == 0) goal = goals_[random_() % std::size(goals_)];
      const bool grow = model_.size() < goal;
      const std::uint64_t version = tree_.version();
      const bool changed = change(grow);
      if (testing::Test::HasFatalFailure()) return;
      ASSERT_TRUE(!changed || tree_.version() > version);
      check();
      if (random_() % 20 == 0) keep_snapshot();
      if (random_() % 20 == 0) check_kept();
    }
    check_kept();
  }

 private:
  struct Entry {
    double key, weight;
    std::vector<double> value;
    int birth;
  };
  struct Kept {
    SoftBTreeSnapshot<Real> snapshot;
    DenseEntries dense;
    std::vector<EntryId> ids;
    double tau;
    std::uint64_t version;
  };

  // Keys on a grid half the time, so that they meet; weights of a few sizes, so that they tie, and sometimes none.
  Real draw_key() {
    return static_cast<Real>(random_() % 2 == 0 ? std::round(4 * normal(random_)) / 4 : normal(random_));
  }
  Real draw_weight() {
    return static_cast<Real>(random_() % 3 == 0 ? static_cast<double>(random_() % 4) / 2 : 0.5 + uniform(random_));
  }
  EntryId draw_id() {
    const EntryId start = static_cast<EntryId>(random_() % tree_.ids_end());
    const auto found = model_.lower_bound(start);
    return found == model_.end() ? model_.begin()->first : found->first;
  }
  std::vector<EntryId> draw_ids(std::size_t most) {  // without repeats
    std::map<EntryId, bool> chosen;
    for (std::size_t i = 0, n = random_() % (most + 1); i < n; ++i) chosen[draw_id()] = true;
    std::vector<EntryId> ids;
    for (const auto& [id, unused] : chosen) ids.push_back(id);
    std::shuffle(ids.begin(), ids.end(), random_);
    return ids;
  }
  void learn(EntryId id, Real key, std::span<const Real> value, Real weight) {
    ASSERT_LT(id, tree_.ids_end());
    const bool added =
        model_
            .try_emplace(
                id,
                Entry{static_cast<double>(key), static_cast<double>(weight), {value.begin(), value.end()}, births_++})
            .second;
    ASSERT_TRUE(added) << "id " << id << " is in the tree already";
  }

  // True if the tree is another one than before.
  bool change(bool grow) {
    if (grow ? random_() % 3 != 0 : model_.empty()) {
      if (random_() % 4 != 0) {
        const Real key = draw_key(), weight = draw_weight();
        const auto value = draw_normals<Real>(width_, random_);
        const auto id = tree_.insert(key, value, weight);
        EXPECT_TRUE(id.ok());
        learn(id.value(), key, value, weight);
        return true;
      }
      const std::size_t m = random_() % (random_() % 4 == 0 ? 600 : 20);
      std::vector<Real> keys(m), weights(m);
      for (Real& key : keys) key = draw_key();
      for (Real& weight : weights) weight = draw_weight();
      const auto values = draw_normals<Real>(m * width_, random_);
      if (random_() % 3 == 0) std::fill(weights.begin(), weights.end(), Real{1});
      const bool all_one = std::all_of(weights.begin(), weights.end(), [](Real w) { return w == 1; });
      std::vector<EntryId> ids(m);
      EXPECT_TRUE(tree_.insert_batch(keys, values, all_one ? std::span<const Real>() : weights, ids).ok());
      for (std::size_t i = 0; i < m; ++i) learn(ids[i], keys[i], {&values[i * width_], width_}, weights[i]);
      return m > 0;
    }
    if (model_.empty()) return false;
    const EntryId id = draw_id();
    switch (random_() % (grow ? 8 : 13)) {
      case 0: {
        const Real key = random_() % 2 == 0 ? draw_key() : static_cast<Real>(model_[id].key + 1e-3 * normal(random_));
        EXPECT_TRUE(tree_.set_key(id, key).ok());
        model_[id].key = static_cast<double>(key);
        return false;  // the key may be the one it had
      }
      case 1: {
        const auto value = draw_normals<Real>(width_, random_);
        EXPECT_TRUE(tree_.set_value(id, value).ok());
        model_[id].value.assign(value.begin(), value.end());
        return true;
      }
      case 2: {
        const Real weight = draw_weight();
        EXPECT_TRUE(tree_.set_weight(id, weight).ok());
        model_[id].weight = static_cast<double>(weight);
        return false;
      }
      case 3: {
        const auto ids = draw_ids(random_() % 3 == 0 ? 300 : 8);
        std::vector<Real> keys(ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i) {
          keys[i] = draw_key();
          model_[ids[i]].key = static_cast<double>(keys[i]);
        }
        EXPECT_TRUE(tree_.set_keys(ids, keys).ok());
        return false;
      }
      case 4: {
        tau_ = static_cast<Real>(std::exp(-1.5 + normal(random_)));
        EXPECT_TRUE(tree_.set_tau(tau_).ok());
        return true;
      }
      case 5: refuse(); return false;
      case 6:
      case 7: return step_values();
      case 8: {
        const auto ids = draw_ids(random_() % 4 == 0 ? 400 : 10);
        EXPECT_TRUE(tree_.erase_batch(ids).ok());
        for (const EntryId gone : ids) model_.erase(gone);
        return !ids.empty();
      }
      case 9: return erase(*tree_.oldest());
      case 10: return erase(*tree_.lightest());
      default: return erase(id);
    }
  }

  // Steps on all values: of the tree lazily, of the model each.
  bool step_values() {
    const DenseEntries dense = dense_of_model();
    const DenseOracle oracle(dense, kernel_, static_cast<double>(tau_));
    for (std::size_t times = 1 + random_() % 4; times > 0; --times) {
      const Real query = draw_key(), rate = static_cast<Real>(0.3);
      const auto d_read = draw_normals<Real>(width_, random_);
      const Status status = tree_.sgd_values(query, d_read, rate);
      const auto row = oracle.read(static_cast<double>(query));
      EXPECT_EQ(status.code(), row ? StatusCode::kOk : StatusCode::kNotFound);
      if (!row) return false;
      ++steps_;
      std::size_t i = 0;
      for (auto& [id, entry] : model_) {
        const double p = entry.weight > 0 ? entry.weight * row->shares[i] : 0;
        ++i;
        for (std::size_t d = 0; d < width_; ++d) {
          entry.value[d] -= static_cast<double>(rate) * p * static_cast<double>(d_read[d]);
        }
      }
    }
    return true;
  }

  bool erase(EntryId id) {
    EXPECT_TRUE(tree_.erase(id).ok());
    EXPECT_EQ(model_.erase(id), 1u);
    return true;
  }

  // Calls that must fail, and leave even the version as it was.
  void refuse() {
    const std::uint64_t version = tree_.version();
    const Real nan = std::numeric_limits<Real>::quiet_NaN(), infinity = std::numeric_limits<Real>::infinity();
    const EntryId id = draw_id();
    EntryId gone = tree_.ids_end();
    for (EntryId i = 0; i < tree_.ids_end(); ++i) {
      if (!model_.contains(i)) gone = i;
    }
    std::vector<Real> value(width_, Real{1});
    EXPECT_EQ(tree_.erase(gone).code(), StatusCode::kNotFound);
    EXPECT_EQ(tree_.set_key(gone, 0).code(), StatusCode::kNotFound);
    EXPECT_EQ(tree_.set_value(gone, value).code(), StatusCode::kNotFound);
    EXPECT_EQ(tree_.set_weight(gone, 1).code(), StatusCode::kNotFound);
    EXPECT_EQ(tree_.entry(gone).code(), StatusCode::kNotFound);
    const std::vector<EntryId> ids = {id, gone};
    EXPECT_EQ(tree_.erase_batch(ids).code(), StatusCode::kNotFound);
    EXPECT_EQ(tree_.set_keys(ids, std::vector<Real>{1, 2}).code(), StatusCode::kNotFound);
    for (const Real bad : {nan, infinity, -infinity}) {
      EXPECT_EQ(tree_.set_key(id, bad).code(), StatusCode::kInvalidArgument);
      EXPECT_EQ(tree_.insert(bad, value, 1).code(), StatusCode::kInvalidArgument);
      EXPECT_EQ(tree_.insert(0, value, bad).code(), StatusCode::kInvalidArgument);
      EXPECT_EQ(tree_.set_weight(id, bad).code(), StatusCode::kInvalidArgument);
      EXPECT_EQ(tree_.set_tau(bad).code(), StatusCode::kInvalidArgument);
      value.back() = bad;
      EXPECT_EQ(tree_.set_value(id, value).code(), StatusCode::kInvalidArgument);
      std::vector<EntryId> made(2);
      std::vector<Real> values(2 * width_, Real{1});
      values.back() = bad;
      EXPECT_EQ(tree_.insert_batch(std::vector<Real>{0, 1}, values, {}, made).code(), StatusCode::kInvalidArgument);
      value.back() = 1;
    }
    for (const Real bad : {Real{0}, Real{-1}}) {
      EXPECT_EQ(tree_.set_tau(bad).code(), StatusCode::kInvalidArgument);
    }
    EXPECT_EQ(tree_.set_weight(id, -1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(tree_.set_keys({&id, 1}, std::vector<Real>{1, 2}).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(tree_.insert(0, std::vector<Real>(width_ + 1), 1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(tree_.version(), version);
  }

  DenseEntries dense_of_model() const {
    DenseEntries dense{width_, {}, {}, {}};
    for (const auto& [id, entry] : model_) {
      dense.keys.push_back(entry.key);
      dense.weights.push_back(entry.weight);
      dense.values.insert(dense.values.end(), entry.value.begin(), entry.value.end());
    }
    return dense;
  }

  void check() {
    tree_.check_invariants();
    ASSERT_EQ(tree_.size(), std::ssize(model_));
    ASSERT_EQ(tree_.oldest().has_value(), !model_.empty());
    ASSERT_EQ(tree_.lightest().has_value(), !model_.empty());
    const DenseEntries dense = dense_of_model();
    const auto snapshot = tree_.snapshot();
    ASSERT_EQ(snapshot.size(), tree_.size());
    ASSERT_EQ(snapshot.version(), tree_.version());
    check_read(snapshot, dense, static_cast<double>(tau_));
    if (model_.empty()) return;
    const auto oldest = std::min_element(model_.begin(), model_.end(),
                                         [](const auto& a, const auto& b) { return a.second.birth < b.second.birth; });
    ASSERT_EQ(*tree_.oldest(), oldest->first);
    const auto lightest = std::min_element(model_.begin(), model_.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.weight, a.second.birth) < std::pair(b.second.weight, b.second.birth);
    });
    ASSERT_EQ(*tree_.lightest(), lightest->first);
    const EntryId id = draw_id();
    const auto entry = tree_.entry(id);
    ASSERT_TRUE(entry.ok());
    ASSERT_EQ(static_cast<double>(entry->key), model_[id].key);
    ASSERT_EQ(static_cast<double>(entry->weight), model_[id].weight);
    for (std::size_t d = 0; d < width_; ++d) {
      ASSERT_NEAR(static_cast<double>(entry->value[d]), model_[id].value[d], tolerance() * 10);
    }
  }

  void check_read(const SoftBTreeSnapshot<Real>& snapshot, const DenseEntries& dense, double tau) {
    const DenseOracle oracle(dense, kernel_, tau);
    std::vector<Real> queries = {draw_key(), static_cast<Real>(3 * normal(random_))};
    std::vector<Real> reads(2 * width_), log_z(2);
    const Status status = snapshot.read(queries, reads, log_z);
    if (!oracle.read(0)) {
      ASSERT_EQ(status.code(), StatusCode::kNotFound);
      return;
    }
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (std::size_t j = 0; j < 2; ++j) {
      const DenseRead row = *oracle.read(static_cast<double>(queries[j]));
      for (std::size_t d = 0; d < width_; ++d) {
        ASSERT_NEAR(reads[j * width_ + d], row.read[d], tolerance() * (row.scales[d] + 1));
      }
      ASSERT_NEAR(log_z[j], row.log_z, tolerance() * (1 + row.nearest + std::abs(row.log_z)));
    }
  }

  void keep_snapshot() {
    Kept kept{tree_.snapshot(), dense_of_model(), {}, static_cast<double>(tau_), tree_.version()};
    for (const auto& [id, entry] : model_) kept.ids.push_back(id);
    if (kept_.size() < 5)
      kept_.push_back(std::move(kept));
    else
      kept_[random_() % kept_.size()] = std::move(kept);
  }

  // Whatever happened since, a snapshot says what it said: reads, gradients, samples.
  void check_kept() {
    for (const Kept& kept : kept_) {
      ASSERT_EQ(kept.snapshot.version(), kept.version);
      ASSERT_EQ(kept.snapshot.size(), std::ssize(kept.ids));
      check_read(kept.snapshot, kept.dense, kept.tau);
      const DenseOracle oracle(kept.dense, kernel_, kept.tau);
      if (!oracle.read(0)) continue;
      std::vector<Real> queries = {draw_key(), draw_key(), static_cast<Real>(5 * normal(random_))};
      const Errors errors = compare<Real>(kept.snapshot, oracle, kept.ids, queries, random_);
      ASSERT_LT(errors.greatest(), 10 * tolerance()) << errors;
      std::vector<EntryId> ids(3);
      const std::vector<double> uniforms = {0.0, uniform(random_), std::nextafter(1.0, 0.0)};
      ASSERT_TRUE(kept.snapshot.sample(queries, uniforms, ids).ok());
      std::vector<Real> log_probs(3);
      ASSERT_TRUE(kept.snapshot.log_prob(queries, ids, log_probs).ok());
      for (std::size_t j = 0; j < 3; ++j) {
        const auto place = std::lower_bound(kept.ids.begin(), kept.ids.end(), ids[j]) - kept.ids.begin();
        const double want = oracle.log_prob(static_cast<double>(queries[j]), static_cast<std::size_t>(place));
        ASSERT_GT(kept.dense.weights[static_cast<std::size_t>(place)], 0);
        ASSERT_NEAR(log_probs[j], want, tolerance() * 10 * (1 + std::abs(want)));
      }
    }
  }

  // The model's values are double whatever the tree's are: each step of the tree's rounds them.
  double tolerance() const { return kTolerance * (std::is_same_v<Real, float> ? 1 + 0.2 * steps_ : 1); }

  static constexpr double kTolerance = std::is_same_v<Real, float> ? 1e-6 : 1e-12;
  static constexpr std::size_t goals_[] = {0, 3, 60, 300, kSanitized ? 400 : 2500};
  Random random_;
  std::size_t width_;
  SoftKernel kernel_;
  Real tau_;
  SoftBTree<Real> tree_;
  std::map<EntryId, Entry> model_;
  std::vector<Kept> kept_;
  int births_ = 0, steps_ = 0;
};

template <class Real>
void run_histories(std::uint64_t first_seed) {
  const std::uint64_t histories = kSanitized ? 6 : 12;
  for (std::uint64_t seed = first_seed; seed < first_seed + histories; ++seed) {
    const SoftKernel kernel = seed % 2 == 0 ? SoftKernel::kLaplace : SoftKernel::kMatern32;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    // 8: masses lie apart from the rows, which have no room for them.
    const auto width = static_cast<int>(seed / 2 % 4);
    History<Real>(seed, width == 0 ? 8 : width, kernel).run(kSanitized ? 240 : 600);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(SoftBTreeFuzz, HistoriesInDoubles) { run_histories<double>(100); }
TEST(SoftBTreeFuzz, HistoriesInFloats) { run_histories<float>(200); }

TEST(SoftBTreeFuzz, ReadersOfSnapshotsDoNotMindTheWriter) {
  struct Task {
    SoftBTreeSnapshot<float> snapshot;
    std::vector<float> queries, reads;
  };
  std::mutex mutex;
  std::vector<Task> tasks;
  bool done = false;
  std::atomic<int> wrong = 0, asked = 0;
  const auto reader = [&] {
    for (;;) {
      std::optional<Task> task;
      {
        const std::lock_guard lock(mutex);
        if (tasks.empty() && done) return;
        if (!tasks.empty()) {
          task.emplace(std::move(tasks.back()));
          tasks.pop_back();
        }
      }
      if (!task) {
        std::this_thread::yield();
        continue;
      }
      std::vector<float> reads(task->reads.size());
      for (int again = 0; again < 3; ++again) {
        if (!task->snapshot.read(task->queries, reads).ok() || reads != task->reads) ++wrong;
        ++asked;
      }
    }
  };
  std::thread first(reader), second(reader);
  Random random(300);
  auto made = make_case<float>(Keys::kUniform, 3000, 2, SoftKernel::kLaplace, 0.01, random);
  for (int step = 0; step < (kSanitized ? 300 : 3000); ++step) {
    ASSERT_TRUE(made.tree.erase(*made.tree.oldest()).ok());
    ASSERT_TRUE(made.tree.insert(static_cast<float>(uniform(random)), draw_normals<float>(2, random)).ok());
    if (step % 3 != 0) continue;
    Task task{made.tree.snapshot(), draw_normals<float>(8, random), std::vector<float>(16)};
    ASSERT_TRUE(task.snapshot.read(task.queries, task.reads).ok());
    const std::lock_guard lock(mutex);
    tasks.push_back(std::move(task));
  }
  {
    const std::lock_guard lock(mutex);
    done = true;
  }
  first.join();
  second.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(asked, 0);
  made.tree.check_invariants();
}

}  // namespace
}  // namespace tandem::replay

#include "replay/prioritized_replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace tandem::replay {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

PrioritizedReplay make(std::int64_t capacity, float alpha = 1, ReplayEviction eviction = ReplayEviction::kOldest) {
  return PrioritizedReplay::create({capacity, alpha, eviction}).value();
}

Status update(PrioritizedReplay& replay, SlotId slot, float priority) {
  return replay.update({&slot, 1}, {&priority, 1});
}

TEST(PrioritizedReplay, RefusesBadOptions) {
  for (const std::int64_t capacity : {std::int64_t{-1}, std::int64_t{0}, (std::int64_t{1} << 31) + 1}) {
    EXPECT_EQ(PrioritizedReplay::create({capacity}).code(), StatusCode::kInvalidArgument);
  }
  for (const float alpha : {-0.1f, 1.1f, kNaN, kInfinity}) {
    EXPECT_EQ(PrioritizedReplay::create({8, alpha}).code(), StatusCode::kInvalidArgument);
  }
}

TEST(PrioritizedReplay, ARefusedCallChangesNothing) {
  auto replay = make(4);
  std::vector<SlotId> slots(2);
  const std::vector<double> uniforms = {0.1, 0.2};
  EXPECT_EQ(replay.sample(uniforms, slots).code(), StatusCode::kNotFound);
  ASSERT_TRUE(replay.add(0).ok());
  EXPECT_EQ(replay.sample(uniforms, slots).code(), StatusCode::kNotFound);
  ASSERT_TRUE(replay.add(2).ok());
  for (const float bad : {-1.f, kNaN, kInfinity}) {
    EXPECT_EQ(replay.add(bad).code(), StatusCode::kInvalidArgument);
    const std::vector<SlotId> two = {0, 1};
    const std::vector<float> priorities = {5, bad};
    EXPECT_EQ(replay.update(two, priorities).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(update(replay, 2, 1).code(), StatusCode::kInvalidArgument);
  const std::vector<SlotId> one = {1};
  EXPECT_EQ(replay.update(one, std::vector<float>{1, 2}).code(), StatusCode::kInvalidArgument);
  for (const double bad : {-0.1, 1.0, std::nan("")}) {
    EXPECT_EQ(replay.sample(std::vector<double>{0.5, bad}, slots).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(replay.sample(std::vector<double>{0.5}, slots).code(), StatusCode::kInvalidArgument);
  std::vector<float> weights(1);
  for (const float beta : {-1.f, kNaN, kInfinity}) {
    EXPECT_EQ(replay.importance_weights(one, beta, weights).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(replay.importance_weights(std::vector<SlotId>{0}, 1, weights).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(replay.importance_weights(std::vector<SlotId>{3}, 1, weights).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(replay.size(), 2);
  EXPECT_EQ(replay.mass(), 2);
  EXPECT_EQ(replay.priority_max(), 2);
  EXPECT_EQ(replay.probability(0), 0);
  EXPECT_EQ(replay.probability(1), 1);
  EXPECT_EQ(replay.probability(2), 0);
  replay.check_invariants();
}

TEST(PrioritizedReplay, OldestLeavesFirst) {
  auto replay = make(3);
  for (SlotId i = 0; i < 10; ++i) {
    const auto added = replay.add(static_cast<float>(i + 1)).value();
    EXPECT_EQ(added.slot, i % 3);
    EXPECT_EQ(added.evicted, i >= 3);
  }
  EXPECT_EQ(replay.mass(), 8 + 9 + 10);
  EXPECT_EQ(replay.priority_max(), 10);
}

TEST(PrioritizedReplay, LowestPriorityLeavesFirstAndOfEqualsTheOldest) {
  auto replay = make(3, 1, ReplayEviction::kLowestPriority);
  for (const float priority : {3.f, 1.f, 2.f}) ASSERT_TRUE(replay.add(priority).ok());
  EXPECT_EQ(replay.add(2).value().slot, 1u);  // 3 2 2
  EXPECT_EQ(replay.add(2).value().slot, 2u);  // slot 2 is the older of the twos
  EXPECT_EQ(replay.add(0).value().slot, 1u);
  EXPECT_EQ(replay.add(9).value().slot, 1u);
  ASSERT_TRUE(update(replay, 0, 0.5f).ok());
  EXPECT_EQ(replay.add(9).value().slot, 0u);
  replay.check_invariants();
}

TEST(PrioritizedReplay, StratifiedDrawsOfEqualPrioritiesAreASweep) {
  auto replay = make(1000, 0.6f);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(replay.add(1).ok());
  std::vector<double> uniforms(1000, 0.5);
  std::vector<SlotId> slots(1000);
  ASSERT_TRUE(replay.sample(uniforms, slots).ok());
  for (SlotId i = 0; i < 1000; ++i) EXPECT_EQ(slots[i], i);
}

TEST(PrioritizedReplay, NeverDrawsAnEntryWithoutMassAtAnyEdge) {
  // Mass in a few slots only, and targets at the very edges: rounding of the sums must not lead beside them.
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    const int n = std::uniform_int_distribution<int>(1, 5000)(random);
    auto replay = make(n);
    for (int i = 0; i < n; ++i) {
      const float priority = random() % 7 == 0 ? std::exp(std::normal_distribution<float>(0, 12)(random)) : 0.f;
      ASSERT_TRUE(replay.add(priority).ok());
    }
    if (replay.mass() == 0) continue;
    const double below_one = std::nextafter(1.0, 0.0);
    for (const double uniform : {0.0, 1e-300, 0.5, below_one}) {
      for (const std::size_t m : {1u, 3u, 64u}) {
        std::vector<SlotId> slots(m);
        ASSERT_TRUE(replay.sample(std::vector<double>(m, uniform), slots).ok());
        for (const SlotId slot : slots) ASSERT_GT(replay.probability(slot), 0) << "n " << n << " uniform " << uniform;
      }
    }
  }
}

TEST(PrioritizedReplay, DrawsFollowTheProbabilities) {
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> uniform;
  const int n = 300;
  for (const float alpha : {0.f, 0.6f, 1.f}) {
    auto replay = make(n, alpha);
    std::vector<double> masses(n);
    for (int i = 0; i < n; ++i) {
      const float priority = std::exp(std::normal_distribution<float>()(random));
      masses[static_cast<std::size_t>(i)] = std::pow(static_cast<double>(priority), static_cast<double>(alpha));
      ASSERT_TRUE(replay.add(priority).ok());
    }
    const double total = std::accumulate(masses.begin(), masses.end(), 0.0);
    const int draws = 300000;
    std::vector<double> counts(n);
    for (int draw = 0; draw < draws; ++draw) {  // one at a time: strata of one are plain draws
      const double u = uniform(random);
      SlotId slot;
      ASSERT_TRUE(replay.sample({&u, 1}, {&slot, 1}).ok());
      ++counts[slot];
    }
    double chi2 = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double expected = draws * masses[i] / total;
      chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
      EXPECT_NEAR(replay.probability(static_cast<SlotId>(i)), masses[i] / total, 1e-6 * masses[i] / total);
    }
    const double dof = n - 1;
    EXPECT_LT(chi2, dof + 4 * std::sqrt(2 * dof)) << "alpha " << alpha;
    EXPECT_GT(chi2, dof - 4 * std::sqrt(2 * dof)) << "alpha " << alpha;
  }
}

TEST(PrioritizedReplay, StrataTakeTheirShareExactly) {
  // Of m stratified draws a slot of probability P gets floor(m P) - 1 .. ceil(m P) + 1: far less noise than plain ones.
  std::mt19937_64 random(13);
  std::uniform_real_distribution<double> uniform;
  auto replay = make(100);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(replay.add(1 + static_cast<float>(i % 10)).ok());
  std::vector<double> uniforms(4096);
  for (double& u : uniforms) u = uniform(random);
  std::vector<SlotId> slots(4096);
  ASSERT_TRUE(replay.sample(uniforms, slots).ok());
  EXPECT_TRUE(std::is_sorted(slots.begin(), slots.end()));
  for (SlotId slot = 0; slot < 100; ++slot) {
    const auto count = std::count(slots.begin(), slots.end(), slot);
    EXPECT_NEAR(static_cast<double>(count), 4096 * replay.probability(slot), 2);
  }
}

TEST(PrioritizedReplay, ImportanceWeightsAreThoseOfThePaper) {
  std::mt19937_64 random(17);
  auto replay = make(50, 0.6f);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(replay.add(std::exp(std::normal_distribution<float>()(random))).ok());
  const std::vector<SlotId> slots = {3, 14, 15, 3, 49};
  for (const float beta : {0.f, 0.4f, 1.f}) {
    std::vector<float> weights(slots.size());
    ASSERT_TRUE(replay.importance_weights(slots, beta, weights).ok());
    std::vector<double> expected;
    for (const SlotId slot : slots)
      expected.push_back(std::pow(50 * replay.probability(slot), -static_cast<double>(beta)));
    const double greatest = *std::max_element(expected.begin(), expected.end());
    for (std::size_t j = 0; j < slots.size(); ++j) EXPECT_NEAR(weights[j], expected[j] / greatest, 1e-6);
    EXPECT_EQ(*std::max_element(weights.begin(), weights.end()), 1);
  }
}

TEST(PrioritizedReplay, NothingDrifts) {
  // After many changes over many orders of magnitude: the same sum, bit for bit, as of a tree made afresh.
  std::mt19937_64 random(19);
  const int n = 3000;
  auto replay = make(n);
  std::vector<float> priorities(n, 1);
  for (int i = 0; i < n; ++i) ASSERT_TRUE(replay.add(1).ok());
  for (int round = 0; round < 2000; ++round) {
    std::vector<SlotId> slots(random() % 64);
    std::vector<float> changed(slots.size());
    for (std::size_t j = 0; j < slots.size(); ++j) {
      slots[j] = static_cast<SlotId>(random() % n);
      priorities[slots[j]] = changed[j] = std::exp(std::normal_distribution<float>(0, 15)(random));
    }
    ASSERT_TRUE(replay.update(slots, changed).ok());
  }
  auto fresh = make(n);
  for (const float priority : priorities) ASSERT_TRUE(fresh.add(priority).ok());
  EXPECT_EQ(replay.mass(), fresh.mass());
  std::vector<double> uniforms(500, 0.25);
  std::vector<SlotId> slots(500), fresh_slots(500);
  ASSERT_TRUE(replay.sample(uniforms, slots).ok());
  ASSERT_TRUE(fresh.sample(uniforms, fresh_slots).ok());
  EXPECT_EQ(slots, fresh_slots);
}

// Random histories against a list of (priority, birth).
void fuzz(std::uint64_t seed, std::int64_t capacity, ReplayEviction eviction) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << " capacity " << capacity);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  auto replay = make(capacity, 1, eviction);
  std::map<SlotId, std::pair<float, int>> model;
  int births = 0;
  const auto draw_priority = [&] {
    return random() % 4 == 0 ? static_cast<float>(random() % 3)
                             : std::exp(std::normal_distribution<float>(0, 3)(random));
  };
  for (int step = 0; step < 400; ++step) {
    if (random() % 2 == 0) {
      const float priority = draw_priority();
      const auto added = replay.add(priority).value();
      ASSERT_EQ(added.evicted, std::ssize(model) == capacity);
      if (added.evicted) {
        const auto leaves = std::min_element(model.begin(), model.end(), [&](const auto& a, const auto& b) {
          return eviction == ReplayEviction::kOldest ? a.second.second < b.second.second : a.second < b.second;
        });
        ASSERT_EQ(added.slot, leaves->first);
      }
      model[added.slot] = {priority, births++};
    } else if (!model.empty()) {
      const std::size_t count = random() % (random() % 16 == 0 ? 3000 : 8);
      std::vector<SlotId> slots(count);
      std::vector<float> priorities(count);
      for (std::size_t j = 0; j < count; ++j) {
        slots[j] = static_cast<SlotId>(random() % model.size());
        model[slots[j]].first = priorities[j] = draw_priority();
      }
      ASSERT_TRUE(replay.update(slots, priorities).ok());
    }
    if (step % 16 == 0) replay.check_invariants();
    long double total = 0;
    for (const auto& [slot, entry] : model) total += static_cast<long double>(entry.first);
    ASSERT_EQ(replay.size(), std::ssize(model));
    ASSERT_NEAR(replay.mass(), static_cast<double>(total), 1e-13 * static_cast<double>(total));
    if (total == 0) continue;
    std::vector<double> uniforms(5);
    for (double& u : uniforms) u = uniform(random);
    std::vector<SlotId> slots(5);
    ASSERT_TRUE(replay.sample(uniforms, slots).ok());
    for (std::size_t j = 0; j < 5; ++j) {  // the slot's share of the mass holds the target, up to rounding
      const auto target = (static_cast<long double>(j) + uniforms[j]) / 5 * total;
      long double before = 0;
      for (auto it = model.begin(); it->first != slots[j]; ++it) before += it->second.first;
      ASSERT_LE(before, target + 1e-13L * total);
      ASSERT_GT(before + model[slots[j]].first, target - 1e-13L * total);
      ASSERT_GT(model[slots[j]].first, 0);
    }
  }
  replay.check_invariants();
}

TEST(PrioritizedReplay, RandomHistoriesAgainstAList) {
  const std::int64_t capacities[] = {1, 2, 15, 16, 17, 100, 255, 256, 257, 3000};
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const std::int64_t capacity = capacities[seed % std::size(capacities)];
    fuzz(seed, capacity, seed % 4 < 2 ? ReplayEviction::kOldest : ReplayEviction::kLowestPriority);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace tandem::replay

// The two tasks of `tandem btree demo`: what a gradient through the memory is good for, measured.
//
// Recall: entries are written under the key <c, A x> with the value sin(2 <a, x>) plus noise, and asked for under <p,
// x>: two encoders that must meet. With gradients to queries and keys they do; without those to keys they cannot.
// Bandit: four arms, a reward that depends mostly on the state; a policy gradient whose baseline is read from the last
// 4096 rewards, under a key that is a projection of the state, random or learned through the memory.
// Everything is drawn from `seed`. Threads: any; pure.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"

namespace tandem::cli {

struct Curve {
  std::vector<std::pair<double, double>> points;  // by step
  double last = 0;
};

enum class RecallMode : std::uint8_t { kFrozen, kQueries, kQueriesAndKeys, kQueriesKeysAndTau };
struct RecallTask {
  int width = 8, entries = 4096, batch = 256, steps = 600;
};
// Root mean square errors on 1000 new queries; the values' standard deviation is about 0.7.
[[nodiscard]] Result<Curve> run_recall(const RecallTask& task, RecallMode mode, std::uint64_t seed);

// kMlp: a perceptron with one hidden layer, a step on each batch once it has been asked. kMlpReplay: and eight steps on
// batches of 256 out of the last `entries` rewards, which are what the memory holds.
enum class BaselineMode : std::uint8_t { kNone, kMean, kMlp, kMlpReplay, kRandomProjection, kLearnedProjection };
struct BanditTask {
  int width = 8, entries = 4096, batch = 32, steps = 500;
  double amplitude = 10;  // of the part of the reward that depends on the state
};
struct BanditRun {
  Curve variance;     // of the policy's gradient within a batch; `last` is the mean of the second half
  double regret = 0;  // a step, mean of the second half
};
[[nodiscard]] Result<BanditRun> run_bandit(const BanditTask& task, BaselineMode mode, std::uint64_t seed);

}  // namespace tandem::cli

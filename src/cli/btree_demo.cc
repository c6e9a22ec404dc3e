#include "cli/btree_demo.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "cli/demo_learning.h"
#include "replay/soft_btree.h"

namespace tandem::cli {
namespace {

using Tree = replay::SoftBTree<double>;

// Rows of width d, one after another.
double dot_row(const Vector& rows, std::size_t row, const double* direction, std::size_t d) {
  const double* const x = rows.data() + row * d;
  return std::inner_product(x, x + d, direction, 0.0);
}
Vector project(const Vector& rows, const double* direction, std::size_t d) {
  Vector keys(rows.size() / d);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = dot_row(rows, i, direction, d);
  return keys;
}
// to += sum over rows of factor * row
void add_rows(const Vector& rows, const Vector& factors, double* to, std::size_t d) {
  for (std::size_t i = 0; i < factors.size(); ++i) {
    for (std::size_t j = 0; j < d; ++j) to[j] += factors[i] * rows[i * d + j];
  }
}

// An orthogonal matrix, by Gram and Schmidt.
Vector random_rotation(std::size_t d, Normals& normals) {
  Vector rows;
  for (std::size_t i = 0; i < d; ++i) {
    Vector row = normals.vector(d);
    for (std::size_t j = 0; j < i; ++j) {
      const double along = dot_row(rows, j, row.data(), d);
      for (std::size_t e = 0; e < d; ++e) row[e] -= along * rows[j * d + e];
    }
    const double length = std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0));
    for (const double value : row) rows.push_back(value / length);
  }
  return rows;
}

// A memory of scalars under these keys, and which entry is which.
struct Memory {
  Tree tree;
  std::vector<replay::EntryId> ids;

  static Result<Memory> create(const Vector& keys, const Vector& values, double tau) {
    Memory memory{TD_TRY(Tree::create({.value_width = 1, .tau = tau})), std::vector<replay::EntryId>(keys.size())};
    TD_TRY(memory.tree.insert_batch(keys, values, {}, memory.ids));
    return memory;
  }
  Result<Vector> read(const Vector& queries) {
    Vector reads(queries.size());
    TD_TRY(tree.snapshot().read(queries, reads));
    return reads;
  }
  struct Gradients {
    Vector queries, keys;
    double tau = 0;
  };
  Result<Gradients> backward(const Vector& queries, const Vector& d_reads) {
    Vector by_id(tree.ids_end());
    Gradients gradients{Vector(queries.size()), Vector(ids.size())};
    TD_TRY(tree.snapshot().backward(queries, d_reads, {},
                                    {.queries = gradients.queries, .keys = by_id, .tau = &gradients.tau}));
    for (std::size_t i = 0; i < ids.size(); ++i) gradients.keys[i] = by_id[ids[i]];
    return gradients;
  }
};

double sin_of(const Vector& rows, std::size_t row, const Vector& direction) {
  return std::sin(2.0 * dot_row(rows, row, direction.data(), direction.size()));
}

}  // namespace

Result<Curve> run_recall(const RecallTask& task, RecallMode mode, std::uint64_t seed) {
  const auto d = static_cast<std::size_t>(task.width), n = static_cast<std::size_t>(task.entries);
  const auto m = static_cast<std::size_t>(task.batch);
  constexpr std::size_t kTests = 1000;
  constexpr int kStepsBetweenTests = 20;
  Normals world(seed, 0), draws(seed, 1);
  const Vector a = world.unit_vector(d), rotation = random_rotation(d, world);
  const Vector x = world.vector(n * d), tests = world.vector(kTests * d);
  Vector seen_by_writer(n * d), values(n), wanted(kTests);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < d; ++j) seen_by_writer[i * d + j] = dot_row(x, i, rotation.data() + j * d, d);
    values[i] = sin_of(x, i, a) + 0.05 * world();
  }
  for (std::size_t i = 0; i < kTests; ++i) wanted[i] = sin_of(tests, i, a);

  // The query's projection, the key's, and ln tau.
  Vector parameters = world.vector(2 * d, 1.0 / std::sqrt(static_cast<double>(d)));
  parameters.push_back(std::log(0.3));
  Adam adam(parameters.size(), 0.02);
  Curve curve;
  for (int step = 0;; ++step) {
    const double tau = std::exp(parameters[2 * d]);
    Memory memory = TD_TRY(Memory::create(project(seen_by_writer, parameters.data() + d, d), values, tau));
    if (step % kStepsBetweenTests == 0 || step == task.steps) {
      const Vector reads = TD_TRY(memory.read(project(tests, parameters.data(), d)));
      double squares = 0;
      for (std::size_t i = 0; i < kTests; ++i) squares += (reads[i] - wanted[i]) * (reads[i] - wanted[i]);
      curve.last = std::sqrt(squares / static_cast<double>(kTests));
      curve.points.emplace_back(step, curve.last);
    }
    if (step == task.steps) return curve;
    if (mode == RecallMode::kFrozen) continue;

    const Vector asked = draws.vector(m * d), queries = project(asked, parameters.data(), d);
    Vector errors = TD_TRY(memory.read(queries));
    for (std::size_t i = 0; i < m; ++i) errors[i] = (errors[i] - sin_of(asked, i, a)) / static_cast<double>(m);
    const Memory::Gradients gradients = TD_TRY(memory.backward(queries, errors));
    Vector gradient(parameters.size());
    add_rows(asked, gradients.queries, gradient.data(), d);
    if (mode != RecallMode::kQueries) add_rows(seen_by_writer, gradients.keys, gradient.data() + d, d);
    if (mode == RecallMode::kQueriesKeysAndTau) gradient[2 * d] = gradients.tau * tau;
    adam.step(gradient, parameters);
  }
}

Result<BanditRun> run_bandit(const BanditTask& task, BaselineMode mode, std::uint64_t seed) {
  const auto d = static_cast<std::size_t>(task.width), m = static_cast<std::size_t>(task.batch);
  constexpr std::size_t kArms = 4, kEntriesMin = 50;
  constexpr double kTau = 0.1, kPolicyRate = 0.1;
  constexpr int kMlpReplays = 8;
  constexpr std::size_t kMlpBatch = 256;
  Normals normals(seed, 2);
  const Vector direction = normals.unit_vector(d), effects = normals.vector(kArms * d, 0.5);
  Vector projection = normals.vector(d, 1.0 / std::sqrt(static_cast<double>(d)));
  Adam adam(d, 0.03);
  Normals critic_draws(seed, 3);
  MlpCritic critic(d, critic_draws);
  Vector policy(kArms * d), states, rewards;  // of the memory, oldest first
  double mean_reward = 0;
  BanditRun run;
  double variances = 0;
  for (int step = 1; step <= task.steps; ++step) {
    const Vector x = normals.vector(m * d);
    Vector reward(m), baseline(m), probabilities(m * kArms);
    std::vector<std::size_t> chosen(m);
    double regret = 0;
    for (std::size_t i = 0; i < m; ++i) {
      double* const p = probabilities.data() + i * kArms;
      std::array<double, kArms> effect;
      double max = -1e300, sum = 0;
      for (std::size_t arm = 0; arm < kArms; ++arm) {
        p[arm] = dot_row(policy, arm, x.data() + i * d, d);
        effect[arm] = dot_row(effects, arm, x.data() + i * d, d);
        max = std::max(max, p[arm]);
      }
      for (std::size_t arm = 0; arm < kArms; ++arm) sum += p[arm] = std::exp(p[arm] - max);
      double uniform = normals.uniform(), expected = 0;
      for (std::size_t arm = 0; arm < kArms; ++arm) expected += (p[arm] /= sum) * effect[arm];
      while (chosen[i] + 1 < kArms && uniform >= p[chosen[i]]) uniform -= p[chosen[i]++];
      reward[i] = task.amplitude * sin_of(x, i, direction) + effect[chosen[i]] + 0.3 * normals();
      regret += *std::max_element(effect.begin(), effect.end()) - expected;
    }
    if (mode == BaselineMode::kMean) std::fill(baseline.begin(), baseline.end(), mean_reward);
    if (mode == BaselineMode::kMlp || mode == BaselineMode::kMlpReplay) {
      baseline = critic.values(x);
      critic.train(x, reward);
      for (int again = 0; mode == BaselineMode::kMlpReplay && again < kMlpReplays && !rewards.empty(); ++again) {
        Vector past(kMlpBatch * d), past_rewards(kMlpBatch);
        for (std::size_t i = 0; i < kMlpBatch; ++i) {
          const auto from = static_cast<std::size_t>(critic_draws.uniform() * static_cast<double>(rewards.size()));
          std::copy_n(states.data() + from * d, d, past.data() + i * d);
          past_rewards[i] = rewards[from];
        }
        critic.train(past, past_rewards);
      }
    }
    const bool remembers = mode == BaselineMode::kRandomProjection || mode == BaselineMode::kLearnedProjection;
    if (remembers && rewards.size() > kEntriesMin) {
      Memory memory = TD_TRY(Memory::create(project(states, projection.data(), d), rewards, kTau));
      const Vector queries = project(x, projection.data(), d);
      baseline = TD_TRY(memory.read(queries));
      if (mode == BaselineMode::kLearnedProjection) {
        Vector errors(m), gradient(d);
        for (std::size_t i = 0; i < m; ++i) errors[i] = (baseline[i] - reward[i]) / static_cast<double>(m);
        const Memory::Gradients gradients = TD_TRY(memory.backward(queries, errors));
        add_rows(x, gradients.queries, gradient.data(), d);
        add_rows(states, gradients.keys, gradient.data(), d);
        adam.step(gradient, projection);
      }
    }
    // The policy's gradient of each sample, its mean and its variance.
    Vector mean(kArms * d), squares(kArms * d);
    for (std::size_t i = 0; i < m; ++i) {
      const double advantage = reward[i] - baseline[i];
      for (std::size_t arm = 0; arm < kArms; ++arm) {
        const double score = advantage * ((arm == chosen[i] ? 1.0 : 0.0) - probabilities[i * kArms + arm]);
        for (std::size_t j = 0; j < d; ++j) {
          const double g = score * x[i * d + j];
          mean[arm * d + j] += g / static_cast<double>(m);
          squares[arm * d + j] += g * g / static_cast<double>(m);
        }
      }
    }
    mean_reward = 0.99 * mean_reward + 0.01 * std::reduce(reward.begin(), reward.end()) / static_cast<double>(m);
    double variance = 0;
    for (std::size_t j = 0; j < mean.size(); ++j) {
      variance += squares[j] - mean[j] * mean[j];
      policy[j] += kPolicyRate * mean[j];
    }
    run.variance.points.emplace_back(step, variance);
    if (step > task.steps / 2) {
      const double share = 1.0 / (task.steps - task.steps / 2);
      run.regret += regret / static_cast<double>(m) * share;
      variances += variance * share;
    }
    states.insert(states.end(), x.begin(), x.end());
    rewards.insert(rewards.end(), reward.begin(), reward.end());
    if (const auto kept = static_cast<std::size_t>(task.entries); rewards.size() > kept) {
      const auto gone = static_cast<std::ptrdiff_t>(rewards.size() - kept);
      rewards.erase(rewards.begin(), rewards.begin() + gone);
      states.erase(states.begin(), states.begin() + gone * static_cast<std::ptrdiff_t>(d));
    }
  }
  run.variance.last = variances;
  return run;
}

}  // namespace tandem::cli

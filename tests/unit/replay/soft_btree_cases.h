// Trees of random entries beside the dense oracle of the same entries, and how far the two are apart.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "replay/soft_btree.h"
#include "unit/replay/dense_oracle.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TD_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TD_TEST_SANITIZED 1
#endif
#endif

namespace tandem::replay {

#ifdef TD_TEST_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

enum class Keys { kUniform, kNormal, kCauchy, kLognormal, kDuplicates, kOffset };
inline constexpr Keys kAllKeys[] = {Keys::kUniform,   Keys::kNormal,     Keys::kCauchy,
                                    Keys::kLognormal, Keys::kDuplicates, Keys::kOffset};

using Random = std::mt19937_64;

inline double uniform(Random& random) { return std::uniform_real_distribution<double>()(random); }
inline double normal(Random& random) { return std::normal_distribution<double>()(random); }

inline double draw_key(Keys keys, Random& random) {
  switch (keys) {
    case Keys::kUniform: return uniform(random);
    case Keys::kNormal: return 1e4 * normal(random);
    case Keys::kCauchy: return 1e3 * std::cauchy_distribution<double>()(random);
    case Keys::kLognormal: return std::exp(8 * normal(random));  // a range of about 1e17
    case Keys::kDuplicates:
      return uniform(random) < 0.9 ? static_cast<double>(random() % 1000) / 1000 : uniform(random);
    case Keys::kOffset: return 1e6 + normal(random);
  }
  return 0;
}

// Half of all keys lie within about this of each other.
inline double spread(Keys keys) {
  switch (keys) {
    case Keys::kNormal: return 1e4;
    case Keys::kCauchy:
    case Keys::kLognormal: return 1e3;
    default: return 1;
  }
}

template <class Real>
struct Case {
  SoftBTree<Real> tree;
  DenseEntries dense;
  std::vector<EntryId> ids;
  DenseOracle oracle() const { return {dense, tree.options().kernel, static_cast<double>(tree.options().tau)}; }
};

template <class Real>
Case<Real> make_case(const std::vector<double>& keys, int width, SoftKernel kernel, double tau, Random& random) {
  const std::size_t n = keys.size(), d = static_cast<std::size_t>(width);
  auto tree = SoftBTree<Real>::create({width, static_cast<Real>(tau), kernel}).value();
  std::vector<Real> k(n), v(n * d), w(n);
  for (std::size_t i = 0; i < n; ++i) k[i] = static_cast<Real>(keys[i]);
  for (Real& x : v) x = static_cast<Real>(normal(random));
  for (Real& x : w) x = static_cast<Real>(0.2 + 1.8 * uniform(random));
  std::vector<EntryId> ids(n);
  EXPECT_TRUE(tree.insert_batch(k, v, w, ids).ok());
  return {std::move(tree), {d, {k.begin(), k.end()}, {v.begin(), v.end()}, {w.begin(), w.end()}}, std::move(ids)};
}

template <class Real>
Case<Real> make_case(Keys keys, std::size_t n, int width, SoftKernel kernel, double tau, Random& random) {
  std::vector<double> drawn(n);
  for (double& key : drawn) key = draw_key(keys, random);
  return make_case<Real>(drawn, width, kernel, tau, random);
}

// Near keys, upon keys, between them, and beyond both ends (up to 1000 tau).
template <class Real>
std::vector<Real> draw_queries(const Case<Real>& made, std::size_t m, Random& random) {
  const auto& keys = made.dense.keys;
  const double tau = static_cast<double>(made.tree.options().tau);
  const auto [low, high] = std::minmax_element(keys.begin(), keys.end());
  std::vector<Real> queries(m);
  for (std::size_t j = 0; j < m; ++j) {
    const double key = keys[random() % keys.size()];
    double query = 0;
    switch (j % 6) {
      case 0: query = key; break;
      case 1:
      case 2: query = key + tau * normal(random); break;
      case 3: query = *low + (*high - *low) * uniform(random); break;
      case 4: query = *low - 1000 * tau * uniform(random); break;
      case 5: query = *high + 1000 * tau * uniform(random); break;
    }
    queries[j] = static_cast<Real>(query);
  }
  return queries;
}

template <class Real>
std::vector<Real> draw_normals(std::size_t n, Random& random) {
  std::vector<Real> out(n);
  for (Real& x : out) x = static_cast<Real>(normal(random));
  return out;
}

// The gradients of a tree, by place in `dense` and not by id.
template <class Real>
struct TreeGradients {
  std::vector<Real> queries, keys, values, weights;
  Real tau = 0;
};

template <class Real>
TreeGradients<Real> tree_backward(const SoftBTreeSnapshot<Real>& snapshot, std::span<const EntryId> ids,
                                  std::span<const Real> queries, std::span<const Real> d_reads,
                                  std::span<const Real> d_log_z) {
  const std::size_t end = snapshot.ids_end(), d = static_cast<std::size_t>(snapshot.value_width());
  std::vector<Real> keys(end), values(end * d), weights(end);
  TreeGradients<Real> out;
  out.queries.resize(queries.size());
  const Status status = snapshot.backward(queries, d_reads, d_log_z, {out.queries, keys, values, weights, &out.tau});
  EXPECT_TRUE(status.ok()) << status.to_string();
  for (const EntryId id : ids) {
    out.keys.push_back(keys[id]);
    out.weights.push_back(weights[id]);
    for (std::size_t i = 0; i < d; ++i) out.values.push_back(values[id * d + i]);
  }
  return out;
}

// The greatest |got - want| / scale; infinite if anything is NaN. Numbers this far below the greatest scale, or this
// near to the least that Real can hold, underflow.
template <class Real>
double worst(std::span<const Real> got, std::span<const double> want, std::span<const double> scale) {
  EXPECT_EQ(got.size(), want.size());
  const double far_below = std::is_same_v<Real, float> ? 1e-30 : 1e-280;
  double greatest = 0, out = 0;
  for (const double s : scale) greatest = std::max(greatest, s);
  const double floor = far_below * std::max(greatest, 1.0);
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]) / (scale[i] + floor);
    if (!(error <= out)) out = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return out;
}

struct Errors {
  double reads = 0, log_z = 0, queries = 0, keys = 0, values = 0, weights = 0, tau = 0;
  double greatest() const { return std::max({reads, log_z, queries, keys, values, weights, tau}); }
};

inline std::ostream& operator<<(std::ostream& out, const Errors& e) {
  return out << "reads " << e.reads << " log_z " << e.log_z << " dq " << e.queries << " dk " << e.keys << " dv "
             << e.values << " dw " << e.weights << " dtau " << e.tau;
}

// Reads, and gradients of random upstreams, against the oracle: errors in units of each number's scale.
template <class Real>
Errors compare(const SoftBTreeSnapshot<Real>& snapshot, const DenseOracle& oracle, std::span<const EntryId> ids,
               std::span<const Real> queries, Random& random) {
  const std::size_t m = queries.size(), d = static_cast<std::size_t>(snapshot.value_width());
  std::vector<Real> reads(m * d), log_z(m);
  const Status status = snapshot.read(queries, reads, log_z);
  EXPECT_TRUE(status.ok()) << status.to_string();
  std::vector<double> want_reads, read_scales, want_log_z, log_z_scales;
  for (const Real query : queries) {
    const DenseRead row = *oracle.read(static_cast<double>(query));
    want_reads.insert(want_reads.end(), row.read.begin(), row.read.end());
    read_scales.insert(read_scales.end(), row.scales.begin(), row.scales.end());
    want_log_z.push_back(row.log_z);
    log_z_scales.push_back(1 + row.nearest);
  }
  Errors errors;
  errors.reads = worst<Real>(reads, want_reads, read_scales);
  errors.log_z = worst<Real>(log_z, want_log_z, log_z_scales);

  const std::vector<Real> d_reads = draw_normals<Real>(m * d, random), d_log_z = draw_normals<Real>(m, random);
  for (const std::span<const Real> d_z : {std::span<const Real>(), std::span<const Real>(d_log_z)}) {
    const auto got = tree_backward<Real>(snapshot, ids, queries, d_reads, d_z);
    const DenseBackward want = oracle.backward<Real>(queries, d_reads, d_z);
    errors.queries = std::max(errors.queries, worst<Real>(got.queries, want.of.queries, want.scales.queries));
    errors.keys = std::max(errors.keys, worst<Real>(got.keys, want.of.keys, want.scales.keys));
    errors.values = std::max(errors.values, worst<Real>(got.values, want.of.values, want.scales.values));
    errors.weights = std::max(errors.weights, worst<Real>(got.weights, want.of.weights, want.scales.weights));
    errors.tau = std::max(errors.tau, worst<Real>({&got.tau, 1}, {&want.of.tau, 1}, {&want.scales.tau, 1}));
  }
  return errors;
}

}  // namespace tandem::replay

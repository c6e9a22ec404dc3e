// What the soft B-tree's directed tests share: entries by id beside the dense oracle, and comparisons with it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "replay/soft_btree.h"
#include "unit/replay/dense_oracle.h"

namespace tandem::replay::plain {

template <class Real>
struct Plain {
  struct Entry {
    Real key, weight;
    std::vector<Real> value;
  };
  std::map<EntryId, Entry> entries;

  DenseEntries dense() const {
    DenseEntries all{.width = entries.begin()->second.value.size()};
    for (const auto& [id, e] : entries) {
      all.keys.push_back(e.key);
      all.weights.push_back(e.weight);
      all.values.insert(all.values.end(), e.value.begin(), e.value.end());
    }
    return all;
  }
  std::vector<double> read(Real q, double tau, SoftKernel k, double* log_z = nullptr, long except = -1) const {
    const DenseEntries all = dense();
    auto left_out = std::numeric_limits<std::size_t>::max();
    if (except >= 0) {
      left_out = static_cast<std::size_t>(std::distance(entries.begin(), entries.find(static_cast<EntryId>(except))));
    }
    const DenseRead row = DenseOracle(all, k, tau).read(q, left_out).value();
    if (log_z != nullptr) *log_z = row.log_z;
    return row.read;
  }
};

template <class Real>
SoftBTree<Real> make(int width, Real tau, SoftKernel kernel = SoftKernel::kLaplace) {
  auto tree = SoftBTree<Real>::create({.value_width = width, .tau = tau, .kernel = kernel});
  EXPECT_TRUE(tree.ok());
  return std::move(tree).value();
}

template <class Real>
void expect_reads(const SoftBTreeSnapshot<Real>& snapshot, const Plain<Real>& plain, SoftKernel kernel,
                  const std::vector<Real>& queries, double tolerance) {
  const int width = snapshot.value_width();
  std::vector<Real> reads(queries.size() * width), log_z(queries.size());
  ASSERT_TRUE(snapshot.read(queries, reads, log_z).ok());
  for (std::size_t j = 0; j < queries.size(); ++j) {
    double want_log_z;
    const auto want = plain.read(queries[j], snapshot.tau(), kernel, &want_log_z);
    for (int k = 0; k < width; ++k) ASSERT_NEAR(reads[j * width + k], want[k], tolerance) << "query " << queries[j];
    ASSERT_NEAR(log_z[j], want_log_z, tolerance * (1 + std::abs(want_log_z))) << "query " << queries[j];
  }
}

// The gradients of <g, r(q)> + h ln Z(q), over queries, by entry id; entries of weight 0 included.
template <class Real>
struct PlainGradients {
  std::vector<double> queries, keys, values, weights;
  double tau = 0;

  PlainGradients(const Plain<Real>& plain, std::size_t ids_end, double t, SoftKernel kernel, const std::vector<Real>& q,
                 const std::vector<Real>& g, const std::vector<Real>& h)
      : keys(ids_end), values(ids_end * (g.size() / q.size())), weights(ids_end) {
    const DenseEntries all = plain.dense();
    const DenseGradients of =
        DenseOracle(all, kernel, t)
            .backward(std::span<const Real>(q), std::span<const Real>(g), std::span<const Real>(h))
            .of;
    queries = of.queries;
    tau = of.tau;
    std::size_t i = 0;
    for (const auto& [id, e] : plain.entries) {
      keys[id] = of.keys[i];
      weights[id] = of.weights[i];
      std::copy_n(of.values.begin() + static_cast<std::ptrdiff_t>(i * all.width), all.width,
                  values.begin() + static_cast<std::ptrdiff_t>(id * all.width));
      ++i;
    }
  }
};

}  // namespace tandem::replay::plain

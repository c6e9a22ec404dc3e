// The soft B-tree's formulas written out over a map of entries, in double, for its directed tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "replay/soft_btree.h"

namespace tandem::replay::plain {

template <class Real>
struct Plain {  // entries by id, and the formula written out in double
  struct Entry {
    Real key, weight;
    std::vector<Real> value;
  };
  std::map<EntryId, Entry> entries;

  static double kernel(SoftKernel kernel, double u) {
    return kernel == SoftKernel::kLaplace ? std::exp(-u) : (1 + u) * std::exp(-u);
  }
  std::vector<double> read(Real q, double tau, SoftKernel k, double* log_z = nullptr, long except = -1) const {
    double nearest = INFINITY;
    for (const auto& [id, e] : entries) {
      if (e.weight > 0 && long(id) != except) nearest = std::min(nearest, std::abs(double(q) - double(e.key)));
    }
    std::vector<double> sum(entries.begin()->second.value.size());
    double z = 0;
    for (const auto& [id, e] : entries) {
      if (e.weight == 0 || long(id) == except) continue;
      const double d = std::abs(double(q) - double(e.key));
      double p = e.weight * std::exp(-(d - nearest) / tau);
      if (k == SoftKernel::kMatern32) p *= 1 + d / tau;
      z += p;
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += p * double(e.value[i]);
    }
    for (double& x : sum) x /= z;
    if (log_z != nullptr) *log_z = std::log(z) - nearest / tau;
    return sum;
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

// The gradients written out, in double, of <g, r(q)> + h ln Z(q), over queries; entries of weight 0 included.
template <class Real>
struct PlainGradients {
  std::vector<double> queries, keys, values, weights;
  double tau = 0;

  PlainGradients(const Plain<Real>& plain, std::size_t ids_end, double t, SoftKernel kernel, const std::vector<Real>& q,
                 const std::vector<Real>& g, const std::vector<Real>& h) {
    const std::size_t width = g.size() / q.size();
    queries.resize(q.size());
    keys.resize(ids_end);
    weights.resize(ids_end);
    values.resize(ids_end * width);
    for (std::size_t j = 0; j < q.size(); ++j) {
      double log_z;
      const auto r = plain.read(q[j], t, kernel, &log_z);
      double nearest = INFINITY;
      for (const auto& [id, e] : plain.entries) {
        if (e.weight > 0) nearest = std::min(nearest, std::abs(double(q[j]) - e.key));
      }
      const double s = nearest / t, off = kernel == SoftKernel::kLaplace ? s : s * s / (1 + s);
      tau += h[j] * off / t;
      for (const auto& [id, e] : plain.entries) {
        const double d = double(q[j]) - e.key, u = std::abs(d) / t;
        const double base = std::exp(-u - log_z), sign = d > 0 ? 1 : d < 0 ? -1 : 0;
        const double k = base * (kernel == SoftKernel::kLaplace ? 1 : 1 + u);
        const double slope = base * (kernel == SoftKernel::kLaplace ? 1 : u);
        const double by_tau = base * (kernel == SoftKernel::kLaplace ? u - off : u * u - off * (1 + u)) / t;
        double dot = h[j];
        for (std::size_t c = 0; c < width; ++c) {
          dot += double(g[j * width + c]) * (e.value[c] - r[c]);
          values[id * width + c] += e.weight * k * double(g[j * width + c]);
        }
        weights[id] += k * dot;
        keys[id] += e.weight * slope * sign * dot / t;
        queries[j] -= e.weight * slope * sign * dot / t;
        tau += e.weight * by_tau * dot;
      }
    }
  }
};

}  // namespace tandem::replay::plain

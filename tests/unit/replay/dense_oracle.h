// What a soft B-tree must say, the slow and plain way: every entry for every query, in double precision.
//
// p_i(q) = w_i K(u_i) / Z(q), u_i = |q - k_i| / tau; r = sum p_i v_i. With f = -d ln K / du (1, or u / (1 + u)),
// g = d_read, c = d_log_z and h_i = <g, v_i - r> + c:
//   d/dq = -sum p_i h_i f_i sign(q - k_i) / tau = -sum of the d/dk_i      d/dv_i = p_i g      d/dw_i = h_i K_i / Z
//   d/dtau = sum p_i h_i u_i f_i / tau
// Sums of <g, v_i - r> u f take u f less its value at the nearest entry: the sum of p_i <g, v_i - r> is 0, and digits
// would be lost to a common distance. Beside each gradient stands its scale: the sum of its terms' absolute values,
// each times what rounding its exponent costs: 1 + the distance beyond the nearest entry, and + the distance itself if
// the two are on opposite sides of the query, where two rounded distances are subtracted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "replay/soft_btree.h"

namespace tandem::replay {

struct DenseEntries {
  std::size_t width = 1;
  std::vector<double> keys, values, weights;
  std::size_t size() const { return keys.size(); }
};

struct DenseGradients {
  std::vector<double> queries, keys, values, weights;
  double tau = 0;
};

struct DenseBackward {
  DenseGradients of, scales;
};

// What one query sees.
struct DenseRead {
  std::vector<double> shares;  // K_i / Z: times w_i, p_i
  std::vector<double> beyond;  // u_i - u of the nearest entry that has weight
  std::vector<double> roundings;
  double nearest = 0;  // its u
  double log_z = 0;
  std::vector<double> read, scales;  // [D]
};

class DenseOracle {
 public:
  DenseOracle(const DenseEntries& entries, SoftKernel kernel, double tau)
      : entries_(entries), kernel_(kernel), tau_(tau) {}

  // Empty if nothing has weight. `except` is left out.
  std::optional<DenseRead> read(double query, std::size_t except = std::numeric_limits<std::size_t>::max()) const {
    const std::size_t n = entries_.size(), width = entries_.width;
    DenseRead out;
    double nearest = std::numeric_limits<double>::infinity(), nearest_key = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const double distance = std::abs(query - entries_.keys[i]);
      if (i == except || !(entries_.weights[i] > 0) || distance >= nearest) continue;
      nearest = distance;
      nearest_key = entries_.keys[i];
    }
    if (!std::isfinite(nearest)) return {};
    out.nearest = nearest / tau_;
    out.shares.resize(n);
    out.beyond.resize(n);
    out.roundings.resize(n);
    long double z = 0;  // a million terms would round a double
    for (std::size_t i = 0; i < n; ++i) {
      if (i == except) continue;
      const double key = entries_.keys[i];
      const double behind = query > nearest_key ? nearest_key - key : key - nearest_key;  // exact at any distance
      const bool same_side = query > nearest_key ? key <= query : key >= query;
      const double beyond = (same_side ? behind : std::abs(query - key) - nearest) / tau_;
      out.beyond[i] = beyond;
      out.roundings[i] = 1 + std::abs(beyond) + (same_side ? 0 : std::abs(query - key) / tau_);
      out.shares[i] = std::exp(-beyond);
      if (kernel_ == SoftKernel::kMatern32) out.shares[i] *= 1 + beyond / (1 + out.nearest);
      if (entries_.weights[i] > 0) z += entries_.weights[i] * out.shares[i];
    }
    out.log_z = std::log(static_cast<double>(z)) - out.nearest +
                (kernel_ == SoftKernel::kMatern32 ? std::log1p(out.nearest) : 0);
    out.scales.resize(width);
    std::vector<long double> sums(width);
    for (std::size_t i = 0; i < n; ++i) {
      out.shares[i] = static_cast<double>(out.shares[i] / z);
      if (entries_.weights[i] == 0) continue;  // its share may be infinite
      const double p = entries_.weights[i] * out.shares[i];
      for (std::size_t d = 0; d < width; ++d) {
        sums[d] += static_cast<long double>(p) * entries_.values[i * width + d];
        out.scales[d] += p * std::abs(entries_.values[i * width + d]) * out.roundings[i];
      }
    }
    out.read.assign(sums.begin(), sums.end());
    return out;
  }

  double log_prob(double query, std::size_t entry) const {
    const DenseRead row = *read(query);
    const double u = row.beyond[entry] + row.nearest;
    const double log_kernel = kernel_ == SoftKernel::kMatern32 ? std::log1p(u) - u : -u;
    return std::log(entries_.weights[entry]) + log_kernel - row.log_z;
  }

  // Of sum <d_reads, r(queries)> + <d_log_z, ln Z(queries)>; d_log_z may be empty.
  template <class Real>
  DenseBackward backward(std::span<const Real> queries, std::span<const Real> d_reads,
                         std::span<const Real> d_log_z) const {
    const std::size_t n = entries_.size(), width = entries_.width;
    DenseBackward out;
    for (DenseGradients* made : {&out.of, &out.scales}) {
      made->queries.resize(queries.size());
      made->keys.resize(n);
      made->values.resize(n * width);
      made->weights.resize(n);
    }
    for (std::size_t j = 0; j < queries.size(); ++j) {
      const auto query = static_cast<double>(queries[j]);
      const DenseRead row = *read(query);
      const double c = d_log_z.empty() ? 0 : static_cast<double>(d_log_z[j]);
      for (std::size_t i = 0; i < n; ++i) {
        const double share = row.shares[i], beyond = row.beyond[i];
        const double p = entries_.weights[i] > 0 ? entries_.weights[i] * share : 0;
        const double roundings = row.roundings[i];
        double h = 0, h_scale = 0;
        for (std::size_t d = 0; d < width; ++d) {
          const auto g = static_cast<double>(d_reads[j * width + d]);
          const double value = entries_.values[i * width + d];
          h += g * (value - row.read[d]);
          h_scale += std::abs(g) * (std::abs(value) + std::abs(row.read[d]));
          out.of.values[i * width + d] += p * g;
          out.scales.values[i * width + d] += p * std::abs(g) * roundings;
        }
        const bool matern = kernel_ == SoftKernel::kMatern32;
        const double u = beyond + row.nearest, f = matern ? u / (1 + u) : 1;
        const double distance = query - entries_.keys[i], sign = (distance > 0) - (distance < 0);
        const double pull = p * (h + c) * f * sign / tau_;
        const double pull_scale = p * (h_scale + std::abs(c)) * std::abs(sign) / tau_ * roundings;
        out.of.queries[j] -= pull;
        out.of.keys[i] += pull;
        out.scales.queries[j] += pull_scale;
        out.scales.keys[i] += pull_scale;
        out.of.weights[i] += share * (h + c);
        out.scales.weights[i] += share * (h_scale + std::abs(c)) * roundings;
        const double uf_beyond = beyond * (matern ? 1 - 1 / ((1 + u) * (1 + row.nearest)) : 1);
        out.of.tau += p * (h * uf_beyond + c * u * f) / tau_;
        out.scales.tau += p * (h_scale * std::abs(beyond) + std::abs(c) * u) / tau_ * roundings;
      }
    }
    return out;
  }

 private:
  const DenseEntries& entries_;
  SoftKernel kernel_;
  double tau_;
};

}  // namespace tandem::replay

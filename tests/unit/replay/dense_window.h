// What a soft B-tree with a kernel that ends must say, by every entry for every query, in double: K = 1 - u^2 up to
// u = |q - k| / tau = 1. Scales are sums of the terms' absolute values, where rounding u costs a K the whole of u^2.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "unit/replay/dense_oracle.h"

namespace tandem::replay {

class DenseWindow {
 public:
  DenseWindow(const DenseEntries& entries, double tau) : entries_(entries), tau_(tau) {}

  struct Read {
    std::vector<double> read, scales;
    double z = 0, log_z_scale = 0;
  };
  // Empty if nothing that has weight is in reach.
  std::optional<Read> read(double query, std::size_t except = static_cast<std::size_t>(-1)) const {
    const std::size_t width = entries_.width;
    Read out;
    out.scales.resize(width);
    std::vector<long double> sums(width);
    long double z = 0;
    double roundings = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const double w = i == except ? 0 : entries_.weights[i] * shape(query, i), r = rounding(query, i, i == except);
      z += w;
      roundings += r;
      for (std::size_t d = 0; d < width; ++d) {
        sums[d] += static_cast<long double>(w) * entries_.values[i * width + d];
        out.scales[d] += r * std::abs(entries_.values[i * width + d]);
      }
    }
    if (!(z > 0)) return {};
    out.z = static_cast<double>(z);
    for (std::size_t d = 0; d < width; ++d) {
      out.read.push_back(static_cast<double>(sums[d] / z));
      out.scales[d] = (out.scales[d] + roundings * std::abs(out.read[d])) / out.z;
    }
    out.log_z_scale = 1 + roundings / out.z + std::abs(std::log(out.z));
    return out;
  }
  double shape(double query, std::size_t i) const {
    const double u = (query - entries_.keys[i]) / tau_;
    return std::abs(u) < 1 ? (1 - u) * (1 + u) : 0;
  }

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
      const Read row = *read(query);
      const double c = d_log_z.empty() ? 0 : static_cast<double>(d_log_z[j]);
      const double ill = row.log_z_scale;  // every share is divided by Z
      for (std::size_t i = 0; i < n; ++i) {
        const double u = (query - entries_.keys[i]) / tau_, near = std::abs(u) > 1 + 1e-6 ? 0 : 1;
        const double share = shape(query, i) / row.z, w = entries_.weights[i], inside = share > 0 ? 1 / row.z : 0;
        double h = c, h_scale = std::abs(c);
        for (std::size_t d = 0; d < width; ++d) {
          const auto g = static_cast<double>(d_reads[j * width + d]);
          const double value = entries_.values[i * width + d];
          h += g * (value - row.read[d]);
          h_scale += std::abs(g) * (std::abs(value) + row.scales[d]);
          out.of.values[i * width + d] += w * share * g;
          out.scales.values[i * width + d] += 2 * near * w / row.z * std::abs(g) * ill;
        }
        const double scale = 2 * near * h_scale / row.z * ill;
        out.of.weights[i] += share * h;
        out.of.keys[i] += w * inside * h * 2 * u / tau_;
        out.of.queries[j] -= w * inside * h * 2 * u / tau_;
        out.of.tau += w * inside * h * 2 * u * u / tau_;
        out.scales.weights[i] += scale;
        out.scales.keys[i] += 2 * w * scale / tau_;
        out.scales.queries[j] += 2 * w * scale / tau_;
        out.scales.tau += 2 * w * scale / tau_;
      }
    }
    return out;
  }

 private:
  // w (K + what rounding its u costs it), of entries that may be taken to be in reach.
  double rounding(double query, std::size_t i, bool except) const {
    const double u = (query - entries_.keys[i]) / tau_;
    return except || std::abs(u) > 1 + 1e-6 ? 0 : entries_.weights[i] * (shape(query, i) + 2 * u * u);
  }
  const DenseEntries& entries_;
  double tau_;
};

}  // namespace tandem::replay

// A histogram over fixed bounds, as Prometheus has them: bucket i counts observations <= bounds[i].
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem::server {

// Threads: any; observe() is two relaxed additions and one compare-and-swap loop.
class Histogram {
 public:
  static constexpr std::size_t kBoundsMax = 24;

  explicit Histogram(std::span<const double> bounds) : bounds_(bounds) {}

  void observe(double value, std::uint64_t count = 1) {
    std::size_t i = 0;
    while (i < bounds_.size() && value > bounds_[i]) ++i;
    counts_[i].fetch_add(count, std::memory_order_relaxed);
    double sum = sum_.load(std::memory_order_relaxed);
    while (!sum_.compare_exchange_weak(sum, sum + value * static_cast<double>(count), std::memory_order_relaxed)) {
    }
  }

  std::span<const double> bounds() const { return bounds_; }
  std::uint64_t count(std::size_t i) const { return counts_[i].load(std::memory_order_relaxed); }  // i <= bounds
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::span<const double> bounds_;
  std::array<std::atomic<std::uint64_t>, kBoundsMax + 1> counts_{};
  std::atomic<double> sum_{0};
};

inline constexpr double kSecondsBounds[] = {0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25,
                                            0.5,   0.75,   1,     2.5,    5,    7.5,   10,   25,    50,  100};
inline constexpr double kTokensBounds[] = {1,   2,    5,    10,   20,    50,    100,   200,
                                           500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
inline constexpr double kDeliveryBounds[] = {5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1};

}  // namespace tandem::server

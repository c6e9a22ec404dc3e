#include "kernels/roofline/roofline.h"

#include <gtest/gtest.h>

namespace tandem::kernels {
namespace {

// Bounds that any machine of this century meets, and none will for a while.
TEST(Roofline, BandwidthIsPlausible) {
  const auto stream = device::Stream::create_cpu(2);
  const double bytes_per_second = measure_read_bandwidth(64 << 20, *stream);
  EXPECT_GT(bytes_per_second, 1e8);
  EXPECT_LT(bytes_per_second, 1e14);
}

TEST(Roofline, PeakIsPlausibleForEveryPath) {
  const auto stream = device::Stream::create_cpu(2);
  for (const Compute compute : {Compute::kF32, Compute::kBf16}) {
    for (const LinearPath path : linear_paths(compute)) {
      const double flops = measure_matrix_peak(path, compute, *stream);
      EXPECT_GT(flops, 1e7) << linear_path_name(path);
      EXPECT_LT(flops, 1e14) << linear_path_name(path);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels

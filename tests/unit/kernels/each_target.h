// Runs a test suite once for each instruction set that the kernels are compiled for and this machine has.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/common/simd.h"
// After the choice of targets.
#include <hwy/highway.h>

namespace tandem::kernels::testing {

class EachTarget : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

inline std::vector<std::int64_t> attainable_targets() {
  std::vector<std::int64_t> targets;
  const std::int64_t attainable = (hwy::SupportedTargets() | HWY_STATIC_TARGET) & HWY_TARGETS;
  for (int bit = 0; bit < 63; ++bit) {
    if (attainable >> bit & 1) targets.push_back(std::int64_t{1} << bit);
  }
  return targets;
}

inline std::string target_name(const ::testing::TestParamInfo<std::int64_t>& info) {
  return hwy::TargetName(info.param);
}

}  // namespace tandem::kernels::testing

// Declares the suite that the file's TEST_P(Suite, ...) belong to.
#define TANDEM_EACH_TARGET(Suite)                                 \
  class Suite : public ::tandem::kernels::testing::EachTarget {}; \
  INSTANTIATE_TEST_SUITE_P(Targets, Suite, ::testing::ValuesIn(attainable_targets()), target_name)

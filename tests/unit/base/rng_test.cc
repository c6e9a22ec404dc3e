#include "base/rng.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// Known answers of Philox4x32-10 published with the Random123 library.
TEST(Philox, KnownAnswers) {
  const auto zeros = philox({0, 0}, 0);
  EXPECT_EQ(zeros, (std::array<std::uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const auto ones = philox({~0ull, ~0ull}, ~0ull);
  EXPECT_EQ(ones, (std::array<std::uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
}

TEST(Philox, UniformStaysBelowOneAndAveragesOneHalf) {
  double sum = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double u = philox_uniform({42, 7}, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.005);
}

TEST(Philox, EveryPartOfTheKeyMatters) {
  EXPECT_NE(philox({1, 0}, 0), philox({0, 1}, 0));
  EXPECT_NE(philox({1, 0}, 0), philox({1, 0}, 1));
  EXPECT_NE(philox({1ull << 32, 0}, 0), philox({1, 0}, 0));
}

}  // namespace
}  // namespace tandem

#include "server/app/rate_limiter.h"

#include <gtest/gtest.h>

namespace tandem::server {
namespace {

TimePoint at(double seconds) { return {static_cast<std::int64_t>(seconds * 1e9)}; }

TEST(RateLimiter, TwoSecondsAtOnceThenTheRate) {
  RateLimiter limiter(5);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(limiter.take("a", at(0)), 0) << i;
  EXPECT_NEAR(limiter.take("a", at(0)), 0.2, 1e-9);
  EXPECT_EQ(limiter.take("b", at(0)), 0);  // callers do not share
  EXPECT_EQ(limiter.take("a", at(0.21)), 0);
  EXPECT_GT(limiter.take("a", at(0.21)), 0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(limiter.take("a", at(100)), 0) << i;
  EXPECT_GT(limiter.take("a", at(100)), 0);
  EXPECT_GT(limiter.take("a", at(50)), 0);  // a clock that goes back gives nothing away
}

TEST(RateLimiter, SlowerThanOneASecondStillLetsOneThrough) {
  RateLimiter limiter(0.1);
  EXPECT_EQ(limiter.take("a", at(0)), 0);
  EXPECT_NEAR(limiter.take("a", at(0)), 10, 1e-9);
  EXPECT_EQ(limiter.take("a", at(10)), 0);
}

TEST(RateLimiter, NoLimit) {
  RateLimiter limiter(0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limiter.take("a", at(0)), 0);
  EXPECT_EQ(limiter.callers_count(), 0u);
}

TEST(RateLimiter, CallersAreBounded) {
  RateLimiter limiter(1);
  for (std::size_t i = 0; i < 3 * RateLimiter::kCallersMax; ++i) limiter.take(std::to_string(i), at(0));
  EXPECT_LE(limiter.callers_count(), RateLimiter::kCallersMax);
  // Those that have been quiet are forgotten first.
  RateLimiter other(1);
  for (std::size_t i = 0; i < RateLimiter::kCallersMax; ++i) other.take(std::to_string(i), at(0));
  other.take("0", at(99));
  other.take("0", at(99));
  EXPECT_EQ(other.take("new", at(99)), 0);
  EXPECT_EQ(other.callers_count(), 2u);
  EXPECT_GT(other.take("0", at(99)), 0);
}

}  // namespace
}  // namespace tandem::server

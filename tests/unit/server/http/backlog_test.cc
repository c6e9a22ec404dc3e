#include "server/http/backlog.h"

#include <gtest/gtest.h>

#include <random>

#include "server/http/connection_impl.h"
#include "server/http/token_bucket.h"

namespace tandem::server {
namespace {

TEST(ByteQueue, IsAString) {
  std::mt19937 random(1);
  ByteQueue queue;
  std::string model;
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0) {
      std::string bytes(random() % (random() % 50 == 0 ? 5000 : 50), static_cast<char>('a' + i % 26));
      model += bytes;
      if (i % 3 == 0) {
        queue.append(std::move(bytes));
      } else {
        queue.append(std::string_view(bytes));
      }
    } else {
      const std::size_t count = model.empty() ? 0 : random() % (model.size() + 1);
      queue.drop(count);
      model.erase(0, count);
    }
    if (random() % 500 == 0) {
      queue.clear();
      model.clear();
    }
    ASSERT_EQ(queue.view(), model);
    ASSERT_EQ(queue.empty(), model.empty());
  }
}

TEST(Backlog, MarksHighAndLow) {
  ConnectionLimits limits;
  limits.backlog_high_bytes = 100;
  limits.backlog_low_bytes = 10;
  Backlog backlog(limits);
  const TimePoint now{5};
  backlog.append(std::string(100, 'x'));
  backlog.sent(100, now);
  EXPECT_FALSE(backlog.take_drained()) << "it was not above the mark";
  backlog.append(std::string(101, 'x'));
  backlog.sent(91, now);
  EXPECT_FALSE(backlog.take_drained()) << "it is not below the mark";
  backlog.sent(1, now);
  EXPECT_TRUE(backlog.take_drained());
  EXPECT_FALSE(backlog.take_drained()) << "once";
  backlog.sent(9, now);
  EXPECT_FALSE(backlog.take_drained());
}

TEST(Backlog, Clocks) {
  ConnectionLimits limits;
  limits.stall_timeout_ns = 1000;
  limits.backlog_high_bytes = 50'000;
  limits.backlog_low_bytes = 100;
  Backlog backlog(limits);
  EXPECT_FALSE(backlog.unstamped());
  EXPECT_EQ(backlog.due(), kNever);
  backlog.append(std::string(10'000, 'x'));
  EXPECT_TRUE(backlog.unstamped());
  EXPECT_EQ(backlog.due(), kNever);
  backlog.stamp({10});
  EXPECT_FALSE(backlog.unstamped());
  EXPECT_EQ(backlog.due().ns, 1010);
  backlog.stamp({20});
  EXPECT_EQ(backlog.due().ns, 1010) << "the clock runs already";
  backlog.sent(StallClock::kProgressBytes - 1, {30});
  EXPECT_EQ(backlog.due().ns, 1010) << "too little";
  backlog.sent(1, {40});
  EXPECT_EQ(backlog.due().ns, 1040);
  backlog.append(std::string(50'000, 'x'));
  EXPECT_TRUE(backlog.unstamped()) << "the high mark has a clock of its own";
  backlog.stamp({50});
  backlog.sent(StallClock::kProgressBytes, {60});
  EXPECT_EQ(backlog.due().ns, 1050) << "progress does not help a backlog that stays high";
  backlog.sent(backlog.size() - 99, {70});
  EXPECT_EQ(backlog.due().ns, 1070);
  backlog.sent(99, {80});
  EXPECT_EQ(backlog.due(), kNever);
}

TEST(BodyClock, ToTheNanosecond) {
  ConnectionLimits limits;
  limits.body_timeout_ns = 30 * kSecondNs;
  limits.body_bytes_per_s_min = 1000;
  BodyClock clock({7});
  EXPECT_EQ(clock.due(limits).ns, 7 + 30 * kSecondNs);
  clock.read(1, {7 + 10 * kSecondNs});
  EXPECT_EQ(clock.due(limits).ns, 7 + 30 * kSecondNs) << "one byte is no 30,000";
  clock.read(29'999, {7 + 29 * kSecondNs});
  EXPECT_EQ(clock.due(limits).ns, 7 + 30 * kSecondNs + 1) << "just enough, until the next nanosecond";
  clock.read(5001, {7 + 29 * kSecondNs});
  EXPECT_EQ(clock.due(limits).ns, 7 + 35 * kSecondNs + kSecondNs / 1000 + 1);
  clock.read(1'000'000'000, {7 + 29 * kSecondNs});
  EXPECT_EQ(clock.due(limits).ns, 7 + 59 * kSecondNs);
  limits.body_bytes_per_s_min = 0;
  BodyClock no_floor({7});
  no_floor.read(1, {8});
  EXPECT_EQ(no_floor.due(limits).ns, 8 + 30 * kSecondNs);
}

TEST(TokenBucket, SoManyASecondAndTenTimesAsManyAtOnce) {
  TokenBucket bucket(2, {0});
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(bucket.take({0}));
  EXPECT_FALSE(bucket.take({0}));
  EXPECT_FALSE(bucket.take({kSecondNs / 2 - 1000}));
  EXPECT_TRUE(bucket.take({kSecondNs / 2 + 1000}));
  EXPECT_FALSE(bucket.take({kSecondNs / 2 + 1000}));
  EXPECT_FALSE(bucket.take({0})) << "time does not run backwards";
  int taken = 0;
  while (bucket.take({1000 * kSecondNs})) ++taken;
  EXPECT_EQ(taken, 20) << "no more than that is saved";
}

TEST(After, DoesNotOverflow) {
  EXPECT_EQ(after({5}, 10).ns, 15);
  EXPECT_EQ(after(kNever, 10), kNever);
  EXPECT_EQ(after({kNever.ns - 5}, 10), kNever);
}

}  // namespace
}  // namespace tandem::server

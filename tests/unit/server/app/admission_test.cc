#include "server/app/admission.h"

#include <gtest/gtest.h>

#include <random>

namespace tandem::server {
namespace {

TimePoint at(double seconds) { return {static_cast<std::int64_t>(seconds * 1e9) + 1}; }

TEST(Admission, TakesRunningAndQueueAndNoMore) {
  Admission admission({.running_max = 2, .queue_requests_max = 3});
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(admission.enter(at(0))) << i;
  const auto refused = admission.enter(at(0));
  ASSERT_TRUE(refused);
  EXPECT_STREQ(refused->reason, "queue_full");
  EXPECT_GT(refused->retry_after_s, 0);
  EXPECT_TRUE(admission.probe(at(0)));
  admission.leave(at(1));
  EXPECT_FALSE(admission.probe(at(1)));
  EXPECT_EQ(admission.calls(), 4);
  EXPECT_FALSE(admission.enter(at(1)));
}

TEST(Admission, RetryAfterIsTheQueueOverTheRate) {
  Admission admission({.running_max = 1, .queue_requests_max = 9});
  for (int i = 0; i < 10; ++i) ASSERT_FALSE(admission.enter(at(0)));
  // One ends every half second, and is replaced.
  double time = 0;
  for (int i = 0; i < 60; ++i) {
    time += 0.5;
    admission.leave(at(time));
    ASSERT_FALSE(admission.enter(at(time)));
  }
  const auto refused = admission.enter(at(time));
  ASSERT_TRUE(refused);
  EXPECT_NEAR(refused->retry_after_s, 10 / 2.0, 0.6);  // nine ahead of it and its own place, two a second
}

TEST(Admission, RefusesWaitsThatAreTooLong) {
  Admission admission({.running_max = 1, .queue_requests_max = 1000, .queue_wait_s_max = 2.0});
  ASSERT_FALSE(admission.enter(at(0)));
  double time = 0;
  for (int i = 0; i < 60; ++i) {  // two a second
    time += 0.5;
    admission.leave(at(time));
    ASSERT_FALSE(admission.enter(at(time)));
  }
  int waiting = 0;
  while (!admission.probe(at(time))) {
    ASSERT_FALSE(admission.enter(at(time)));
    waiting += 1;
  }
  EXPECT_GE(waiting, 3);
  EXPECT_LE(waiting, 4);
  EXPECT_STREQ(admission.enter(at(time))->reason, "queue_wait");
  // An idle hour does not make the next burst look slow.
  while (admission.calls() > 0) admission.leave(at(time));
  time += 3600;
  ASSERT_FALSE(admission.enter(at(time)));
  EXPECT_FALSE(admission.enter(at(time)));
}

TEST(Admission, PromptTokens) {
  Admission admission({.running_max = 8, .queue_requests_max = 8, .queue_tokens_max = 100});
  EXPECT_FALSE(admission.add_prompt(500));  // alone, it may be larger than the limit
  EXPECT_TRUE(admission.add_prompt(1));
  admission.end_prompt(500);
  EXPECT_FALSE(admission.add_prompt(60));
  EXPECT_FALSE(admission.add_prompt(40));
  EXPECT_STREQ(admission.add_prompt(1)->reason, "queue_tokens");
}

TEST(Admission, RandomHistoriesKeepTheBound) {
  std::mt19937 random(3);
  Admission admission({.running_max = 4, .queue_requests_max = 6, .queue_wait_s_max = 0.5});
  std::int64_t calls = 0;
  double time = 0;
  for (int i = 0; i < 100'000; ++i) {
    time += (random() % 100) * 1e-4;
    if (random() % 2 == 0) {
      const bool full = calls >= 10;
      const bool entered = !admission.enter(at(time));
      EXPECT_FALSE(entered && full);
      if (calls < 4) {
        EXPECT_TRUE(entered);  // a place is free
      }
      calls += entered;
    } else if (calls > 0) {
      admission.leave(at(time));
      calls -= 1;
    }
    ASSERT_EQ(admission.calls(), calls);
  }
}

}  // namespace
}  // namespace tandem::server

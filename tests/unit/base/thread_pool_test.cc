#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace tandem {
namespace {

TEST(ThreadPool, RunsEachTaskOnce) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads_count(), threads);
    for (const std::int64_t count : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
      pool.parallel_for(count, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (auto& run : runs) EXPECT_EQ(run.load(), 1);
    }
  }
}

// Regions that follow each other at once, and regions after the workers fell asleep: no task is lost or run twice, and
// what one region wrote the next one sees.
TEST(ThreadPool, ManyRegionsInARow) {
  ThreadPool pool(3);
  std::vector<std::int64_t> values(64, 0);
  for (int region = 0; region < 2000; ++region) {
    pool.parallel_for(64, [&](std::int64_t i) { ++values[static_cast<std::size_t>(i)]; });
    if (region % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (const std::int64_t value : values) EXPECT_EQ(value, 2000);
}

// Many more threads than cores: workers come late to regions that are long over, and must find nothing to do in later
// ones that took their place.
TEST(ThreadPool, LateWorkersTakeNothingTwice) {
  ThreadPool pool(16);
  for (int region = 0; region < 20000; ++region) {
    const std::int64_t count = 2 + region % 7;
    std::atomic<std::int64_t> sum{0};
    pool.parallel_for(count, [&](std::int64_t i) { sum += i + 1; });
    ASSERT_EQ(sum.load(), count * (count + 1) / 2) << region;
  }
}

TEST(ThreadPool, ZeroMeansOnePerCore) {
  ThreadPool pool(0);
  EXPECT_EQ(pool.threads_count(), ThreadPool::cores_count());
}

}  // namespace
}  // namespace tandem

#include "base/bounded_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

namespace tandem {
namespace {

TEST(BoundedQueue, RefusesWhenFullAndKeepsTheItem) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  EXPECT_TRUE(queue.push(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(queue.push(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*queue.drain().at(0), 1);
  EXPECT_TRUE(queue.push(std::move(second)));
}

TEST(BoundedQueue, CloseWakesWaitersAndDeliversTheRest) {
  BoundedQueue<int> queue(1000);
  int sum = 0;
  std::thread consumer([&] {
    while (const std::optional<int> item = queue.pop()) sum += *item;
  });
  for (int i = 1; i <= 100; ++i) ASSERT_TRUE(queue.push(int(i)));
  queue.close();
  consumer.join();
  EXPECT_EQ(sum, 5050);
  EXPECT_FALSE(queue.push(1));
}

}  // namespace
}  // namespace tandem

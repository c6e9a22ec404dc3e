#include <gtest/gtest.h>

#include "device/arena.h"
#include "device/ledger.h"

namespace tandem::device {
namespace {

TEST(Arena, HandsOutAlignedPiecesAndTakesThemBack) {
  Arena arena = Arena::create({}, 4096).value();
  auto* first = static_cast<char*>(arena.take(1));
  auto* second = static_cast<char*>(arena.take(100));
  EXPECT_EQ(second - first, static_cast<std::ptrdiff_t>(kArenaAlignment));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % kArenaAlignment, 0u);
  const std::size_t before = arena.used_bytes();
  {
    const Arena::Scope scope(arena);
    arena.take(1000);
  }
  EXPECT_EQ(arena.used_bytes(), before);
  EXPECT_GT(arena.peak_bytes(), before);
  first[0] = 1;
  second[99] = 1;
}

TEST(Arena, APlanningArenaCountsTheSame) {
  Arena plan = Arena::create_planning();
  EXPECT_TRUE(plan.is_planning());
  for (const std::size_t bytes : {1u, 64u, 65u, 1000u}) EXPECT_NE(plan.take(bytes), nullptr);
  Arena arena = Arena::create({}, plan.peak_bytes()).value();
  for (const std::size_t bytes : {1u, 64u, 65u, 1000u}) arena.take(bytes);
  EXPECT_EQ(arena.used_bytes(), arena.capacity_bytes());
}

TEST(ArenaDeathTest, RunningOutIsABug) {
  Arena arena = Arena::create({}, 128).value();
  arena.take(64);
  EXPECT_DEATH(arena.take(65), "check failed");
}

TEST(Arena, MoreThanTheSystemHasIsRefused) {
  EXPECT_EQ(Arena::create({}, std::size_t{1} << 60).code(), StatusCode::kResourceExhausted);
}

TEST(Ledger, AddsUpAndRefusesWhatDoesNotFit) {
  Ledger ledger;
  ledger.add({"weights", 1000, "mapped", true});
  ledger.add({"KV cache", 300, "", false});
  ledger.add({"workspace", 200, "", false});
  EXPECT_EQ(ledger.total_bytes(), 1500u);
  EXPECT_EQ(ledger.resident_bytes(), 500u);
  EXPECT_TRUE(ledger.check_fits(500).ok());
  const Status status = ledger.check_fits(499);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("KV cache"), std::string::npos);
  EXPECT_GT(available_memory_bytes(), 0u);
}

TEST(Device, Names) {
  EXPECT_EQ(to_string(Device{}), "cpu");
  EXPECT_EQ(to_string(Device{DeviceKind::kCuda, 1}), "cuda:1");
  EXPECT_EQ(Stream::create_cpu(2)->pool().threads_count(), 2);
}

}  // namespace
}  // namespace tandem::device

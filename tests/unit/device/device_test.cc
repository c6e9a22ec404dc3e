#include <gtest/gtest.h>

#include <cstring>

#include "device/arena.h"
#include "device/ledger.h"
#include "device/memory.h"

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
  Arena arena = Arena::create({}, 2 * kArenaAlignment).value();
  arena.take(kArenaAlignment);
  EXPECT_DEATH(arena.take(kArenaAlignment + 1), "check failed");
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

TEST(Device, Parsed) {
  EXPECT_EQ(parse_device("cpu").value(), Device{});
  EXPECT_EQ(parse_device("cuda").value(), (Device{DeviceKind::kCuda, 0}));
  EXPECT_EQ(parse_device("cuda:3").value(), (Device{DeviceKind::kCuda, 3}));
  for (const char* text : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "CPU"}) {
    const auto device = parse_device(text);
    EXPECT_EQ(device.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_NE(device.status().message().find("cuda:N"), std::string::npos);
  }
}

TEST(CudaGraph, ReplaysWhatWasCaptured) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no CUDA device";
  const auto stream = Stream::create_cuda(0).value();
  const Device device = stream->device();
  const Memory from = Memory::create_pinned(8).value(), to = Memory::create_pinned(8).value();
  const Memory there = Memory::create(device, 8).value();
  std::memset(from.data(), 7, 8);
  std::memset(to.data(), 0, 8);
  const Graph graph = Graph::capture(*stream, [&]() -> Status {
                        TD_TRY(copy(there.data(), from.data(), 8, *stream));
                        return copy(to.data(), there.data(), 8, *stream);
                      }).value();
  EXPECT_EQ(to.span()[0], std::byte{0});  // captured, not run
  Event event = Event::create(device).value();
  for (const int value : {7, 9}) {
    std::memset(from.data(), value, 8);
    ASSERT_TRUE(graph.launch(*stream).ok());
    ASSERT_TRUE(event.record(*stream).ok());
    ASSERT_TRUE(event.wait().ok());
    EXPECT_EQ(to.span()[7], static_cast<std::byte>(value));
  }
  const auto failed = Graph::capture(*stream, [] { return invalid_argument("no"); });
  EXPECT_EQ(failed.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream->synchronize().ok());  // a failed capture leaves the stream usable
  EXPECT_THROW((void)Graph::capture(*stream, []() -> Status { throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_TRUE(stream->synchronize().ok());
}

TEST(CudaMemory, CopiesRowsAndClears) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no CUDA device";
  const auto stream = Stream::create_cuda(0).value();
  const Memory there = Memory::create(stream->device(), 32).value();
  ASSERT_TRUE(fill_zeros(there.data(), 32, *stream).ok());
  const std::uint8_t from[] = {1, 2, 3, 4, 5, 6};
  std::uint8_t to[32];
  ASSERT_TRUE(copy_rows(there.data(), 10, from, 2, 2, 3, *stream).ok());
  ASSERT_TRUE(copy(to, there.data(), 32, *stream).ok());
  ASSERT_TRUE(stream->synchronize().ok());
  for (int i = 0; i < 32; ++i) {
    const int wanted = i % 10 < 2 && i < 30 ? 2 * (i / 10) + i % 10 + 1 : 0;
    EXPECT_EQ(to[i], wanted) << i;
  }
}

}  // namespace
}  // namespace tandem::device

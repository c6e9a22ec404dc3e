#include "base/file.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

namespace tandem {
namespace {

class FileTest : public ::testing::Test {
 protected:
  FileTest() : folder_(std::filesystem::path(::testing::TempDir()) / ("tandem_file_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~FileTest() override { std::filesystem::remove_all(folder_); }
  std::ptrdiff_t files_count() const {
    return std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator());
  }
  std::filesystem::path folder_;
};

TEST_F(FileTest, WritesAtomicallyAndReadsBack) {
  const auto path = folder_ / "a.txt";
  const std::string bytes("with\0zero\n", 10);
  ASSERT_TRUE(write_file_atomic(path, "old").ok());
  ASSERT_TRUE(write_file_atomic(path, bytes).ok());
  EXPECT_EQ(*read_file(path), bytes);
  EXPECT_EQ(files_count(), 1);
}

TEST_F(FileTest, ManyMayWriteOneFileAndOneOfThemStays) {
  const auto path = folder_ / "a.txt";
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (char c = 'a'; c < 'e'; ++c) {
    threads.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) failures += !write_file_atomic(path, std::string(100'000, c)).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  const std::string bytes = *read_file(path);
  ASSERT_EQ(bytes.size(), 100'000u);
  EXPECT_EQ(bytes.find_first_not_of(bytes[0]), std::string::npos);
  EXPECT_EQ(files_count(), 1);
}

TEST_F(FileTest, AFailedWriteLeavesNothingBehind) {
  std::filesystem::create_directories(folder_ / "taken" / "by");
  EXPECT_FALSE(write_file_atomic(folder_ / "taken", "x").ok());  // cannot be replaced
  EXPECT_EQ(files_count(), 1);
}

TEST_F(FileTest, ErrorsAreToldApart) {
  EXPECT_EQ(read_file(folder_ / "none").code(), StatusCode::kNotFound);
  EXPECT_EQ(read_file(folder_).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::open(folder_ / "none").code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::open(folder_).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(write_file_atomic(folder_ / "none" / "a", "x").code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file_atomic(folder_ / "big", "12345").ok());
  EXPECT_EQ(read_file(folder_ / "big", 4).code(), StatusCode::kInvalidArgument);
}

TEST_F(FileTest, MapsAFileAndSurvivesAMove) {
  ASSERT_TRUE(write_file_atomic(folder_ / "m", "mapped").ok());
  MappedFile mapped = MappedFile::open(folder_ / "m").value();
  MappedFile moved = std::move(mapped);
  ASSERT_EQ(moved.bytes().size(), 6u);
  EXPECT_EQ(static_cast<char>(moved.bytes()[0]), 'm');
  ASSERT_TRUE(write_file_atomic(folder_ / "empty", "").ok());
  EXPECT_TRUE(MappedFile::open(folder_ / "empty")->bytes().empty());
}

}  // namespace
}  // namespace tandem

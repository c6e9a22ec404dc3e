#include "base/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <set>
#include <string>

namespace tandem {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("atomic_file_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void put(const std::string& name) const { std::ofstream(folder_ / name) << name; }
  std::string text_of(const std::string& name) const {
    std::ifstream file(folder_ / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder_)) all.insert(entry.path().filename().string());
    return all;
  }
  static Status write(AtomicFile& file, std::string_view text) {
    return file.write_at(0, std::as_bytes(std::span(text.data(), text.size())));
  }
  fs::path folder_;
};

TEST_F(AtomicFileTest, AppearsWhenItIsCommitted) {
  put("a");
  auto file = AtomicFile::create(folder_ / "a");
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(write(*file, "new").ok());
  EXPECT_EQ(text_of("a"), "a");
  EXPECT_EQ(names().size(), 2u);
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(text_of("a"), "new");
  EXPECT_EQ(names(), std::set<std::string>{"a"});
}

TEST_F(AtomicFileTest, LeavesNothingWithoutCommit) {
  {
    auto file = AtomicFile::create(folder_ / "a");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(write(*file, "new").ok());
  }
  EXPECT_TRUE(names().empty());
}

// One that is still being written is not taken for what a dead process left.
TEST_F(AtomicFileTest, TheLastOfSeveralIsLeftWhole) {
  auto first = AtomicFile::create(folder_ / "a");
  ASSERT_TRUE(first.ok() && write(*first, "first").ok());
  auto second = AtomicFile::create(folder_ / "a");
  ASSERT_TRUE(second.ok() && write(*second, "second").ok());
  ASSERT_TRUE(second->commit().ok());
  ASSERT_TRUE(first->commit().ok());
  EXPECT_EQ(text_of("a"), "first");
  EXPECT_EQ(names(), std::set<std::string>{"a"});
}

TEST_F(AtomicFileTest, RemovesWhatAKilledProcessLeft) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto file = AtomicFile::create(folder_ / "a");
    if (file.ok() && write(*file, "half").ok()) ::kill(::getpid(), SIGKILL);
    ::_exit(1);
  }
  int state = 0;
  ASSERT_EQ(::waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFSIGNALED(state));
  ASSERT_EQ(names().size(), 1u);
  auto other = AtomicFile::create(folder_ / "b");
  ASSERT_TRUE(other.ok() && other->commit().ok());
  EXPECT_EQ(names().size(), 2u) << "that of another file stays";
  auto file = AtomicFile::create(folder_ / "a");
  ASSERT_TRUE(file.ok() && write(*file, "whole").ok() && file->commit().ok());
  EXPECT_EQ(text_of("a"), "whole");
  EXPECT_EQ(names(), (std::set<std::string>{"a", "b"}));
}

TEST_F(AtomicFileTest, RemovesNothingElse) {
  const std::set<std::string> others{"a.tmp",     "a.tmp.1",     "a.tmp.1.",   "a.tmp..1",
                                     "a.tmp.1.x", "a.tmp.1.2.3", "aa.tmp.1.2", "a.old.1.2"};
  for (const std::string& name : others) put(name);
  put("a.tmp.1.2");
  auto file = AtomicFile::create(folder_ / "a");
  ASSERT_TRUE(file.ok() && file->commit().ok());
  std::set<std::string> expected = others;
  expected.insert("a");
  EXPECT_EQ(names(), expected);
}

TEST_F(AtomicFileTest, SaysWhatIsMissing) {
  const auto file = AtomicFile::create(folder_ / "none" / "a");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), StatusCode::kNotFound);
  EXPECT_NE(file.status().message().find("create the folder first"), std::string::npos);
}

}  // namespace
}  // namespace tandem

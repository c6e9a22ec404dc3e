#include "server/app/key_ring.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"

namespace tandem::server {
namespace {

class KeyRingTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& text) {
    const auto path = std::filesystem::temp_directory_path() / ("tandem_keys_" + std::to_string(::getpid()));
    EXPECT_TRUE(write_file_atomic(path, text).ok());
    return path;
  }
  void set(const std::string& text) {
    auto keys = KeyRing::read(file(text));
    ASSERT_TRUE(keys.ok()) << keys.status().message();
    ring.set(std::move(keys).value());
  }
  KeyRing ring;
};

TEST_F(KeyRingTest, FindsWhatTheFileHolds) {
  set("# ours\n\n  first-key-1 \nalice: second-key-2\r\nthird-key-3");
  EXPECT_EQ(ring.find("Bearer first-key-1"), "key-1");
  EXPECT_EQ(ring.find("bearer second-key-2"), "alice");
  EXPECT_EQ(ring.find("BEARER  third-key-3 "), "key-3");
}

TEST_F(KeyRingTest, FindsNothingElse) {
  set("first-key-1\n");
  for (const char* text :
       {"", "Bearer", "Bearer ", "first-key-1", "Basic first-key-1", "Bearer first-key-", "Bearer first-key-11",
        "Bearer First-key-1", "Bearer # ours", "Bearer first-key-1 first-key-1"})
    EXPECT_FALSE(ring.find(text)) << text;
  EXPECT_FALSE(ring.find("Bearer " + std::string(1 << 20, 'a')));
  EXPECT_FALSE(ring.find(std::string("Bearer first-key-1\0x", 20)));
}

TEST_F(KeyRingTest, ABadFileIsRefusedByAMessageThatHoldsNoKey) {
  set("first-key-1\n");
  for (const char* text : {"", "# nothing\n", "good-key-1\nshort\n", "name:\n"}) {
    const Status status = KeyRing::read(file(text)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message().find("short"), std::string::npos) << status.message();
  }
  EXPECT_EQ(KeyRing::read("/nonexistent/keys").status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(ring.find("Bearer first-key-1"));
  set("other-key-2\n");
  EXPECT_FALSE(ring.find("Bearer first-key-1"));
}

}  // namespace
}  // namespace tandem::server

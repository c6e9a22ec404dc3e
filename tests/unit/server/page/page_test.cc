// The page in the binary is the page in the source tree, and it asks for nothing that is not there.
#include "server/page/page.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "base/file.h"

namespace tandem::server {
namespace {

const std::filesystem::path kFolder = TANDEM_SOURCE_DIR "/src/server/page";

std::map<std::string, PageFile> by_path() {
  std::map<std::string, PageFile> files;
  for (const PageFile& file : page_files()) files[std::string(file.path)] = file;
  return files;
}

TEST(Page, HoldsEveryFileByteForByte) {
  const auto files = by_path();
  EXPECT_EQ(files.size(), page_files().size()) << "a path twice";
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    const auto name = entry.path().filename().string();
    if (name == "page.h") continue;
    ++count;
    const auto found = files.find(name == "index.html" ? "/" : "/page/" + name);
    ASSERT_NE(found, files.end()) << name;
    EXPECT_EQ(found->second.bytes, read_file(entry.path(), 1 << 20).value()) << name;
  }
  EXPECT_EQ(files.size(), count);
}

TEST(Page, SaysWhatItsFilesAre) {
  const auto files = by_path();
  EXPECT_EQ(files.at("/").content_type, "text/html; charset=utf-8");
  EXPECT_EQ(files.at("/page/app.js").content_type, "text/javascript; charset=utf-8");
  EXPECT_EQ(files.at("/page/style.css").content_type, "text/css; charset=utf-8");
  EXPECT_EQ(files.at("/page/favicon.svg").content_type, "image/svg+xml");
}

TEST(Page, TagsTellContentsApart) {
  std::set<std::string_view> tags;
  for (const PageFile& file : page_files()) {
    EXPECT_TRUE(file.etag.size() > 2 && file.etag.front() == '"' && file.etag.back() == '"') << file.etag;
    EXPECT_EQ(file.etag.substr(1, file.etag.size() - 2).find_first_not_of("0123456789abcdef"), std::string_view::npos);
    tags.insert(file.etag);
  }
  EXPECT_EQ(tags.size(), page_files().size());
}

TEST(Page, ImportsAndLinksWhatIsThere) {
  const auto files = by_path();
  int links = 0;
  for (const PageFile& file : page_files()) {
    for (const std::string_view before : {" from './", "src=\"page/", "href=\"page/"}) {
      for (std::size_t at = file.bytes.find(before); at != std::string_view::npos;
           at = file.bytes.find(before, at + 1)) {
        const std::size_t begin = at + before.size();
        const std::size_t end = file.bytes.find_first_of("'\"", begin);
        EXPECT_TRUE(files.contains("/page/" + std::string(file.bytes.substr(begin, end - begin)))) << file.path;
        ++links;
      }
    }
    // The policy allows neither, so they would be dead on arrival.
    for (const std::string_view forbidden :
         {"innerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"})
      EXPECT_EQ(file.bytes.find(forbidden), std::string_view::npos) << file.path << " uses " << forbidden;
  }
  EXPECT_GT(links, 20);
}

}  // namespace
}  // namespace tandem::server

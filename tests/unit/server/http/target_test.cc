#include "server/http/target.h"

#include <gtest/gtest.h>

namespace tandem::server {
namespace {

constexpr std::size_t kBytesMax = 64;

int status_of(std::string_view method, std::string_view raw) {
  Target target;
  const auto refusal = parse_target(method, raw, kBytesMax, target);
  EXPECT_TRUE(!refusal || !refusal->reason.empty());
  return refusal ? refusal->status : 200;
}

TEST(Target, IsTakenApart) {
  struct Case {
    std::string_view raw, path, query, host;
  };
  const Case cases[] = {
      {"/", "/", "", ""},
      {"/a/b", "/a/b", "", ""},
      {"/a?b=c&d?e", "/a", "b=c&d?e", ""},
      {"/a?", "/a", "", ""},
      {"/?x", "/", "x", ""},
      {"//h/x", "//h/x", "", ""},
      {"/a%20b/%C3%A9", "/a%20b/%C3%A9", "", ""},
      {"/.../..a/a../.", "/.../..a/a../.", "", ""},
      {"/a?%zz&..\x7e", "/a", "%zz&..~", ""},
      {"http://h/x?y", "/x", "y", "h"},
      {"HTTP://h:80/x", "/x", "", "h:80"},
      {"https://h", "/", "", "h"},
      {"https://[::1]:8?y", "/", "y", "[::1]:8"},
  };
  for (const Case& c : cases) {
    Target target;
    EXPECT_FALSE(parse_target("GET", c.raw, kBytesMax, target)) << c.raw;
    EXPECT_EQ(target.path, c.path) << c.raw;
    EXPECT_EQ(target.query, c.query) << c.raw;
    EXPECT_EQ(target.host, c.host) << c.raw;
  }
}

TEST(Target, RefusesWhatOthersMayReadDifferently) {
  for (const std::string_view raw : {"",
                                     "a",
                                     "?a",
                                     "a/b",
                                     "h:80",
                                     "ftp://h/",
                                     "http:/x",
                                     "http://",
                                     "http:///x",
                                     "http://u@h/",
                                     "http://h:x/",
                                     "http://h:123456/",
                                     "http://h /",
                                     "/ ",
                                     "/\t",
                                     "/a\\b",
                                     "/a#b",
                                     "/%",
                                     "/%4",
                                     "/%4g",
                                     "/%00",
                                     "/a%00b",
                                     "/?%00",
                                     "/..",
                                     "/../",
                                     "/a/..",
                                     "/a/../b",
                                     "/a/%2e%2E/b",
                                     "/.%2e",
                                     "/%2E.",
                                     "/a%2f..%2fb",
                                     "/a%5c..",
                                     "/a/..%5Cb",
                                     "*",
                                     "/\x7f",
                                     "/\x80",
                                     "/caf\xc3\xa9",
                                     "/?\xff",
                                     "/?a b",
                                     "*/",
                                     "http://h/../x"})
    EXPECT_EQ(status_of("GET", raw), 400) << raw;
  EXPECT_EQ(status_of("GET", std::string_view("/\0", 2)), 400);
  EXPECT_EQ(status_of("GET", std::string_view("/?\0", 3)), 400);
  EXPECT_EQ(status_of("CONNECT", "h:80"), 501);
  EXPECT_EQ(status_of("CONNECT", "/"), 501);
  EXPECT_EQ(status_of("OPTIONS", "*"), 200);
}

TEST(Target, IsBounded) {
  EXPECT_EQ(status_of("GET", "/" + std::string(kBytesMax - 1, 'a')), 200);
  EXPECT_EQ(status_of("GET", "/" + std::string(kBytesMax, 'a')), 414);
}

TEST(Host, Forms) {
  for (const std::string_view host :
       {"h", "a.b-c_d~e", "127.0.0.1:8080", "localhost:", "[::1]", "[::ffff:1.2.3.4]:1", "xn--caf-dma.example:65535"})
    EXPECT_TRUE(is_host(host)) << host;
  for (const std::string_view host : {"", ":80", "a b", "a,b", "a/b", "a@b", "a?b", "[::1", "[]", "[:]", "[g::]",
                                      "[::1]x", "h:8x", "h:123456", "caf\xc3\xa9", "h\n", "h%41"})
    EXPECT_FALSE(is_host(host)) << host;
  EXPECT_TRUE(is_host(std::string(255, 'a')));
  EXPECT_FALSE(is_host(std::string(256, 'a')));
}

}  // namespace
}  // namespace tandem::server

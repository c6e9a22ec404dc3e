// What HTTP/1.1 refuses, and that how bytes are split never matters.
#include <gtest/gtest.h>

#include <random>

#include "unit/server/http/recorder.h"

namespace tandem::server {
namespace {

std::string get(std::string_view headers, std::string_view line = "GET / HTTP/1.1") {
  return std::string(line) + "\r\n" + std::string(headers) + "\r\n";
}
std::string post(std::string_view headers, std::string_view body = "") {
  return get("Host: h\r\n" + std::string(headers), "POST / HTTP/1.1") + std::string(body);
}

// What a connection makes of `bytes`, fed in pieces that end at `cuts`.
std::vector<std::string> events_of(std::string_view bytes, const std::vector<std::size_t>& cuts,
                                   ConnectionLimits limits = {}) {
  Peer peer(Protocol::kDetect, limits);
  std::size_t begin = 0;
  for (const std::size_t cut : cuts) {
    peer.feed(bytes.substr(begin, cut - begin));
    begin = cut;
  }
  peer.feed(bytes.substr(begin));
  std::vector<std::string> log = peer.recorder.log;
  for (const Recorder::Request& request : peer.recorder.requests) {
    std::string line = request.head.method + "|" + request.head.path + "|" + request.head.query + "|" +
                       request.head.host + "|" + request.body;
    for (const Header& header : request.head.headers) line += "|" + header.name + "=" + header.value;
    log.push_back(line);
  }
  log.push_back(peer.connection->wants_input() ? "open" : "shut");
  while (!peer.recorder.open.empty()) peer.respond(*peer.recorder.open.begin(), 200, "x");
  log.push_back(peer.pull());
  return log;
}

// The status refused with, or 200.
int status_of(std::string_view bytes, ConnectionLimits limits = {}) {
  const std::vector<std::string> whole = events_of(bytes, {}, limits);
  std::vector<std::size_t> every(bytes.size());
  for (std::size_t i = 0; i < every.size(); ++i) every[i] = i;
  EXPECT_EQ(events_of(bytes, every, limits), whole) << bytes.substr(0, 200);
  std::mt19937 random(7);
  for (int i = 0; i < 3 && !bytes.empty(); ++i) {
    std::vector<std::size_t> cuts;
    for (std::size_t at = 0; at < bytes.size(); at += 1 + random() % 40) cuts.push_back(at);
    EXPECT_EQ(events_of(bytes, cuts, limits), whole) << bytes.substr(0, 200);
  }
  for (const std::string& line : whole) {
    if (line.starts_with("refuse ")) return std::stoi(line.substr(7));
    if (line.starts_with("request ")) return 200;
  }
  return 0;
}

TEST(Http1Head, GoodOnes) {
  for (const std::string& bytes : {
           get("Host: h\r\n"),
           "\r\n" + get("Host: h\r\n"),
           get("hOsT:h\r\n"),
           get("Host: \t h \t \r\n"),
           get("Host: h\r\n", "GET http://x/ HTTP/1.1"),
           get("Host: h\r\n", "OPTIONS * HTTP/1.1"),
           get("Host: h\r\n", "BREW /pot HTTP/1.1"),
           get("", "GET / HTTP/1.0"),
           get("Host: h\r\nX: caf\xc3\xa9\r\n"),
           get("Host: h\r\nX:\r\n"),
           get("Host: h\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
           post("Content-Length: 0\r\n"),
           post("Content-Length: 003\r\n", "abc"),
           post("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
           post("Transfer-Encoding: chunked\r\n",
                "0003;a=b;c=\"d e\"\r\nabc\r\nA\r\n0123456789\r\n000\r\nX: y\r\n\r\n"),
           get("Host: h\r\nContent-Length: 3\r\n") + "abc",
           post("Expect: 100-continue\r\nContent-Length: 1\r\n", "a"),
           get("Expect: something\r\n", "GET / HTTP/1.0"),
       })
    EXPECT_EQ(status_of(bytes), 200) << bytes;
}

TEST(Http1Head, Refused) {
  struct Case {
    int status;
    std::string bytes;
  };
  const Case cases[] = {
      // Not HTTP at all.
      {400, "\x16\x03\x01\x02"},
      {400, " GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
      {400, "\n"},
      {400, "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"},
      {400, "\rGET"},
      {400, get("Host: h\r\n", "GET /")},
      {400, get("Host: h\r\n", "GET")},
      {400, get("Host: h\r\n", "GET  / HTTP/1.1")},
      {400, get("Host: h\r\n", "GET / HTTP/1.1 ")},
      {400, get("Host: h\r\n", "GET / HTTP/1.1 x")},
      {400, get("Host: h\r\n", "GET / HTTP/11")},
      {400, get("Host: h\r\n", "GET / http/1.1")},
      {400, get("Host: h\r\n", "G\tT / HTTP/1.1")},
      {400, get("Host: h\r\n", "G(T / HTTP/1.1")},
      {400, get("Host: h\r\n", std::string(33, 'G') + " / HTTP/1.1")},
      {400, "GET / HTTP/1.1\nHost: h\n\n"},
      {400, "GET / HTTP/1.1\r\nHost: h\n\r\n"},
      {400, "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\nHost: h\r\n\rX"},
      {505, get("Host: h\r\n", "GET / HTTP/1.2")},
      {505, get("Host: h\r\n", "GET / HTTP/2.0")},
      {505, get("Host: h\r\n", "GET / HTTP/0.9")},
      {505, "PRI * HTTP/2.0\r\n\r\nXX"},
      // Targets; target_test.cc has them all.
      {400, get("Host: h\r\n", "GET /\xff HTTP/1.1")},
      {400, get("Host: h\r\n", "GET /a/../b HTTP/1.1")},
      {400, get("Host: h\r\n", "GET /%00 HTTP/1.1")},
      {400, get("Host: h\r\n", "GET /\\ HTTP/1.1")},
      {400, get("Host: h\r\n", "GET * HTTP/1.1")},
      {400, get("Host: h\r\n", "GET x HTTP/1.1")},
      {501, get("Host: h\r\n", "CONNECT h:80 HTTP/1.1")},
      // Host.
      {400, get("")},
      {400, get("X: y\r\n")},
      {400, get("Host:\r\n")},
      {400, get("Host: a b\r\n")},
      {400, get("Host: h\r\nHost: h\r\n")},
      {400, get("Host: h, g\r\n")},
      {400, get("Host: h/\r\n", "GET http://x/ HTTP/1.1")},
      // Lines.
      {400, get("Host : h\r\n")},
      {400, get(" Host: h\r\n")},
      {400, get("Host: h\r\n X: folded\r\n")},
      {400, get("Host: h\r\nX: y\r\n\tfolded\r\n")},
      {400, get("Host: h\r\nX\r\n")},
      {400, get("Host: h\r\n: y\r\n")},
      {400, get("Host: h\r\nX: a\x01z\r\n")},
      {400, get("Host: h\r\nX: a\x7fz\r\n")},
      {400, get("Host: h\r\nX: a\rz\r\n")},
      {400, get(std::string("Host: h\r\nX: a\0z\r\n", 17))},
      {400, get("Host: h\r\nX@: a\r\n")},
      // Framing.
      {400, post("Content-Length: 5, 5\r\n", "hello")},
      {400, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")},
      {400, post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")},
      {400, post("Content-Length: +5\r\n", "hello")},
      {400, post("Content-Length: -5\r\n", "hello")},
      {400, post("Content-Length: 0x5\r\n", "hello")},
      {400, post("Content-Length: 5 5\r\n", "hello")},
      {400, post("Content-Length:\r\n", "hello")},
      {400, post("Content-Length: 18446744073709551616\r\n", "hello")},
      {400, post("Content-Length: 9999999999999999999\r\n", "hello")},
      {413, post("Content-Length: 10737418240\r\n", "hello")},
      {413, post("Content-Length: 999999999999999999\r\n", "hello")},
      {400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")},
      {400, post("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello")},
      {501, post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")},
      {501, post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")},
      {501, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")},
      {501, post("Transfer-Encoding: identity\r\n", "0\r\n\r\n")},
      {501, post("Transfer-Encoding:\r\n", "0\r\n\r\n")},
      {501, post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
      {400, get("Transfer-Encoding: chunked\r\n", "POST / HTTP/1.0") + "0\r\n\r\n"},
      {417, post("Expect: 200-ok\r\nContent-Length: 1\r\n", "a")},
      {417, post("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n", "a")},
      // Chunks.
      {400, post("Transfer-Encoding: chunked\r\n", "x")},
      {400, post("Transfer-Encoding: chunked\r\n", "\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", " 1\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "-1\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "1 ;a\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "1\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "1\r\nab")},
      {400, post("Transfer-Encoding: chunked\r\n", "1\r\na\rb")},
      {400, post("Transfer-Encoding: chunked\r\n", "1;\x01\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "1;\n\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "0\r\n folded")},
      {400, post("Transfer-Encoding: chunked\r\n", "0\r\nX: y\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "0\r\n\rX")},
      {413, post("Transfer-Encoding: chunked\r\n", "fffffffff\r\n")},
      {400, post("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n")},
  };
  for (const Case& c : cases) EXPECT_EQ(status_of(c.bytes), c.status) << c.bytes;
}

TEST(Http1Head, EveryRefusalEndsTheConnection) {
  for (const std::string& bytes : {get(""), post("Content-Length: 5, 5\r\n", "hello"),
                                   post("Transfer-Encoding: gzip\r\n"), get("Host: h\r\n", "GET / HTTP/2.0")}) {
    Peer peer;
    peer.feed(bytes + get("Host: h\r\n"));  // what may have been smuggled is not looked at
    EXPECT_EQ(peer.recorder.log.size(), 1u) << bytes;
    const std::string answer = peer.pull();
    EXPECT_NE(answer.find("connection: close\r\n"), std::string::npos) << answer;
    peer.connection->feed_end(peer.now);
    EXPECT_TRUE(peer.connection->finished());
  }
}

TEST(Http1Head, Limits) {
  ConnectionLimits limits;
  limits.target_bytes_max = 50;
  limits.header_bytes_max = 300;
  limits.headers_max = 10;
  limits.body_bytes_max = 20;
  limits.chunk_overhead_max = 30;
  const auto target = [](std::size_t bytes) {
    return get("Host: h\r\n", "GET /" + std::string(bytes - 1, 'a') + " HTTP/1.1");
  };
  EXPECT_EQ(status_of(target(50), limits), 200);
  EXPECT_EQ(status_of(target(51), limits), 414);
  const auto headers = [](int count) {
    std::string all = "Host: h\r\n";
    for (int i = 1; i < count; ++i) all += "a: b\r\n";
    return get(all);
  };
  EXPECT_EQ(status_of(headers(10), limits), 200);
  EXPECT_EQ(status_of(headers(11), limits), 431);
  const auto header_bytes = [](std::size_t bytes) {
    return get("Host: h\r\nx: " + std::string(bytes - 6, 'y') + "\r\n");
  };
  EXPECT_EQ(status_of(header_bytes(300), limits), 200);
  EXPECT_EQ(status_of(header_bytes(301), limits), 431);
  EXPECT_EQ(status_of(header_bytes(100'000), limits), 431);
  EXPECT_EQ(status_of("GET /" + std::string(1 << 20, 'a'), limits), 414);
  EXPECT_EQ(status_of(get("Host: h\r\n" + std::string(1 << 20, 'a')), limits), 431);
  EXPECT_EQ(status_of(post("Content-Length: 20\r\n", std::string(20, 'a')), limits), 200);
  EXPECT_EQ(status_of(post("Content-Length: 21\r\n"), limits), 413);
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  EXPECT_EQ(status_of(post(chunked, "14\r\n01234567890123456789\r\n0\r\n\r\n"), limits), 200);
  EXPECT_EQ(status_of(post(chunked, "15\r\n"), limits), 413);
  EXPECT_EQ(status_of(post(chunked, "a\r\n0123456789\r\nb\r\n"), limits), 413);
  EXPECT_EQ(status_of(post(chunked, "a\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), limits), 200);
  // 30 bytes that are not body, and then one more.
  EXPECT_EQ(status_of(post(chunked, "0;" + std::string(24, 'x') + "\r\n\r\n"), limits), 200);
  EXPECT_EQ(status_of(post(chunked, "0;" + std::string(25, 'x') + "\r\n\r\n"), limits), 400);
  EXPECT_EQ(status_of(post(chunked, "0\r\n" + std::string(23, 'x') + "\r\n\r\n"), limits), 200);
  EXPECT_EQ(status_of(post(chunked, "0\r\n" + std::string(24, 'x') + "\r\n\r\n"), limits), 400);
}

TEST(Http1Head, ChunksOfOneByteAreBounded) {
  Peer peer;
  peer.feed(post("Transfer-Encoding: chunked\r\n"));
  const std::string chunk = "1\r\na\r\n";
  std::string megabyte;
  while (megabyte.size() < 1'000'000) megabyte += chunk;
  for (int i = 0; i < 6; ++i) peer.feed(megabyte);  // a million chunks
  EXPECT_EQ(peer.recorder.refusals, std::vector<int>{400});
  EXPECT_FALSE(peer.connection->wants_input());
  EXPECT_EQ(peer.budget.left(), peer.budget_bytes_);
  // A quarter of overhead is fine however long the body.
  Peer other;
  other.feed(post("Transfer-Encoding: chunked\r\n"));
  for (int i = 0; i < 100'000; ++i) other.feed("1e\r\n012345678901234567890123456789\r\n");
  other.feed("0\r\n\r\n");
  ASSERT_EQ(other.recorder.requests.size(), 1u);
  EXPECT_EQ(other.recorder.requests[0].body.size(), 3'000'000u);
  other.respond(1, 200, "");
}

}  // namespace
}  // namespace tandem::server

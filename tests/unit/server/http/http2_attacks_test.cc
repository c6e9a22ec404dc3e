// Correct and incorrect frames in numbers: each flood of 20,000 ends in GOAWAY, or in nothing that costs anything.
#include <gtest/gtest.h>

#include <functional>

#include "server/http/http2_connection.h"
#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

constexpr int kRepeats = 20'000;

struct Outcome {
  int repeats = 0;  // until the connection ended; kRepeats if it never did
  std::size_t out_bytes = 0;
  int requests = 0, cancelled = 0, open_max = 0;
  std::string last;  // what was sent at the end
  bool calmed() const {
    return last.find(std::string(1, '\x07')) != std::string::npos &&
           last.find(number32(NGHTTP2_ENHANCE_YOUR_CALM)) != std::string::npos;
  }
};

// Feeds `repeat`(0), `repeat`(1)... to a fresh connection, `pace_ns` apart; the peer reads everything.
Outcome flood(const std::function<std::string(std::uint32_t)>& repeat, std::int64_t pace_ns = 0,
              const std::string& before = "", int batch = 1) {
  ConnectionLimits limits;  // only floods end it
  limits.requests_max = 10 * kRepeats;
  limits.body_timeout_ns = limits.idle_timeout_ns = 1'000'000 * kSecondNs;
  Peer server(Protocol::kHttp2, limits);
  Http2Client client;
  server.feed(client.pull() + before);
  server.pull();
  Outcome outcome;
  while (outcome.repeats < kRepeats && !server.connection->finished()) {
    std::string bytes;
    for (int i = 0; i < batch; ++i) bytes += repeat(static_cast<std::uint32_t>(outcome.repeats++));
    server.feed(bytes);
    outcome.open_max = std::max(outcome.open_max, server.connection->requests_open());
    outcome.last = server.pull();
    outcome.out_bytes += outcome.last.size();
    server.pass(pace_ns);
  }
  outcome.requests = static_cast<int>(server.recorder.requests.size());
  outcome.cancelled = static_cast<int>(server.recorder.cancelled.size());
  EXPECT_TRUE(!server.connection->finished() || server.recorder.open.empty());
  server.connection->fail();
  return outcome;
}

std::string get(std::uint32_t i) { return frame(kHeaders, kEndStream | kEndHeaders, 2 * i + 1, simple_head()); }
std::string post(std::uint32_t i, const std::string& more = "") {
  return frame(kHeaders, kEndHeaders, 2 * i + 1, simple_head("POST") + more);
}

TEST(Http2Attacks, RapidReset) {
  const auto repeat = [](std::uint32_t i) { return get(i) + frame(kReset, 0, 2 * i + 1, number32(8)); };
  for (const int batch : {1, 100}) {
    const Outcome outcome = flood(repeat, 0, "", batch);
    EXPECT_TRUE(outcome.calmed());
    EXPECT_LE(outcome.requests, 201);
    EXPECT_EQ(outcome.cancelled, outcome.requests) << "each at once";
    EXPECT_LE(outcome.open_max, 1);
  }
  // At 20 a second, as long as one likes.
  EXPECT_EQ(flood(repeat, kSecondNs / 20).repeats, kRepeats);
  const Outcome faster = flood(repeat, kSecondNs / 25);
  EXPECT_TRUE(faster.calmed());
  EXPECT_NEAR(faster.repeats, 1000, 10) << "200 at once and 20 of 25 a second";
}

// The peer never resets anything: it makes the server do so.
TEST(Http2Attacks, MadeYouReset) {
  const auto window = [](std::uint32_t i) { return get(i) + frame(kWindowUpdate, 0, 2 * i + 1, number32(0x7fffffff)); };
  const Outcome overflow = flood(window);
  EXPECT_TRUE(overflow.calmed());
  EXPECT_EQ(overflow.repeats, 201) << "the GOAWAY follows the reset that was one too many";
  EXPECT_EQ(overflow.cancelled, overflow.requests) << "cancelled before our reset is sent";
  EXPECT_LE(overflow.open_max, 1);
  EXPECT_LE(flood(window, 0, "", 90).open_max, 1);

  const std::pair<const char*, std::function<std::string(std::uint32_t)>> others[] = {
      {"content-length below the body",
       [](std::uint32_t i) {
         return post(i, literal("content-length", "5")) + frame(kData, 0, 2 * i + 1, std::string(20, 'x'));
       }},
      {"content-length above the body",
       [](std::uint32_t i) {
         return post(i, literal("content-length", "5")) + frame(kData, kEndStream, 2 * i + 1, "abc");
       }},
      {"trailers without an end",
       [](std::uint32_t i) { return post(i) + frame(kHeaders, kEndHeaders, 2 * i + 1, literal("x", "y")); }},
      {"pseudo-headers in trailers",
       [](std::uint32_t i) {
         return post(i) + frame(kHeaders, kEndHeaders | kEndStream, 2 * i + 1, literal(":path", "/"));
       }},
      {"malformed heads",
       [](std::uint32_t i) { return frame(kHeaders, kEndStream | kEndHeaders, 2 * i + 1, literal("x", "y")); }},
      {"invalid header values",
       [](std::uint32_t i) {
         return frame(kHeaders, kEndStream | kEndHeaders, 2 * i + 1, simple_head() + literal("x", "\n"));
       }},
  };
  for (const auto& [name, repeat] : others) {
    const Outcome outcome = flood(repeat);
    EXPECT_TRUE(outcome.calmed()) << name;
    EXPECT_LE(outcome.repeats, 202) << name;
    EXPECT_EQ(outcome.requests, 0) << name;
  }
}

TEST(Http2Attacks, BodiesSentAgainstOurWord) {
  // Every request is answered with 413, and the peer sends on until it is asked to stop. That costs it 64 KiB each, and
  // us nothing: the connection, with others' streams on it, lives.
  const Outcome outcome = flood([](std::uint32_t i) {
    std::string bytes;
    if (i % 7 == 0) bytes = post(i / 7, literal("content-length", "999999999"));
    return bytes + frame(kData, 0, 2 * (i / 7) + 1, std::string(16'000, 'x'));
  });
  EXPECT_EQ(outcome.repeats, kRepeats);
  EXPECT_EQ(outcome.requests, 0);
  EXPECT_LE(outcome.out_bytes, 2'000'000u);
  // Promised bodies that never come hold their streams, of which there are so many and no more.
  const Outcome promises = flood([](std::uint32_t i) { return post(i, literal("content-length", "999999999")); });
  EXPECT_TRUE(promises.calmed());
  EXPECT_LE(promises.repeats, 302);
}

TEST(Http2Attacks, ControlFrames) {
  const std::string open = post(0);
  const std::pair<const char*, std::string> floods[] = {
      {"PING", frame(kPing, 0, 0, "12345678")},
      {"PING ACK", frame(kPing, 1, 0, "12345678")},
      {"SETTINGS", frame(kSettings, 0, 0, "")},
      {"SETTINGS with a value", frame(kSettings, 0, 0, std::string("\0\3\0\0\0\x64", 6))},
      {"PRIORITY", frame(kPriority, 0, 3, number32(0) + "\x10")},
      {"unknown frames", frame(0x77, 0, 0, "x")},
      {"empty unknown frames", frame(0x77, 0, 1, "")},
      {"PRIORITY_UPDATE", frame(0x10, 0, 0, number32(1) + "u=1")},
      {"empty DATA", frame(kData, 0, 1, "")},
      {"DATA of nothing but padding", frame(kData, kPadded, 1, std::string(5, '\4').replace(1, 4, 4, '\0'))},
      {"WINDOW_UPDATE of the stream", frame(kWindowUpdate, 0, 1, number32(1))},
      {"WINDOW_UPDATE of the connection", frame(kWindowUpdate, 0, 0, number32(1))},
  };
  for (const auto& entry : floods) {
    const char* const name = entry.first;
    const std::string& bytes = entry.second;
    for (const int batch : {1, 250}) {
      const Outcome outcome = flood([&](std::uint32_t) { return bytes; }, 0, open, batch);
      EXPECT_TRUE(outcome.calmed()) << name;
      EXPECT_LE(outcome.repeats, 501 + batch) << name;
      EXPECT_GE(outcome.repeats, 490) << name;
      EXPECT_LE(outcome.out_bytes, 501u * 17 + 1000) << name;
    }
    const Outcome slow = flood([&](std::uint32_t) { return bytes; }, kSecondNs / 50, open);
    EXPECT_EQ(slow.repeats, kRepeats) << name;
  }
}

TEST(Http2Attacks, FloodsThatNghttp2EndsByItself) {
  const std::pair<const char*, std::string> floods[] = {
      {"WINDOW_UPDATE of zero", frame(kWindowUpdate, 0, 1, number32(0))},
      {"PUSH_PROMISE", frame(5, kEndHeaders, 1, number32(2) + simple_head())},
      {"DATA on stream 0", frame(kData, 0, 0, "x")},
      {"DATA on an idle stream", frame(kData, 0, 99, "x")},
      {"an even stream", frame(kHeaders, kEndHeaders | kEndStream, 2, simple_head())},
      {"a frame that is too large", frame(kData, 0, 1, std::string(16'385, 'x'))},
      {"a PING of the wrong size", frame(kPing, 0, 0, "1")},
      {"a broken header block", frame(kHeaders, kEndHeaders | kEndStream, 3, "\xff\xff\xff\xff\xff\xff")},
      {"a header of 70,000 bytes",
       frame(kHeaders, 0, 3, std::string("\0\1x\x7f\xf1\xa1\4", 7) + std::string(16'000, 'y')) +
           frame(kContinuation, 0, 3, std::string(16'000, 'y')) + frame(kContinuation, 0, 3, std::string(16'000, 'y')) +
           frame(kContinuation, 0, 3, std::string(16'000, 'y')) + frame(kContinuation, 0, 3, std::string(16'000, 'y'))},
      {"CONTINUATION without HEADERS", frame(kContinuation, kEndHeaders, 1, "")},
  };
  for (const auto& entry : floods) {
    const char* const name = entry.first;
    const std::string& bytes = entry.second;
    const Outcome outcome = flood([&](std::uint32_t) { return bytes; }, 0, post(0));
    EXPECT_LE(outcome.repeats, 2) << name;
    EXPECT_EQ(outcome.requests, 0) << name;
  }
  const Outcome endless = flood([](std::uint32_t i) {
    return i == 0 ? frame(kHeaders, 0, 1, simple_head()) : frame(kContinuation, 0, 1, literal("x", "y"));
  });
  EXPECT_LE(endless.repeats, 11);
  const Outcome after_end = flood([](std::uint32_t i) { return i == 0 ? get(0) : frame(kData, 0, 1, "x"); });
  EXPECT_LE(after_end.repeats, 3);
  EXPECT_EQ(after_end.cancelled, 1);
}

TEST(Http2Attacks, HpackBomb) {
  // A header of 4,000 bytes into the table, then named by one byte each: 16,000 headers of 4,000 bytes a frame.
  std::string block = simple_head() + std::string("\x40\1x\x7f\xa1\x1e", 6) + std::string(4000, 'y');
  block += std::string(12'000, '\xbe');
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull());
  for (std::uint32_t i = 0; i < 50; ++i) {
    server.feed(frame(kHeaders, kEndStream | kEndHeaders, 2 * i + 1, block));
    if (i == 0) block = simple_head() + std::string(12'000, '\xbe');
  }
  EXPECT_EQ(server.recorder.refusals, std::vector<int>(50, 431));
  EXPECT_TRUE(server.recorder.requests.empty());
}

TEST(Http2Attacks, MoreStreamsThanAllowed) {
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull());
  for (std::uint32_t i = 0; i < 1000; ++i) server.feed(get(i));
  EXPECT_LE(server.connection->requests_open(), 100);
  std::string out = server.pull();
  server.connection->fail();
}

TEST(Http2Attacks, APeerThatDoesNotReadOurAnswers) {
  // Every PING queues an answer; nobody pulls. What waits stays small, and reading stops.
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull());
  int fed = 0;
  while (server.connection->wants_input() && fed < 1'000'000) {
    server.feed(frame(kPing, 0, 0, "12345678"));
    server.now.ns += kSecondNs / 50;
    ++fed;
  }
  EXPECT_LE(fed, 1001);
  EXPECT_LE(server.pull().size(), 20'000u);
}

TEST(Http2Attacks, ManySmallStreamsOfData) {
  // A body in pieces of one byte is slow but allowed; it costs what the peer pays.
  Peer server(Protocol::kHttp2);
  Http2Client client;
  client.talk(server);
  server.feed(post(0));
  const std::string one = frame(kData, 0, 1, "x");
  for (int i = 0; i < 100'000; ++i) server.feed(one);
  server.feed(frame(kData, kEndStream, 1, ""));
  ASSERT_EQ(server.recorder.requests.size(), 1u);
  EXPECT_EQ(server.recorder.requests[0].body.size(), 100'000u);
  EXPECT_LE(server.pull().size(), 1000u);
  server.connection->fail();
}

TEST(Http2Attacks, AWindowUpdateForEachFrameIsFine) {
  // Clients that give back every DATA frame's bytes, to the stream and to the connection.
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull() + get(0));
  server.begin(1);
  for (int i = 0; i < kRepeats; ++i) {
    server.send(1, "x");
    server.pull();
    server.feed(frame(kWindowUpdate, 0, 0, number32(1)) + frame(kWindowUpdate, 0, 1, number32(1)));
  }
  EXPECT_FALSE(server.connection->finished());
  server.connection->fail();
}

}  // namespace
}  // namespace tandem::server

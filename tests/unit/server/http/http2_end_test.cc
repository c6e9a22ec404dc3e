// How HTTP/2 streams and connections end early, and that how bytes are split never matters.
#include <gtest/gtest.h>

#include <random>

#include "server/http/http2_connection.h"
#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

struct Pair {
  explicit Pair(ConnectionLimits limits = {}) : server(Protocol::kHttp2, limits) {}
  void talk() { client.talk(server); }
  Peer server;
  Http2Client client;
};

TEST(Http2End, AbortIsSeenByThePeer) {
  Pair pair;
  const auto id = pair.client.request("GET", "/");
  pair.talk();
  pair.server.begin(id);
  pair.server.send(id, "abc");
  pair.talk();
  pair.server.send(id, "lost");
  pair.server.abort(id);
  EXPECT_EQ(pair.server.connection->backlog(StreamId(id)), 0u);
  pair.talk();
  EXPECT_EQ(pair.client.answers[id].body, "abc");
  EXPECT_FALSE(pair.client.answers[id].ended);
  EXPECT_TRUE(pair.client.answers[id].closed);
  EXPECT_EQ(pair.client.answers[id].error, static_cast<std::uint32_t>(NGHTTP2_INTERNAL_ERROR));
  EXPECT_TRUE(pair.server.recorder.cancelled.empty());
  EXPECT_FALSE(pair.server.connection->finished());
  EXPECT_EQ(pair.server.connection->requests_open(), 0);
}

TEST(Http2End, OurOwnAbortsAreNotHeldAgainstThePeer) {
  Pair pair;
  for (int round = 0; round < 10; ++round) {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 100; ++i) ids.push_back(pair.client.request("GET", "/"));
    pair.talk();
    for (const auto id : ids) pair.server.abort(id);
    pair.talk();
  }
  EXPECT_FALSE(pair.server.connection->finished());
  EXPECT_TRUE(pair.client.goaways.empty());
}

TEST(Http2End, DrainsGracefully) {
  Pair pair;
  const auto first = pair.client.request("GET", "/");
  pair.talk();
  pair.server.connection->drain();
  const std::string notice = pair.server.pull();
  const auto crossing = pair.client.request("GET", "/");  // sent before the notice was seen
  pair.server.feed(pair.client.pull());
  pair.client.feed(notice);
  ASSERT_EQ(pair.client.goaways.size(), 1u);
  EXPECT_EQ(pair.client.goaways[0], (std::pair<std::uint32_t, std::int32_t>(0, 0x7fffffff)));
  pair.talk();  // the PING comes back: the last word
  ASSERT_EQ(pair.client.goaways.size(), 2u);
  EXPECT_EQ(pair.client.goaways[1], (std::pair<std::uint32_t, std::int32_t>(0, crossing)));
  EXPECT_FALSE(pair.server.connection->finished());
  pair.server.respond(first, 200, "one");
  pair.talk();
  EXPECT_FALSE(pair.server.connection->finished());
  // What comes after the last word is not taken.
  pair.server.feed(frame(kHeaders, kEndStream | kEndHeaders, static_cast<std::uint32_t>(crossing) + 2, simple_head()));
  EXPECT_EQ(pair.server.recorder.requests.size(), 2u);
  pair.server.respond(crossing, 200, "two");
  pair.talk();
  EXPECT_EQ(pair.client.answers[crossing].body, "two");
  EXPECT_TRUE(pair.server.connection->finished());
}

TEST(Http2End, TheLastOfTheRequestsDrainsTheConnection) {
  ConnectionLimits limits;
  limits.requests_max = 3;
  Pair pair(limits);
  pair.server.recorder.on_whole = [&](StreamId stream, const Recorder::Request&) {
    pair.server.respond(stream.value(), 204, "");
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(pair.server.connection->finished());
    pair.client.request("GET", "/");
    pair.talk();
  }
  EXPECT_TRUE(pair.server.connection->finished());
  EXPECT_EQ(pair.client.answers[5].statuses, std::vector<int>{204});
}

TEST(Http2End, TheEndOfTheTransportCancelsEverything) {
  for (const bool failed : {false, true}) {
    Pair pair;
    const auto first = pair.client.request("GET", "/"), second = pair.client.request("POST", "/", nullptr, {}, false);
    pair.client.upload(second, "abc", false);
    pair.talk();
    EXPECT_EQ(pair.server.budget.left(), pair.server.budget_bytes_ - 3);
    if (failed) {
      pair.server.connection->fail();
    } else {
      pair.server.connection->feed_end(pair.server.now);
    }
    EXPECT_EQ(pair.server.recorder.cancelled, std::vector<std::int64_t>{first});
    EXPECT_TRUE(pair.server.connection->finished());
    EXPECT_EQ(pair.server.budget.left(), pair.server.budget_bytes_);
    EXPECT_EQ(pair.server.pull(), "");
  }
}

TEST(Http2End, WhatOwnersMayDoInEvents) {
  // Each event's handler fails the connection; nothing happens afterwards.
  for (int which = 0; which < 4; ++which) {
    Pair pair;
    Recorder& recorder = pair.server.recorder;
    const auto fail = [&] { pair.server.connection->fail(); };
    if (which == 0) {
      recorder.head_answer = [&](StreamId, const RequestHead&) {
        fail();
        return std::optional<Response>(Response{{200, {}}, "x"});
      };
    }
    if (which == 1) recorder.on_whole = [&](StreamId, const Recorder::Request&) { fail(); };
    if (which == 2) recorder.on_cancelled = [&](StreamId) { fail(); };
    const auto first = pair.client.request("GET", "/");
    pair.client.request("GET", "/");
    pair.talk();
    if (which == 2) {
      pair.client.reset(first);
      pair.server.feed(pair.client.pull());
    }
    if (which == 3) pair.server.connection->fail();
    EXPECT_TRUE(pair.server.connection->finished());
    EXPECT_TRUE(recorder.open.empty());
    EXPECT_EQ(pair.server.pull(), "");
  }
}

// A session with a bit of everything, as the server's peer sends it.
std::string some_session() {
  Http2Client client;
  const std::string body(3000, 'x');
  client.request("GET", "/a?b");
  client.request("POST", "/post", &body, {{"content-length", "3000"}});
  client.request("GET", "/../x");
  std::string bytes = client.pull();
  bytes += frame(kPing, 0, 0, "12345678") + frame(kSettings, 0, 0, std::string("\0\4\0\1\0\0", 6));
  bytes += frame(kHeaders, kEndStream, 7, simple_head()) + frame(kContinuation, 0, 7, "") +
           frame(kContinuation, kEndHeaders, 7, literal("x", "y"));
  bytes += frame(kHeaders, kEndHeaders, 9, simple_head("POST")) + frame(kData, kPadded, 9, std::string("\2ab\0\0", 5)) +
           frame(kData, 0, 9, "") + frame(kHeaders, kEndHeaders | kEndStream, 9, literal("t", "u"));
  bytes +=
      frame(kReset, 0, 7, number32(8)) + frame(kWindowUpdate, 0, 9, number32(0x7fffffff)) + frame(0x42, 0, 0, "???");
  bytes += frame(kHeaders, kEndHeaders | kEndStream, 11, literal("x", "y"));
  return bytes + frame(kHeaders, kEndHeaders | kEndStream, 13, simple_head());
}

TEST(Http2End, AnySplitOfTheBytes) {
  const std::string bytes = some_session();
  std::mt19937 random(3);
  std::vector<std::string> whole_log;
  std::string whole_sent;
  for (int round = 0; round < 100; ++round) {
    Peer server(round % 2 == 0 ? Protocol::kHttp2 : Protocol::kDetect);
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t count = round == 0 ? bytes.size() : round <= 2 ? 1 : 1 + random() % (round * 5u);
      server.feed(std::string_view(bytes).substr(at, count));
      at += count;
    }
    std::vector<std::string> log = server.recorder.log;
    for (const Recorder::Request& request : server.recorder.requests) log.push_back(request.head.path + request.body);
    const std::string sent = server.pull();
    if (round == 0) {
      whole_log = log;
      whole_sent = sent;
      EXPECT_EQ(server.recorder.requests.size(), 5u);
      EXPECT_EQ(server.recorder.cancelled, (std::vector<std::int64_t>{7, 9}));
      EXPECT_EQ(server.recorder.refusals, std::vector<int>{400});
    }
    EXPECT_EQ(log, whole_log) << round;
    EXPECT_EQ(sent, whole_sent) << round;
    server.connection->fail();
  }
}

TEST(Http2End, ThePeerMayVanishAtAnyByte) {
  const std::string bytes = some_session();
  for (std::size_t length = 0; length <= bytes.size(); length += length < 200 || length + 300 > bytes.size() ? 1 : 13) {
    Peer server(Protocol::kDetect);
    server.feed(bytes.substr(0, length));
    if (length % 2 == 0) server.pull();
    if (length % 3 == 0) {
      server.connection->fail();
    } else {
      server.connection->feed_end(server.now);
    }
    EXPECT_TRUE(server.recorder.open.empty());
    EXPECT_TRUE(server.connection->finished());
    EXPECT_EQ(server.budget.left(), server.budget_bytes_);
  }
}

}  // namespace
}  // namespace tandem::server

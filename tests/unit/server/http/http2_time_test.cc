// Every deadline of HTTP/2, to the nanosecond.
#include <gtest/gtest.h>

#include "server/http/http2_connection.h"
#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

// Nothing happens before `ns` from now, and then something does: `ended` turns true.
template <class Ended>
void expect_due(Peer& peer, std::int64_t ns, Ended ended) {
  EXPECT_EQ(peer.connection->deadline().ns, peer.now.ns + ns);
  peer.now.ns += ns - 1;
  peer.connection->on_time(peer.now);
  EXPECT_FALSE(ended());
  peer.now.ns += 1;
  peer.connection->on_time(peer.now);
  EXPECT_TRUE(ended());
}

struct Pair {
  explicit Pair(int window_bytes = 1 << 20, bool auto_window = true)
      : server(Protocol::kHttp2), client(window_bytes, auto_window) {
    talk();
  }
  void talk() { client.talk(server); }
  bool ended() {
    talk();
    return server.connection->finished();
  }
  Peer server;
  Http2Client client;
};

TEST(Http2Time, Idle) {
  Pair pair;
  expect_due(pair.server, pair.server.limits.idle_timeout_ns, [&] { return pair.ended(); });
  EXPECT_EQ(pair.client.goaways, (std::vector<std::pair<std::uint32_t, std::int32_t>>{{0, 0}}));

  Pair busy;  // idle since the last stream closed
  const auto id = busy.client.request("GET", "/");
  busy.talk();
  busy.server.pass(1000 * kSecondNs);
  busy.server.respond(id, 200, "");
  busy.talk();
  expect_due(busy.server, busy.server.limits.idle_timeout_ns, [&] { return busy.ended(); });
}

TEST(Http2Time, HalfAFrame) {
  Http2Client client;
  const std::string start = client.pull();
  const std::string head =
      frame(kHeaders, kEndStream, 1, simple_head()) + frame(kContinuation, kEndHeaders, 1, literal("x", "y"));
  const std::string ping = frame(kPing, 0, 0, "12345678");
  for (const std::string& bytes : {start, head, ping}) {
    for (std::size_t half = 1; half < bytes.size(); ++half) {
      if (bytes == start && half >= 24 + 9) break;
      if (bytes == start && half == 24) continue;
      Peer server(Protocol::kHttp2);
      server.pull();
      if (bytes != start) server.feed(start);
      server.pull();
      server.pass(5 * kSecondNs);
      const std::int64_t begin_ns = server.now.ns;
      for (std::size_t i = 0; i < half; ++i) {
        server.feed(bytes.substr(i, 1));
        server.pass(half == 1 ? 0 : kSecondNs / 100);
      }
      server.pull();
      if (bytes == start && half > 24) {
        EXPECT_GT(server.connection->deadline().ns, begin_ns + server.limits.head_timeout_ns);
        continue;
      }
      expect_due(server, begin_ns + server.limits.head_timeout_ns - server.now.ns, [&] {
        const std::string out = server.pull();
        return out.find(frame(kGoaway, 0, 0, number32(0) + number32(NGHTTP2_ENHANCE_YOUR_CALM))) != std::string::npos ||
               server.connection->finished();
      });
      EXPECT_TRUE(server.connection->finished()) << half << " of " << bytes.size();
    }
  }
}

TEST(Http2Time, SlowBodies) {
  Pair pause;
  const auto id = pause.client.request("POST", "/", nullptr, {}, false);
  pause.client.upload(id, "abc", false);
  pause.talk();
  expect_due(pause.server, pause.server.limits.body_timeout_ns, [&] {
    pause.talk();
    return pause.client.answers[id].statuses == std::vector<int>{408};
  });
  EXPECT_TRUE(pause.client.answers[id].closed) << "asked to stop";
  EXPECT_FALSE(pause.server.connection->finished());
  EXPECT_EQ(pause.server.budget.left(), pause.server.budget_bytes_);

  Pair late;
  const auto pieces = late.client.request("POST", "/", nullptr, {}, false);
  late.talk();
  late.server.pass(20 * kSecondNs);
  late.client.upload(pieces, std::string(500'000, 'x'), false);
  late.talk();
  expect_due(late.server, late.server.limits.body_timeout_ns,
             [&] { return late.server.recorder.refusals == std::vector<int>{408}; });

  Pair slow;
  const auto drip = slow.client.request("POST", "/", nullptr, {}, false);
  slow.talk();
  for (int i = 0; i < 29; ++i) {
    slow.server.pass(kSecondNs);
    slow.client.upload(drip, "x", false);
    slow.talk();
  }
  expect_due(slow.server, kSecondNs, [&] { return slow.server.recorder.refusals == std::vector<int>{408}; });
  slow.talk();

  Pair unwanted;
  unwanted.server.recorder.head_answer = [](StreamId, const RequestHead&) { return Response{{429, {}}, ""}; };
  const auto rejected = unwanted.client.request("POST", "/", nullptr, {}, false);
  unwanted.talk();
  EXPECT_FALSE(unwanted.client.answers[rejected].closed);
  expect_due(unwanted.server, unwanted.server.limits.body_timeout_ns, [&] {
    unwanted.talk();
    return unwanted.client.answers[rejected].closed;
  });
  EXPECT_TRUE(unwanted.server.recorder.refusals.empty());
}

TEST(Http2Time, AStreamThatIsNotRead) {
  Pair pair(1000, false);
  const auto stuck = pair.client.request("GET", "/"), fine = pair.client.request("GET", "/"),
             ended = pair.client.request("GET", "/");
  pair.talk();
  pair.server.begin(stuck);
  pair.server.begin(fine);
  pair.talk();
  pair.server.pass(100 * kSecondNs);
  pair.server.send(stuck, std::string(1500, 'x'));
  pair.server.send(fine, "x");
  pair.server.respond(ended, 200, std::string(1500, 'x'));
  pair.talk();
  expect_due(pair.server, pair.server.limits.stall_timeout_ns,
             [&] { return pair.server.recorder.cancelled == std::vector<std::int64_t>{stuck}; });
  pair.talk();
  for (const auto id : {stuck, ended})
    EXPECT_EQ(pair.client.answers[id].error, static_cast<std::uint32_t>(NGHTTP2_CANCEL));
  EXPECT_FALSE(pair.client.answers[fine].closed);
  EXPECT_EQ(pair.server.connection->requests_open(), 1);
  EXPECT_EQ(pair.server.connection->deadline(), kNever);
  pair.server.end(fine);
  pair.talk();
}

TEST(Http2Time, ABacklogThatStaysHigh) {
  Pair pair(10'000, false);
  const auto id = pair.client.request("GET", "/");
  pair.talk();
  pair.server.begin(id);
  pair.server.send(id, std::string(pair.server.limits.backlog_high_bytes + 10'001, 'x'));
  pair.talk();
  for (int i = 0; i < 29; ++i) {
    pair.server.pass(kSecondNs);
    pair.client.window_update(id, 5000);
    pair.client.window_update(0, 5000);
    pair.talk();
  }
  expect_due(pair.server, kSecondNs, [&] { return pair.server.recorder.cancelled == std::vector<std::int64_t>{id}; });
}

TEST(Http2Time, ATransportThatTakesNothing) {
  Pair pair;
  const auto id = pair.client.request("GET", "/");
  pair.talk();
  pair.server.begin(id);
  pair.server.send(id, "x");
  pair.server.connection->on_time(pair.server.now);
  expect_due(pair.server, pair.server.limits.stall_timeout_ns, [&] { return pair.server.connection->finished(); });
  EXPECT_EQ(pair.server.recorder.cancelled, std::vector<std::int64_t>{id});
}

TEST(Http2Time, ADrainThatThePeerDoesNotAcknowledge) {
  Pair pair;
  pair.server.connection->drain();
  pair.client.feed(pair.server.pull());
  EXPECT_EQ(pair.client.goaways.size(), 1u);
  expect_due(pair.server, Http2Connection::kDrainNoticeNs,
             [&] { return pair.server.pull() == frame(kGoaway, 0, 0, number32(0) + number32(0)); });
  EXPECT_TRUE(pair.server.connection->finished());
}

}  // namespace
}  // namespace tandem::server

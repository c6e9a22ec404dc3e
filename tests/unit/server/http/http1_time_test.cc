// Every deadline of HTTP/1.1, to the nanosecond.
#include <gtest/gtest.h>

#include "server/http/http1_connection.h"
#include "unit/server/http/recorder.h"

namespace tandem::server {
namespace {

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

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

TEST(Http1Time, Idle) {
  for (const Protocol protocol : {Protocol::kHttp1, Protocol::kDetect}) {
    Peer peer(protocol);
    expect_due(peer, peer.limits.idle_timeout_ns, [&] { return peer.connection->finished(); });
    EXPECT_TRUE(peer.recorder.log.empty());
  }
  Peer peer;  // idle since the last answer left
  peer.pass(kSecondNs);
  peer.feed(kGet);
  peer.pass(1000 * kSecondNs);
  EXPECT_FALSE(peer.connection->finished()) << "the owner may take its time";
  peer.respond(1, 204, "");
  peer.pull();
  expect_due(peer, peer.limits.idle_timeout_ns, [&] { return peer.connection->finished(); });
}

TEST(Http1Time, SlowHead) {
  for (const Protocol protocol : {Protocol::kHttp1, Protocol::kDetect}) {
    for (const std::string_view begun :
         {"G", "\r\n", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET / HTTP/1.1\r\nHost: h\r\n"}) {
      if (protocol == Protocol::kHttp1 && begun.starts_with("PRI")) continue;
      Peer peer(protocol);
      peer.pass(5 * kSecondNs);
      peer.feed(begun.substr(0, 1));
      const std::int64_t begin_ns = peer.now.ns;
      for (const char c : begun.substr(1)) {
        peer.pass(kSecondNs / 10);
        peer.feed({&c, 1});
      }
      if (begun.starts_with("PRI")) {
        EXPECT_EQ(peer.connection->deadline().ns, begin_ns + peer.limits.head_timeout_ns);
        peer.pass(peer.limits.head_timeout_ns);
        EXPECT_EQ(peer.recorder.refusals.size(), 1u);
        continue;
      }
      expect_due(peer, begin_ns + peer.limits.head_timeout_ns - peer.now.ns,
                 [&] { return peer.recorder.refusals == std::vector<int>{408}; });
      EXPECT_TRUE(peer.pull().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
    }
  }
}

TEST(Http1Time, SlowBody) {
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
  Peer pause;
  pause.feed(head);
  pause.pass(20 * kSecondNs);
  pause.feed(std::string(900'000, 'x'));
  expect_due(pause, pause.limits.body_timeout_ns, [&] { return pause.recorder.refusals == std::vector<int>{408}; });
  EXPECT_EQ(pause.budget.left(), pause.budget_bytes_);
  EXPECT_TRUE(pause.pull().starts_with("HTTP/1.1 408"));

  // Waiting for "100 Continue" is not the peer's fault.
  Peer asked;
  asked.feed("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
  asked.pass(20 * kSecondNs);
  asked.pull();
  expect_due(asked, asked.limits.body_timeout_ns, [&] { return asked.recorder.refusals == std::vector<int>{408}; });

  Peer chunks;  // chunks' sizes are no body
  chunks.feed("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 29; ++i) {
    chunks.pass(kSecondNs);
    chunks.feed(i == 0 ? "1;" : "x");
  }
  expect_due(chunks, kSecondNs, [&] { return chunks.recorder.refusals == std::vector<int>{408}; });

  Peer slow;  // a byte a second is not enough
  slow.feed(head);
  for (int i = 0; i < 29; ++i) {
    slow.pass(kSecondNs);
    slow.feed("x");
  }
  expect_due(slow, kSecondNs, [&] { return slow.recorder.refusals == std::vector<int>{408}; });

  Peer floor;  // as many as the floor asks for, then 1 KiB/s is missed by one byte
  floor.feed(head);
  for (int i = 0; i < 40; ++i) {
    floor.feed(std::string(1024, 'x'));
    floor.pass(kSecondNs);
  }
  EXPECT_TRUE(floor.recorder.refusals.empty());
  EXPECT_EQ(floor.connection->deadline().ns, floor.now.ns + 1);
  floor.pass(1);
  EXPECT_EQ(floor.recorder.refusals, std::vector<int>{408});
}

TEST(Http1Time, SlowUnwantedBody) {
  Peer peer;
  peer.recorder.head_answer = [](StreamId, const RequestHead&) { return Response{{429, {}}, ""}; };
  peer.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
  peer.pull();
  expect_due(peer, peer.limits.body_timeout_ns, [&] { return peer.connection->finished(); });
  EXPECT_TRUE(peer.recorder.refusals.empty());
}

TEST(Http1Time, AnAnswerThatIsNotRead) {
  Peer peer;
  peer.feed(kGet);
  peer.begin(1);
  peer.pull();
  peer.pass(1000 * kSecondNs);  // nothing to read
  peer.send(1, std::string(10'000, 'x'));
  peer.connection->on_time(peer.now);
  peer.pass(29 * kSecondNs);
  peer.pull(100);  // that little is no progress
  EXPECT_EQ(peer.connection->deadline().ns, peer.now.ns + kSecondNs);
  peer.pull(4000);
  expect_due(peer, peer.limits.stall_timeout_ns, [&] { return peer.connection->finished(); });
  EXPECT_EQ(peer.recorder.cancelled, std::vector<std::int64_t>{1});

  Peer unseen;  // the owner cannot even pull: the clock starts with the next call that says the time
  unseen.feed(kGet);
  unseen.respond(1, 200, "x");
  unseen.now.ns += 5 * kSecondNs;
  EXPECT_LE(unseen.connection->deadline().ns, unseen.now.ns + unseen.limits.stall_timeout_ns);
  unseen.connection->on_time(unseen.now);
  expect_due(unseen, unseen.limits.stall_timeout_ns, [&] { return unseen.connection->finished(); });
  EXPECT_TRUE(unseen.recorder.cancelled.empty()) << "its answer had ended";
}

TEST(Http1Time, ABacklogThatStaysHigh) {
  Peer peer;
  peer.feed(kGet);
  peer.begin(1);
  peer.pull();
  peer.send(1, std::string(peer.limits.backlog_high_bytes + 1, 'x'));
  peer.connection->on_time(peer.now);
  // It shrinks, but never below the low mark.
  for (int i = 0; i < 29; ++i) {
    peer.pass(kSecondNs);
    EXPECT_GE(peer.pull(5000).size(), 5000u);
  }
  expect_due(peer, kSecondNs, [&] { return peer.connection->finished(); });
  EXPECT_EQ(peer.recorder.cancelled, std::vector<std::int64_t>{1});
}

TEST(Http1Time, AnswersThatWaitForOthersDoNotStall) {
  Peer peer;
  peer.feed(std::string(kGet) + std::string(kGet));
  peer.begin(1);
  peer.pull();
  peer.begin(2);
  peer.send(2, std::string(peer.limits.backlog_high_bytes + 1, 'x'));
  peer.pass(1000 * kSecondNs);
  EXPECT_FALSE(peer.connection->finished());
  peer.end(1);
  peer.pull(10);
  expect_due(peer, peer.limits.stall_timeout_ns, [&] { return peer.connection->finished(); });
  EXPECT_EQ(peer.recorder.cancelled, std::vector<std::int64_t>{2});
}

}  // namespace
}  // namespace tandem::server

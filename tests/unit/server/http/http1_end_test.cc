// How HTTP/1.1 connections end, and what becomes of what is under way.
#include <gtest/gtest.h>

#include "server/http/http1_connection.h"
#include "unit/server/http/recorder.h"

namespace tandem::server {
namespace {

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
std::string post(std::string_view headers, std::string_view body = "") {
  return "POST / HTTP/1.1\r\nHost: h\r\n" + std::string(headers) + "\r\n" + std::string(body);
}
bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

TEST(Http1End, LingersForAWhileOnly) {
  Peer peer;
  peer.feed("nonsense\n");
  EXPECT_EQ(peer.recorder.refusals, std::vector<int>{400});
  EXPECT_FALSE(peer.connection->finished());
  peer.pull();
  const TimePoint start = peer.now;
  EXPECT_EQ(peer.connection->deadline().ns, start.ns + Http1Connection::kLingerNs);
  peer.pass(Http1Connection::kLingerNs - 1);
  EXPECT_FALSE(peer.connection->finished());
  peer.pass(1);
  EXPECT_TRUE(peer.connection->finished());
  EXPECT_EQ(peer.connection->deadline(), kNever);
}

TEST(Http1End, KeepsOrEndsTheConnectionAsAsked) {
  const auto closes = [](std::string_view line_and_headers) {
    Peer peer;
    peer.feed(std::string(line_and_headers) + "\r\n");
    EXPECT_EQ(peer.recorder.requests.size(), 1u) << line_and_headers;
    peer.respond(1, 200, "x");
    const std::string answer = peer.pull();
    EXPECT_EQ(peer.connection->finished(), contains(answer, "connection: close\r\n")) << line_and_headers;
    EXPECT_EQ(peer.connection->wants_input(), !peer.connection->finished());
    return peer.connection->finished();
  };
  EXPECT_FALSE(closes("GET / HTTP/1.1\r\nHost: h\r\n"));
  EXPECT_FALSE(closes("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n"));
  EXPECT_TRUE(closes("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"));
  EXPECT_TRUE(closes("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n"));
  EXPECT_TRUE(closes("GET / HTTP/1.0\r\n"));
  EXPECT_FALSE(closes("GET / HTTP/1.0\r\nConnection: keep-alive\r\n"));
  EXPECT_TRUE(closes("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
  EXPECT_FALSE(closes("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n"));
  EXPECT_TRUE(closes("HEAD / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"));
  EXPECT_FALSE(closes("DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
}

TEST(Http1End, NothingIsReadAfterTheLastRequest) {
  Peer peer;
  peer.feed("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + std::string(kGet));
  EXPECT_EQ(peer.recorder.requests.size(), 1u);
  EXPECT_FALSE(peer.connection->wants_input());
  peer.feed(kGet);
  peer.respond(1, 200, "");
  peer.pull();
  EXPECT_TRUE(peer.connection->finished());
  EXPECT_EQ(peer.recorder.requests.size(), 1u);
}

TEST(Http1End, Http10StreamsUntilTheConnectionEnds) {
  Peer peer;
  peer.feed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(peer.recorder.requests.size(), 2u);
  peer.begin(1);
  peer.send(1, "abc");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc");
  EXPECT_EQ(peer.recorder.cancelled, std::vector<std::int64_t>{2}) << "it can never be answered";
  peer.send(1, "d");
  peer.end(1);
  EXPECT_EQ(peer.pull(), "d");
  EXPECT_TRUE(peer.connection->finished());
  Peer whole;
  whole.feed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  whole.respond(1, 200, "abc");
  EXPECT_EQ(whole.pull(), "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc");
}

TEST(Http1End, TheLastOfTheRequestsEndsTheConnection) {
  ConnectionLimits limits;
  limits.requests_max = 3;
  Peer peer(Protocol::kHttp1, limits);
  for (int i = 1; i <= 3; ++i) {
    peer.feed(kGet);
    peer.respond(i, 204, "");
    EXPECT_EQ(contains(peer.pull(), "connection: close"), i == 3);
  }
  EXPECT_TRUE(peer.connection->finished());
}

TEST(Http1End, Drains) {
  Peer idle;
  idle.connection->drain();
  EXPECT_TRUE(idle.connection->finished());

  Peer busy;  // an answer under way, and one behind it
  busy.feed(kGet);
  busy.begin(1);
  busy.pull();
  busy.feed(kGet);
  busy.connection->drain();
  EXPECT_FALSE(busy.connection->wants_input());
  busy.feed(kGet);
  EXPECT_EQ(busy.recorder.requests.size(), 2u);
  busy.end(1);
  EXPECT_EQ(busy.pull(), "0\r\n\r\n");
  EXPECT_FALSE(busy.connection->finished());
  busy.respond(2, 204, "");
  EXPECT_EQ(busy.pull(), "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
  EXPECT_TRUE(busy.connection->finished());

  for (const std::string_view begun : {"P", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na"}) {
    Peer reading;  // what has begun is read and answered
    const std::string request = post("Content-Length: 2\r\n", "ab");
    reading.feed(begun);
    reading.connection->drain();
    EXPECT_TRUE(reading.connection->wants_input());
    reading.feed(request.substr(begun.size()) + std::string(kGet));
    EXPECT_EQ(reading.recorder.requests.size(), 1u);
    reading.respond(1, 204, "");
    EXPECT_TRUE(contains(reading.pull(), "connection: close"));
    EXPECT_TRUE(reading.connection->finished());
  }

  Peer discarding;
  discarding.recorder.head_answer = [](StreamId, const RequestHead&) { return Response{{429, {}}, ""}; };
  discarding.feed(post("Content-Length: 2\r\n"));
  discarding.connection->drain();
  discarding.pull();
  EXPECT_FALSE(discarding.connection->finished());
  discarding.feed("ab");
  EXPECT_TRUE(discarding.connection->finished());
}

TEST(Http1End, AHalfClosedConnectionStillAnswers) {
  Peer peer;
  peer.feed(std::string(kGet) + "GET / HT");
  peer.connection->feed_end(peer.now);
  EXPECT_FALSE(peer.connection->finished());
  EXPECT_TRUE(peer.recorder.cancelled.empty());
  peer.begin(1);
  peer.send(1, "abc");
  peer.end(1);
  EXPECT_TRUE(contains(peer.pull(), "connection: close"));
  EXPECT_TRUE(peer.connection->finished());

  Peer idle;
  idle.connection->feed_end(idle.now);
  EXPECT_TRUE(idle.connection->finished());

  Peer body;
  body.feed(std::string(kGet) + post("Content-Length: 5\r\n", "abc"));
  body.connection->feed_end(body.now);
  EXPECT_EQ(body.budget.left(), body.budget_bytes_);
  body.respond(1, 204, "");
  EXPECT_TRUE(contains(body.pull(), "connection: close"));
  EXPECT_TRUE(body.connection->finished());
}

TEST(Http1End, AFailedTransportCancelsEverything) {
  Peer peer;
  peer.feed(std::string(kGet) + std::string(kGet) + post("Content-Length: 5\r\n", "abc"));
  peer.connection->fail();
  peer.connection->fail();
  EXPECT_EQ(peer.recorder.cancelled, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(peer.connection->requests_open(), 0);
  EXPECT_EQ(peer.budget.left(), peer.budget_bytes_);
  EXPECT_TRUE(peer.connection->finished());
  peer.feed(kGet);
  EXPECT_EQ(peer.pull(), "");
}

TEST(Http1End, AnAbortedAnswerEndsTheConnection) {
  Peer peer;
  peer.feed(std::string(kGet) + std::string(kGet) + std::string(kGet));
  peer.begin(2);
  peer.send(2, "lost");
  peer.abort(2);
  EXPECT_TRUE(peer.recorder.cancelled.empty()) << "events come from calls that say the time";
  EXPECT_LE(peer.connection->deadline(), peer.now);
  peer.connection->on_time(peer.now);
  EXPECT_EQ(peer.recorder.cancelled, std::vector<std::int64_t>{3});
  EXPECT_FALSE(peer.connection->finished());
  peer.respond(1, 200, "one");
  EXPECT_TRUE(peer.pull().ends_with("one")) << "the answer before it is whole";
  EXPECT_TRUE(peer.connection->finished());

  Peer first;
  first.feed(kGet);
  first.begin(1);
  first.send(1, "abc");
  first.pull();
  first.abort(1);
  EXPECT_EQ(first.pull(), "") << "no last chunk";
  EXPECT_TRUE(first.connection->finished());
}

TEST(Http1End, ThePeerMayVanishAtAnyByte) {
  const std::string bytes = std::string(kGet) + post("Content-Length: 5\r\n", "hello") +
                            post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX: y\r\n\r\n") + "\r\n" +
                            std::string(kGet);
  for (std::size_t length = 0; length <= bytes.size(); ++length) {
    for (const bool half_closed : {false, true}) {
      Peer peer(Protocol::kDetect);
      peer.feed(bytes.substr(0, length));
      const std::set<std::int64_t> open = peer.recorder.open;
      if (half_closed) {
        peer.connection->feed_end(peer.now);
        EXPECT_EQ(peer.recorder.open, open) << "what was asked is still answered";
        for (const std::int64_t id : open) peer.respond(id, 200, "x");
        peer.pull();
      } else {
        peer.connection->fail();
        EXPECT_TRUE(peer.recorder.open.empty());
      }
      EXPECT_TRUE(peer.connection->finished());
      EXPECT_EQ(peer.budget.left(), peer.budget_bytes_);
    }
  }
}

}  // namespace
}  // namespace tandem::server

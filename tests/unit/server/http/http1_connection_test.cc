#include "server/http/http1_connection.h"

#include <gtest/gtest.h>

#include "unit/server/http/recorder.h"

namespace tandem::server {
namespace {

TEST(Http1, AnswersARequestAndKeepsTheConnection) {
  Peer peer;
  peer.feed("POST /v1/x?a=b HTTP/1.1\r\nHost: h:80\r\nContent-Length: 5\r\nX-Y:  z \r\n\r\nhello");
  ASSERT_EQ(peer.recorder.requests.size(), 1u);
  const Recorder::Request& request = peer.recorder.requests[0];
  EXPECT_EQ(request.body, "hello");
  EXPECT_EQ(request.head.method, "POST");
  EXPECT_EQ(request.head.path, "/v1/x");
  EXPECT_EQ(request.head.query, "a=b");
  EXPECT_EQ(request.head.host, "h:80");
  EXPECT_EQ(*request.head.header("x-y"), "z");
  EXPECT_EQ(peer.budget.left(), (64 << 20) - 5);
  peer.respond(1, 200, "hi", {{"a", "b"}});
  EXPECT_EQ(peer.budget.left(), 64 << 20);
  EXPECT_EQ(peer.pull(), "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\n\r\nhi");
  EXPECT_FALSE(peer.connection->finished());
  EXPECT_TRUE(peer.connection->wants_input());
}

TEST(Http1, StreamsOneChunkPerPull) {
  Peer peer;
  peer.feed("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  peer.begin(1);
  EXPECT_EQ(peer.pull(), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
  peer.send(1, "a");
  peer.send(1, "bc");
  EXPECT_EQ(peer.connection->backlog(StreamId(1)), 3u);
  EXPECT_EQ(peer.pull(), "3\r\nabc\r\n");
  EXPECT_EQ(peer.pull(), "");
  peer.send(1, "d");
  peer.end(1);
  EXPECT_EQ(peer.pull(), "1\r\nd\r\n0\r\n\r\n");
  peer.feed("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  peer.respond(2, 204, "");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
  EXPECT_TRUE(peer.connection->finished());
}

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
std::string post(std::string_view headers, std::string_view body = "") {
  return "POST / HTTP/1.1\r\nHost: h\r\n" + std::string(headers) + "\r\n" + std::string(body);
}
bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

TEST(Http1, PullsAboutAsMuchAsAsked) {
  Peer peer;
  peer.feed(kGet);
  peer.begin(1);
  peer.pull();
  const std::string body(1000, 'x');
  peer.send(1, body);
  std::string out;
  for (std::size_t left = 1000; left > 0; left -= 100) {
    EXPECT_EQ(peer.connection->backlog(StreamId(1)), left);
    const std::string part = peer.pull(100);
    EXPECT_EQ(part, "64\r\n" + body.substr(0, 100) + "\r\n");
  }
  EXPECT_EQ(peer.pull(100), "");
  peer.end(1);
  EXPECT_EQ(peer.pull(1), "0\r\n\r\n");
}

TEST(Http1, HeadersThatBreakTheAnswerAreBugs) {
  const auto respond_with = [](Header header, int status = 200) {
    Peer peer;
    peer.feed(kGet);
    peer.respond(1, status, "", {std::move(header)});
  };
  respond_with({"good-name_1", "any thing\t\xff"});
  for (const std::string_view value : {"a\r\nb: c", "a\nb", "a\rb", "\x01", "\x7f"})
    EXPECT_DEATH(respond_with({"x", std::string(value)}), "check");
  EXPECT_DEATH(respond_with({"x", std::string("a\0b", 3)}), "check");
  for (const std::string_view name : {"", "X", "a b", "a:", "a\n", "content-length", "transfer-encoding", "connection"})
    EXPECT_DEATH(respond_with({std::string(name), "v"}), "check");
  for (const int status : {0, 100, 199, 600}) EXPECT_DEATH(respond_with({"x", "y"}, status), "check");
}

TEST(Http1, AnswersInTheWrongOrderAreBugs) {
  EXPECT_DEATH(
      {
        Peer peer;
        peer.feed(kGet);
        peer.send(1, "x");
      },
      "check");
  EXPECT_DEATH(
      {
        Peer peer;
        peer.feed(kGet);
        peer.begin(1);
        peer.begin(1);
      },
      "check");
}

TEST(Http1, CallsForStreamsThatEndedAreIgnored) {
  Peer peer;
  peer.feed(kGet);
  peer.respond(1, 200, "a");
  peer.respond(1, 200, "b");
  peer.begin(1);
  peer.send(1, "c");
  peer.end(1);
  peer.abort(1);
  peer.respond(7, 200, "d");
  EXPECT_EQ(peer.connection->backlog(StreamId(7)), 0u);
  const std::string out = peer.pull();
  EXPECT_TRUE(out.ends_with("\r\n\r\na")) << out;
}

TEST(Http1, PipelinedAnswersLeaveInOrder) {
  Peer peer;
  peer.feed(std::string(kGet) + std::string(kGet) + std::string(kGet));
  ASSERT_EQ(peer.recorder.requests.size(), 3u);
  EXPECT_EQ(peer.connection->requests_open(), 3);
  peer.respond(3, 200, "three");
  peer.begin(2);
  peer.send(2, "two");
  EXPECT_EQ(peer.pull(), "");
  EXPECT_EQ(peer.connection->backlog(StreamId(2)), 3u);
  EXPECT_EQ(peer.connection->requests_open(), 2);
  peer.respond(1, 200, "one");
  EXPECT_EQ(peer.pull(),
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none"
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n");
  peer.end(2);
  EXPECT_EQ(peer.pull(), "0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthree");
}

TEST(Http1, PipelinedRequestsBeyondTheLimitWait) {
  ConnectionLimits limits;
  limits.pipelined_max = 4;
  Peer peer(Protocol::kHttp1, limits);
  std::string ten;
  for (int i = 0; i < 10; ++i) ten += kGet;
  peer.feed(ten);
  EXPECT_EQ(peer.recorder.requests.size(), 4u);
  EXPECT_FALSE(peer.connection->wants_input());
  peer.respond(1, 200, "");
  EXPECT_EQ(peer.recorder.requests.size(), 4u) << "its answer has not left yet";
  peer.pull();
  EXPECT_EQ(peer.recorder.requests.size(), 5u);
  // An owner that answers at once: one pull() brings everything.
  peer.recorder.on_whole = [&](StreamId stream, const Recorder::Request&) { peer.respond(stream.value(), 204, ""); };
  for (int i = 2; i <= 5; ++i) peer.respond(i, 204, "");
  peer.pull();
  EXPECT_EQ(peer.recorder.requests.size(), 10u);
  EXPECT_EQ(peer.connection->requests_open(), 0);
  EXPECT_TRUE(peer.connection->wants_input());
}

TEST(Http1, ContinueIsSentOnceTheHeadIsAccepted) {
  Peer peer;
  peer.feed(post("Expect: 100-continue\r\nContent-Length: 2\r\n"));
  EXPECT_EQ(peer.pull(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(peer.pull(), "");
  peer.feed("ab");
  peer.respond(1, 204, "");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 204 No Content\r\n\r\n");
  // Not if the body comes by itself, nor without a body.
  peer.feed(post("Expect: 100-continue\r\nContent-Length: 2\r\n", "ab"));
  peer.feed(post("Expect: 100-continue\r\nContent-Length: 0\r\n"));
  EXPECT_EQ(peer.pull(), "");
  peer.respond(2, 204, "");
  peer.respond(3, 204, "");
  peer.pull();
  // Not before earlier answers are out.
  peer.feed(std::string(kGet) + post("Expect: 100-continue\r\nContent-Length: 2\r\n"));
  EXPECT_EQ(peer.pull(), "");
  peer.pass(peer.limits.body_timeout_ns * 3);
  peer.respond(4, 204, "");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
  peer.feed("ab");
  EXPECT_EQ(peer.recorder.requests.size(), 5u);
  peer.respond(5, 204, "");
}

TEST(Http1, ARejectedHeadIsAnsweredAtOnce) {
  Peer peer;
  peer.recorder.head_answer = [](StreamId, const RequestHead&) { return Response{{429, {}}, "no"}; };
  const std::string_view answer = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno";
  peer.feed(kGet);
  EXPECT_EQ(peer.pull(), answer);
  // A small body is read and dropped: the connection lives.
  peer.feed(post("Content-Length: 65536\r\n"));
  EXPECT_EQ(peer.pull(), answer);
  peer.feed(std::string(65536, 'x'));
  EXPECT_EQ(peer.budget.left(), peer.budget_bytes_);
  peer.feed(kGet);
  EXPECT_EQ(peer.pull(), answer);
  EXPECT_TRUE(peer.recorder.requests.empty());
  // Larger ones are not waited for; nor those of unknown length, nor those that may never come.
  for (const std::string_view headers : {"Content-Length: 65537\r\n", "Transfer-Encoding: chunked\r\n",
                                         "Expect: 100-continue\r\nContent-Length: 1\r\n"}) {
    Peer other;
    other.recorder.head_answer = peer.recorder.head_answer;
    other.feed(post(headers));
    EXPECT_EQ(other.pull(), "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    EXPECT_FALSE(other.connection->finished()) << "what the peer still sends is dropped for a while";
    EXPECT_TRUE(other.connection->wants_input());
    other.feed(std::string(Http1Connection::kLingerBytes, 'x'));
    EXPECT_FALSE(other.connection->finished());
    other.feed("x");
    EXPECT_TRUE(other.connection->finished());
  }
}

TEST(Http1, LingersForAWhileOnly) {
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

TEST(Http1, KeepsOrEndsTheConnectionAsAsked) {
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

TEST(Http1, NothingIsReadAfterTheLastRequest) {
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

TEST(Http1, Http10StreamsUntilTheConnectionEnds) {
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

TEST(Http1, HeadAndBodilessAnswers) {
  Peer peer;
  const std::string_view head = "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";
  peer.feed(std::string(head) + std::string(head) + std::string(kGet) + std::string(kGet));
  peer.respond(1, 200, "12345");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
  peer.begin(2);
  peer.send(2, "12345");
  EXPECT_EQ(peer.connection->backlog(StreamId(2)), 0u);
  EXPECT_EQ(peer.pull(), "HTTP/1.1 200 OK\r\n\r\n");
  peer.end(2);
  EXPECT_EQ(peer.pull(), "");
  peer.respond(3, 304, "");
  EXPECT_EQ(peer.pull(), "HTTP/1.1 304 Not Modified\r\n\r\n");
  peer.recorder.open.erase(4);
  peer.connection->begin_response(StreamId(4), {204, {}});
  peer.send(4, "x");
  peer.end(4);
  EXPECT_EQ(peer.pull(), "HTTP/1.1 204 No Content\r\n\r\n");
  EXPECT_FALSE(peer.connection->finished());
}

TEST(Http1, TheLastOfTheRequestsEndsTheConnection) {
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

TEST(Http1, Drains) {
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

TEST(Http1, AHalfClosedConnectionStillAnswers) {
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

TEST(Http1, AFailedTransportCancelsEverything) {
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

TEST(Http1, AnAbortedAnswerEndsTheConnection) {
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

TEST(Http1, BodiesAreTakenFromTheBudget) {
  Peer peer(Protocol::kHttp1, {}, 10);
  peer.feed(post("Content-Length: 11\r\n"));
  EXPECT_EQ(peer.recorder.refusals, std::vector<int>{503}) << "refused before it is read";
  Peer chunks(Protocol::kHttp1, {}, 10);
  chunks.feed(post("Transfer-Encoding: chunked\r\n", "6\r\nabcdef\r\n"));
  EXPECT_EQ(chunks.budget.left(), 4);
  chunks.feed("5\r\nabcde\r\n");
  EXPECT_EQ(chunks.recorder.refusals, std::vector<int>{503});
  EXPECT_EQ(chunks.budget.left(), 10);
  EXPECT_TRUE(contains(chunks.pull(), "HTTP/1.1 503 Service Unavailable\r\n"));
  Peer exact(Protocol::kHttp1, {}, 10);
  exact.feed(post("Content-Length: 10\r\n", "0123456789"));
  EXPECT_EQ(exact.budget.left(), 0);
  exact.begin(1);
  exact.pull();
  EXPECT_EQ(exact.budget.left(), 0);
  exact.end(1);
  EXPECT_EQ(exact.budget.left(), 10);
}

TEST(Http1, BacklogsTellWhenToGoOn) {
  ConnectionLimits limits;
  limits.backlog_high_bytes = 1000;
  limits.backlog_low_bytes = 100;
  Peer peer(Protocol::kHttp1, limits);
  peer.feed(kGet);
  peer.begin(1);
  peer.send(1, std::string(1000, 'x'));
  peer.pull();
  EXPECT_TRUE(peer.recorder.drained.empty()) << "it was not above the mark";
  peer.send(1, std::string(1001, 'x'));
  peer.pull(901);
  EXPECT_TRUE(peer.recorder.drained.empty()) << "100 bytes are left";
  peer.pull(1);
  EXPECT_EQ(peer.recorder.drained, std::vector<std::int64_t>{1});
  // What the owner gives in the event leaves with the same pull().
  peer.recorder.on_low = [&](StreamId stream) { peer.send(stream.value(), "more"); };
  peer.send(1, std::string(1001, 'x'));
  EXPECT_TRUE(contains(peer.pull(), "4\r\nmore\r\n"));
  EXPECT_EQ(peer.recorder.drained.size(), 2u);
}

}  // namespace
}  // namespace tandem::server

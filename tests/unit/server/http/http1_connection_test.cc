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

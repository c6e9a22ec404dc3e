#include "server/http/http2_connection.h"

#include <gtest/gtest.h>

#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

struct Pair {
  explicit Pair(ConnectionLimits limits = {}) : server(Protocol::kHttp2, limits) {}
  void talk() { client.talk(server); }
  Peer server;
  Http2Client client;
};

TEST(Http2, AnswersARequestWithABody) {
  Pair pair;
  const std::string body(100'000, 'x');
  const auto id = pair.client.request("POST", "/a/b?c=d", &body, {{"x-y", "z"}});
  pair.talk();
  ASSERT_EQ(pair.server.recorder.requests.size(), 1u);
  const Recorder::Request& request = pair.server.recorder.requests[0];
  EXPECT_EQ(request.stream, StreamId(id));
  EXPECT_EQ(request.body, body);
  EXPECT_EQ(request.head.version, HttpVersion::k2);
  EXPECT_EQ(request.head.method, "POST");
  EXPECT_EQ(request.head.path, "/a/b");
  EXPECT_EQ(request.head.query, "c=d");
  EXPECT_EQ(request.head.host, "h");
  EXPECT_EQ(*request.head.header("x-y"), "z");
  EXPECT_EQ(pair.server.budget.left(), pair.server.budget_bytes_ - 100'000);
  pair.server.respond(id, 201, "hello", {{"a", "b"}});
  EXPECT_EQ(pair.server.budget.left(), pair.server.budget_bytes_);
  pair.talk();
  const Http2Client::Answer& answer = pair.client.answers[id];
  EXPECT_EQ(answer.statuses, std::vector<int>{201});
  EXPECT_EQ(answer.headers.at("a"), "b");
  EXPECT_EQ(answer.headers.at("content-length"), "5");
  EXPECT_EQ(answer.body, "hello");
  EXPECT_TRUE(answer.ended && answer.closed);
  EXPECT_EQ(answer.error, 0u);
}

TEST(Http2, StreamsOneFramePerPull) {
  Pair pair;
  const auto id = pair.client.request("GET", "/");
  pair.talk();
  pair.server.begin(id);
  pair.talk();
  EXPECT_EQ(pair.client.answers[id].statuses, std::vector<int>{200});
  for (int i = 0; i < 3; ++i) {
    pair.server.send(id, "ab");
    pair.server.send(id, "cd");
    EXPECT_EQ(pair.server.connection->backlog(StreamId(id)), 4u);
    pair.talk();
    EXPECT_EQ(pair.server.connection->backlog(StreamId(id)), 0u);
    EXPECT_EQ(pair.client.answers[id].data_frames, i + 1);
  }
  pair.server.send(id, "e");
  pair.server.end(id);
  pair.talk();
  EXPECT_EQ(pair.client.answers[id].body, "abcdabcdabcde");
  EXPECT_EQ(pair.client.answers[id].data_frames, 4);
  EXPECT_TRUE(pair.client.answers[id].closed);
}

TEST(Http2, AResetCancelsAtOnce) {
  Pair pair;
  const auto id = pair.client.request("GET", "/");
  pair.talk();
  pair.client.reset(id);
  pair.server.feed(pair.client.pull());
  EXPECT_EQ(pair.server.recorder.cancelled, std::vector<std::int64_t>{id});
}

TEST(Http2, StreamsShareTheConnectionEvenly) {
  Pair pair;
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 4; ++i)
    ids.push_back(pair.client.request("GET", "/", nullptr, {{"priority", i == 0 ? "u=0" : "u=7"}}));
  pair.talk();
  for (const auto id : ids) pair.server.respond(id, 200, std::string(200'000, 'x'));
  pair.client.feed(pair.server.pull(200'000));
  for (const auto id : ids) {
    EXPECT_GT(pair.client.answers[id].body.size(), 30'000u);
    EXPECT_LT(pair.client.answers[id].body.size(), 70'000u);
  }
  pair.talk();
  for (const auto id : ids) EXPECT_EQ(pair.client.answers[id].body.size(), 200'000u);
}

TEST(Http2, RefusesByAnswering) {
  ConnectionLimits limits;
  limits.target_bytes_max = 50;
  limits.header_bytes_max = 500;
  limits.headers_max = 10;
  limits.body_bytes_max = 1000;
  const auto status_of = [&](const std::string& method, const std::string& path, Headers headers,
                             const std::string* body = nullptr) {
    Pair pair(limits);
    pair.server.recorder.on_whole = [&](StreamId stream, const Recorder::Request&) {
      pair.server.respond(stream.value(), 200, "");
    };
    const auto id = pair.client.request(method, path, body, std::move(headers));
    pair.talk();
    const Http2Client::Answer& answer = pair.client.answers[id];
    EXPECT_FALSE(pair.server.connection->finished()) << "a refusal ends its request only";
    EXPECT_TRUE(answer.closed);
    return answer.statuses.empty() ? -static_cast<int>(answer.error) : answer.statuses.back();
  };
  const auto path = [](std::size_t bytes) { return "/" + std::string(bytes - 1, 'a'); };
  EXPECT_EQ(status_of("GET", path(50), {}), 200);
  EXPECT_EQ(status_of("GET", path(51), {}), 414);
  EXPECT_EQ(status_of("GET", "/a/../b", {}), 400);
  EXPECT_EQ(status_of("GET", "/%00", {}), 400);
  EXPECT_EQ(status_of("GET", "/a\\b", {}), 400);
  EXPECT_EQ(status_of("OPTIONS", "*", {}), 200);
  EXPECT_EQ(status_of(std::string(33, 'G'), "/", {}), 400);
  EXPECT_EQ(status_of("GET", "/", Headers(10, {"a", "b"})), 200);
  EXPECT_EQ(status_of("GET", "/", Headers(11, {"a", "b"})), 431);
  // :method GET, :scheme http, :authority h are 7+3, 7+4 and 10+1 bytes.
  EXPECT_EQ(status_of("GET", "/", {{"x", std::string(500 - 32 - 1, 'y')}}), 200);
  EXPECT_EQ(status_of("GET", "/", {{"x", std::string(500 - 32, 'y')}}), 431);
  EXPECT_EQ(status_of("GET", "/", {{"x", std::string(60'000, 'y')}}), 431);
  EXPECT_EQ(status_of("GET", "/", {{"host", "H"}}), 200);
  EXPECT_EQ(status_of("GET", "/", {{"host", "other"}}), 400);
  EXPECT_EQ(status_of("POST", "/", {{"expect", "something"}}), 417);
  const std::string fits(1000, 'x'), large(1001, 'x'), huge(1'000'000, 'x');
  EXPECT_EQ(status_of("POST", "/", {}, &fits), 200);
  EXPECT_EQ(status_of("POST", "/", {}, &large), 413);
  EXPECT_EQ(status_of("POST", "/", {{"content-length", "1001"}}, &large), 413);
  EXPECT_EQ(status_of("POST", "/", {{"content-length", "10737418240"}}, &huge), 413);
  EXPECT_EQ(status_of("POST", "/", {{"content-length", "99999999999999999999"}}, &huge), -NGHTTP2_PROTOCOL_ERROR);
  EXPECT_EQ(status_of("POST", "/", {{"content-length", "999"}}, &fits), -NGHTTP2_PROTOCOL_ERROR);
  EXPECT_EQ(status_of("POST", "/", {{"content-length", "1000"}}, &fits), 200);
}

TEST(Http2, MalformedRequestsAreReset) {
  for (const std::string& head :
       {literal(":method", "GET") + literal(":scheme", "http") + literal(":path", "/"),  // no host
        literal(":scheme", "http") + literal(":path", "/") + literal(":authority", "h"),
        simple_head() + literal(":path", "/"), simple_head() + literal("X", "y"),
        simple_head() + literal("x", "a\r\nb"), simple_head() + literal("x", " a"),
        simple_head() + literal("connection", "close"), simple_head() + literal("transfer-encoding", "chunked"),
        simple_head() + literal("te", "gzip"), simple_head() + literal("content-length", "x"),
        simple_head() + literal(":status", "200"), literal("x", "y") + simple_head()}) {
    Peer server(Protocol::kHttp2);
    Http2Client client;
    server.feed(client.pull() + frame(kHeaders, kEndStream | kEndHeaders, 1, head));
    EXPECT_TRUE(server.recorder.log.empty()) << head;
    const std::string out = server.pull();
    EXPECT_NE(out.find(frame(kReset, 0, 1, number32(NGHTTP2_PROTOCOL_ERROR))), std::string::npos) << head;
    EXPECT_FALSE(server.connection->finished());
  }
}

TEST(Http2, ConnectIsRefused) {
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull() + frame(kHeaders, kEndStream | kEndHeaders, 1,
                                    literal(":method", "CONNECT") + literal(":authority", "h:80")));
  EXPECT_EQ(server.recorder.refusals, std::vector<int>{501});
}

TEST(Http2, AnUnwantedBodyIsStopped) {
  Pair pair;
  pair.server.recorder.head_answer = [](StreamId, const RequestHead&) { return Response{{429, {}}, "no"}; };
  const std::string small(60'000, 'x'), large(300'000, 'x');
  const auto first = pair.client.request("POST", "/", &small);
  const auto second = pair.client.request("POST", "/", &large);
  const auto third = pair.client.request("GET", "/");
  pair.talk();
  for (const auto id : {first, second, third}) {
    EXPECT_EQ(pair.client.answers[id].statuses, std::vector<int>{429});
    EXPECT_EQ(pair.client.answers[id].body, "no");
    EXPECT_TRUE(pair.client.answers[id].ended && pair.client.answers[id].closed);
    EXPECT_EQ(pair.client.answers[id].error, 0u);
  }
  EXPECT_TRUE(pair.server.recorder.requests.empty());
  EXPECT_EQ(pair.server.budget.left(), pair.server.budget_bytes_);
  EXPECT_FALSE(pair.server.connection->finished());
}

TEST(Http2, ContinueIsSentOnceTheHeadIsAccepted) {
  Pair pair;
  const auto id = pair.client.request("POST", "/", nullptr, {{"expect", "100-continue"}}, false);
  pair.talk();
  EXPECT_EQ(pair.client.answers[id].statuses, std::vector<int>{100});
  pair.client.upload(id, "ab", true);
  pair.talk();
  pair.server.respond(id, 200, "x");
  pair.talk();
  EXPECT_EQ(pair.client.answers[id].statuses, (std::vector<int>{100, 200}));
}

TEST(Http2, HeadAndBodilessAnswers) {
  Pair pair;
  const auto head = pair.client.request("HEAD", "/"), streamed = pair.client.request("HEAD", "/"),
             nothing = pair.client.request("GET", "/");
  pair.talk();
  pair.server.respond(head, 200, "12345");
  pair.server.begin(streamed);
  pair.server.send(streamed, "12345");
  EXPECT_EQ(pair.server.connection->backlog(StreamId(streamed)), 0u);
  pair.talk();
  EXPECT_EQ(pair.server.connection->requests_open(), 2) << "it ends when its owner says so";
  pair.server.end(streamed);
  pair.server.respond(nothing, 204, "");
  pair.talk();
  for (const auto id : {head, streamed, nothing}) {
    EXPECT_EQ(pair.client.answers[id].body, "");
    EXPECT_TRUE(pair.client.answers[id].closed);
    EXPECT_EQ(pair.client.answers[id].error, 0u);
  }
  EXPECT_EQ(pair.client.answers[head].headers.at("content-length"), "5");
  EXPECT_EQ(pair.client.answers[nothing].headers.count("content-length"), 0u);
}

TEST(Http2, TrailersAreIgnored) {
  Peer server(Protocol::kHttp2);
  Http2Client client;
  server.feed(client.pull() + frame(kHeaders, kEndHeaders, 1, simple_head("POST")) + frame(kData, 0, 1, "abc") +
              frame(kHeaders, kEndHeaders | kEndStream, 1, literal("x", "y")));
  ASSERT_EQ(server.recorder.requests.size(), 1u);
  EXPECT_EQ(server.recorder.requests[0].body, "abc");
  EXPECT_EQ(server.recorder.requests[0].head.header("x"), nullptr);
  server.respond(1, 200, "");
}

TEST(Http2, BodiesAreTakenFromTheBudget) {
  Peer server(Protocol::kHttp2, {}, 1000);
  Http2Client client;
  const std::string most(600, 'x');
  const auto first = client.request("POST", "/", &most), second = client.request("POST", "/", &most);
  const auto third = client.request("POST", "/", nullptr, {{"content-length", "1001"}}, false);
  client.talk(server);
  EXPECT_EQ(server.recorder.requests.size(), 1u);
  EXPECT_EQ(server.recorder.refusals, (std::vector<int>{503, 503}));
  EXPECT_EQ(server.budget.left(), 400);
  EXPECT_EQ(client.answers[second].statuses, std::vector<int>{503});
  EXPECT_EQ(client.answers[third].statuses, std::vector<int>{503});
  server.begin(first);
  EXPECT_EQ(server.budget.left(), 400);
  server.end(first);
  EXPECT_EQ(server.budget.left(), 1000);
}

TEST(Http2, UploadsFillTheWindow) {
  Pair pair;
  const std::string body(4 << 20, 'x');
  pair.talk();
  pair.client.request("POST", "/", &body);
  // Without a word from the server, a whole window is on the wire.
  EXPECT_GE(pair.client.pull().size(), 1u << 20);
}

TEST(Http2, AnEventMayEndWhatOthersWaitFor) {
  ConnectionLimits limits;
  limits.backlog_high_bytes = 100;
  Pair pair(limits);
  const auto first = pair.client.request("GET", "/"), second = pair.client.request("GET", "/");
  pair.talk();
  for (const auto id : {first, second}) {
    pair.server.begin(id);
    pair.server.send(id, std::string(101, 'x'));
  }
  pair.server.recorder.on_low = [&](StreamId) {
    pair.server.end(first);
    pair.server.abort(second);
  };
  pair.talk();
  EXPECT_EQ(pair.server.recorder.drained.size(), 1u);
}

TEST(Http2, BacklogsTellWhenToGoOn) {
  ConnectionLimits limits;
  limits.backlog_high_bytes = 100'000;
  limits.backlog_low_bytes = 10'000;
  Peer server(Protocol::kHttp2, limits);
  Http2Client client(50'000, false);  // takes so much, and no more until it says so
  const auto id = client.request("GET", "/");
  client.talk(server);
  server.begin(id);
  server.send(id, std::string(100'001, 'x'));
  client.talk(server);
  EXPECT_EQ(server.connection->backlog(StreamId(id)), 50'001u);
  EXPECT_TRUE(server.recorder.drained.empty());
  client.window_update(id, 40'001);
  client.window_update(0, 100'000);
  client.talk(server);
  EXPECT_EQ(server.connection->backlog(StreamId(id)), 10'000u);
  EXPECT_TRUE(server.recorder.drained.empty());
  server.recorder.on_low = [&](StreamId stream) { server.send(stream.value(), "more"); };
  client.window_update(id, 1);
  client.talk(server);
  EXPECT_EQ(server.recorder.drained, std::vector<std::int64_t>{id});
  EXPECT_EQ(server.connection->backlog(StreamId(id)), 10'003u);
  server.end(id);
}

}  // namespace
}  // namespace tandem::server

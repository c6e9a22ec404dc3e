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

}  // namespace
}  // namespace tandem::server

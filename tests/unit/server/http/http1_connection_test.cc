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

}  // namespace
}  // namespace tandem::server

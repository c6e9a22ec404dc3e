#include "server/app/request_guard.h"

#include <gtest/gtest.h>

#include "server/app/router.h"

namespace tandem::server {
namespace {

RequestHead head_of(const std::string& host, Headers headers = {}) {
  return {.method = "POST", .path = "/v1/chat/completions", .host = host, .headers = std::move(headers)};
}

int status_of(const RequestGuard& guard, const RequestHead& head) {
  const auto refused = guard.check(head);
  return refused ? refused->status : 200;
}

TEST(RequestGuard, ALocalServerAnswersUnderLocalNamesOnly) {
  const RequestGuard guard{ServerOptions{.allowed_hosts = {"Box.example:80"}}};
  for (const char* host : {"localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:8000",
                           "box.example", "box.example:8000", ""})
    EXPECT_EQ(status_of(guard, head_of(host)), 200) << host;
  for (const char* host : {"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
                           "127.0.0.2", "[::2]", "[::1].evil.example"})
    EXPECT_EQ(status_of(guard, head_of(host)), 403) << host;
}

TEST(RequestGuard, AServerOfTheNetworkAnswersUnderEveryNameUnlessToldOtherwise) {
  EXPECT_EQ(status_of(RequestGuard{ServerOptions{.host = "0.0.0.0"}}, head_of("any.example")), 200);
  const RequestGuard strict{ServerOptions{.host = "0.0.0.0", .allowed_hosts = {"api.example"}}};
  EXPECT_EQ(status_of(strict, head_of("any.example")), 403);
  EXPECT_EQ(status_of(strict, head_of("api.example")), 200);
}

TEST(RequestGuard, PagesOfOtherSitesAreRefusedUnlessAllowed) {
  const RequestGuard closed{ServerOptions{}};
  EXPECT_EQ(status_of(closed, head_of("localhost:8000", {{"origin", "http://localhost:8000"}})), 200);
  for (const char* origin : {"http://localhost:3000", "https://evil.example", "null", ""}) {
    EXPECT_EQ(status_of(closed, head_of("localhost:8000", {{"origin", origin}})), 403) << origin;
    EXPECT_TRUE(closed.cors_headers(head_of("localhost:8000", {{"origin", origin}})).empty());
  }
  const RequestGuard open{ServerOptions{.cors_origins = {"https://app.example"}}};
  const RequestHead from_app = head_of("localhost:8000", {{"origin", "https://app.example"}});
  EXPECT_EQ(status_of(open, from_app), 200);
  EXPECT_EQ(*find_header(open.cors_headers(from_app), "access-control-allow-origin"), "https://app.example");
  EXPECT_EQ(status_of(open, head_of("localhost:8000", {{"origin", "https://evil.example"}})), 403);
  EXPECT_EQ(status_of(RequestGuard{ServerOptions{.cors_origins = {"*"}}}, from_app), 200);
}

TEST(RequestGuard, Preflights) {
  const RequestGuard open{ServerOptions{.cors_origins = {"https://app.example"}}};
  RequestHead head = head_of("localhost", {{"origin", "https://app.example"},
                                           {"access-control-request-method", "POST"},
                                           {"access-control-request-headers", "authorization"}});
  EXPECT_FALSE(open.preflight(head));  // not OPTIONS
  head.method = "OPTIONS";
  ASSERT_TRUE(open.preflight(head));
  EXPECT_EQ(open.preflight(head)->head.status, 204);
  EXPECT_EQ(*find_header(open.preflight(head)->head.headers, "access-control-allow-headers"), "authorization");
  EXPECT_FALSE((RequestGuard{ServerOptions{}}.preflight(head)));
}

TEST(RequestGuard, BodiesAreJson) {
  const RequestGuard guard{ServerOptions{}};
  for (const char* type : {"application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded",
                           "application/problem+json"})
    EXPECT_EQ(status_of(guard, head_of("localhost", {{"content-type", type}})), 200) << type;
  for (const char* type : {"text/plain", "multipart/form-data; boundary=x", "application/jsonx", ""})
    EXPECT_EQ(status_of(guard, head_of("localhost", {{"content-type", type}})), 415) << type;
  EXPECT_EQ(status_of(guard, head_of("localhost", {{"content-encoding", "gzip"}})), 415);
}

TEST(Router, EveryRouteIsFoundUnderItsMethodOnly) {
  for (const Surface surface : {Surface::kPublic, Surface::kControl}) {
    for (const Route& route : routes(surface)) {
      std::string path = route.path;
      if (path.ends_with('*')) path.back() = 'x';
      EXPECT_EQ(find_route(surface, route.method, path).route, &route) << path;
      const Match wrong = find_route(surface, "PATCH", path);
      EXPECT_EQ(wrong.route, nullptr);
      EXPECT_NE(wrong.allow.find(route.method), std::string::npos) << path;
    }
  }
  EXPECT_EQ(find_route(Surface::kPublic, "HEAD", "/health").route->handler, Handler::kHealth);
  EXPECT_EQ(find_route(Surface::kPublic, "GET", "/v1/models/org/name").argument, "org/name");
  for (const char* path : {"", "/v1", "/v1/models/", "/v1/chat/completions/", "//", "/page/", "/V1/models"})
    EXPECT_EQ(find_route(Surface::kPublic, "GET", path).route, nullptr) << path;
}

TEST(Router, NothingOfTheControlSurfaceIsPublic) {
  for (const Route& route : routes(Surface::kControl)) {
    if (!std::string_view(route.path).starts_with("/admin")) continue;
    EXPECT_TRUE(find_route(Surface::kPublic, route.method, route.path).allow.empty()) << route.path;
  }
  // What needs no key: health and the page, which hold nothing of anybody's.
  std::string open;
  for (const Route& route : routes(Surface::kPublic))
    if (route.open) open += std::string(route.path) + " ";
  EXPECT_EQ(open, "/ /page/* /health /ping /livez /readyz ");
}

}  // namespace
}  // namespace tandem::server

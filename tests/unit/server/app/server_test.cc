// The server on real sockets, over an engine that says what the test tells it to.
#include "server/server.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "server/app/router.h"
#include "unit/server/app/scripted_engine.h"
#include "unit/server/app/test_client.h"

namespace tandem::server {
namespace {

using engine::FinishReason;
using engine::ScriptedEngine;
using namespace std::chrono_literals;

constexpr const char* kStream = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kWhole = R"({"messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kChat = "/v1/chat/completions";

template <class Condition>
bool eventually(const Condition& condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() : tokenizer_(model::Tokenizer::load(kModel).value()) {
    folder_ = std::filesystem::temp_directory_path() / ("tandem_server_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    context_.model_ids = {"tiny"};
    context_.tokenizer = &tokenizer_;
    context_.chat = std::make_shared<const model::ChatPrompt>(model::ChatPrompt::load(kModel, tokenizer_).value());
    context_.vocab_size = static_cast<std::int64_t>(tokenizer_.vocab_size());
    context_.context_tokens = 2048;
    options_.port = 0;
    options_.control = (folder_ / "control.sock").string();
  }
  ~ServerTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void start(std::int64_t running_max = 64) {
    auto server = Server::create(options_, "1.2.3", running_max, context_, engine_, clock_);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
  }
  std::string file(const std::string& name, const std::string& text) {
    EXPECT_TRUE(write_file_atomic(folder_ / name, text).ok());
    return (folder_ / name).string();
  }
  Answer get(const std::string& path, const std::string& headers = "") {
    TestClient client(server_->port());
    client.get(path, headers);
    return client.answer();
  }
  Answer post(const std::string& path, const std::string& body, const std::string& headers = "") {
    TestClient client(server_->port());
    client.post(path, body, headers);
    return client.answer();
  }
  Answer control(const std::string& path, const std::string& body = "", const std::string& headers = "") {
    TestClient client(server_->control_address());
    client.post(path, body, headers);
    return client.answer();
  }
  // The call that was submitted as the nth, from 0.
  engine::RequestId call(std::size_t nth) {
    EXPECT_TRUE(engine_.wait_for_calls(nth + 1));
    return engine_.ids()[nth];
  }
  static std::string error_code(const Answer& answer) {
    const auto body = parse_json(answer.body, "body");
    if (!body.ok() || !body->is_object()) return "not JSON: " + answer.body;
    const json::value* error = find_member(body->get_object(), "error");
    if (error == nullptr) return "no error: " + answer.body;
    for (const char* member : {"message", "type", "param", "code"}) EXPECT_TRUE(error->as_object().contains(member));
    const json::value& code = error->at("code");
    return code.is_string() ? std::string(code.get_string()) : "";
  }

  static constexpr const char* kModel = TANDEM_SOURCE_DIR "/models/tinyworld-5m";
  SteadyClock clock_;
  std::filesystem::path folder_;
  model::Tokenizer tokenizer_;
  ApiContext context_;
  ServerOptions options_;
  ScriptedEngine engine_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, PlainRoutes) {
  start();
  EXPECT_EQ(get("/health").body, R"({"status":"ok"})");
  EXPECT_EQ(get("/livez").status, 200);
  EXPECT_EQ(get("/readyz").status, 200);
  EXPECT_EQ(get("/version").body, R"({"version":"1.2.3"})");
  EXPECT_NE(get("/v1/models").body.find("\"tiny\""), std::string::npos);
  EXPECT_EQ(get("/v1/models/tiny").status, 200);
  EXPECT_EQ(get("/v1/models/other").status, 404);
  EXPECT_NE(get("/metrics").body.find("tandem:num_requests_running"), std::string::npos);
  const Answer missing = get("/nowhere");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(error_code(missing), "unknown_url");
  EXPECT_NE(missing.header("x-request-id"), "");
  const Answer wrong = post("/health", "{}");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.header("allow"), "GET, HEAD");
  EXPECT_EQ(get("/health", "x-request-id: mine-1\r\n").header("x-request-id"), "mine-1");
  EXPECT_NE(get("/health", "x-request-id: a b\r\n").header("x-request-id"), "a b");
}

TEST_F(ServerTest, AWholeAnswer) {
  start();
  TestClient client(server_->port());
  client.post(kChat, kWhole);
  const auto id = call(0);
  engine_.say(id, "Hello");
  engine_.say(id, " you", FinishReason::kStop);
  const Answer answer = client.answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.whole);
  const auto body = parse_json(answer.body, "body").value();
  EXPECT_EQ(body.at("choices").at(0).at("message").at("content"), "Hello you");
  EXPECT_EQ(body.at("choices").at(0).at("finish_reason"), "stop");
  client.get("/health");  // the connection lives on
  EXPECT_EQ(client.answer().status, 200);
}

TEST_F(ServerTest, AStreamBeginsWithTheFirstTokenAndEndsWithDone) {
  start();
  TestClient client(server_->port());
  client.post(kChat, kStream);
  const auto id = call(0);
  EXPECT_EQ(client.buffered(), "");
  engine_.say(id, "Hel");
  ASSERT_TRUE(client.read_until("Hel"));
  engine_.say(id, "lo", FinishReason::kLength);
  const Answer answer = client.answer();
  EXPECT_EQ(answer.header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_TRUE(answer.whole);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  EXPECT_NE(answer.body.find("\"finish_reason\":\"length\""), std::string::npos);
}

TEST_F(ServerTest, AStepOfManyStreamsReachesEachOfThem) {
  start();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    clients.back()->post(kChat, kStream);
  }
  ASSERT_TRUE(engine_.wait_for_calls(20));
  for (int i = 0; i < 50; ++i) engine_.step("w ");
  engine_.step("end", FinishReason::kStop);
  for (auto& client : clients) {
    const Answer answer = client->answer();
    EXPECT_TRUE(answer.whole);
    std::size_t words = 0;
    for (std::size_t at = 0; (at = answer.body.find("\"w \"", at)) != std::string::npos; ++at) words += 1;
    // Steps that came while others were being written may share an event.
    EXPECT_GT(words, 0u);
    EXPECT_NE(answer.body.find("end"), std::string::npos);
  }
}

TEST_F(ServerTest, AClientThatLeavesIsCancelledAtOnce) {
  start();
  for (const char* body : {kStream, kWhole}) {
    const std::size_t nth = engine_.ids().size();
    auto client = std::make_unique<TestClient>(server_->port());
    client->post(kChat, body);
    const auto id = call(nth);
    if (body == kStream) {
      engine_.say(id, "Hel");
      ASSERT_TRUE(client->read_until("Hel"));
    }
    // Unread bytes make the close a reset, which a server sees whatever it is doing.
    client->close();
    if (body == kStream) engine_.say(id, "lo");
    ASSERT_TRUE(engine_.wait([&](const auto& calls) { return calls.at(id).cancelled; })) << body;
  }
  EXPECT_TRUE(
      eventually([&] { return get("/metrics").body.find("num_calls{model_name=\"tiny\"} 0") != std::string::npos; }));
}

TEST_F(ServerTest, ASlowReaderIsPausedAndThenGoesOn) {
  start();
  TestClient client(server_->port(), 4096);
  client.post(kChat, kStream);
  const auto id = call(0);
  const std::string kilobyte(1024, 'x');
  std::size_t said = 0;
  while (!engine_.call(id).held && said < 64 << 10) {
    engine_.say(id, kilobyte);
    said += 1;
    std::this_thread::sleep_for(20us);
  }
  ASSERT_TRUE(engine_.call(id).held);
  EXPECT_EQ(get("/health").status, 200);  // nobody else notices
  ASSERT_TRUE(client.read_until("\r\n\r\n"));
  std::thread reader([&] { client.read_until("the end"); });
  EXPECT_TRUE(engine_.wait([&](const auto& calls) { return !calls.at(id).held; }));
  engine_.say(id, "the end", FinishReason::kStop);
  reader.join();
  const Answer answer = client.answer();
  EXPECT_TRUE(answer.whole);
  std::size_t received = 0;
  for (const char c : answer.body) received += c == 'x';
  EXPECT_GE(received, said * 1024);  // nothing was lost
}

TEST_F(ServerTest, AReaderThatStopsIsCancelled) {
  options_.connection.stall_timeout_ns = 200'000'000;
  start();
  TestClient client(server_->port(), 4096);
  client.post(kChat, kStream);
  const auto id = call(0);
  for (int i = 0; i < 64 << 10 && !engine_.call(id).held; ++i) {
    engine_.say(id, std::string(1024, 'x'));
    std::this_thread::sleep_for(20us);
  }
  EXPECT_TRUE(engine_.wait([&](const auto& calls) { return calls.at(id).cancelled; }));
}

TEST_F(ServerTest, BeyondTheQueueCallsAreToldWhenToComeAgain) {
  options_.queue_requests_max = 1;
  start(/*running_max=*/1);
  TestClient first(server_->port()), second(server_->port());
  first.post(kChat, kWhole);
  const auto first_id = call(0);
  second.post(kChat, kWhole);
  call(1);
  const Answer refused = post(kChat, kWhole);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(error_code(refused), "queue_full");
  EXPECT_NE(refused.header("retry-after"), "");
  EXPECT_NE(refused.header("retry-after-ms"), "");
  EXPECT_EQ(post("/tokenize", R"({"prompt":"hi"})").status, 200);  // does not queue
  engine_.say(first_id, "x", FinishReason::kStop);
  EXPECT_EQ(first.answer().status, 200);
  TestClient third(server_->port());
  third.post(kChat, kWhole);
  call(2);
}

TEST_F(ServerTest, TheEnginesRefusalIsA429) {
  start();
  engine_.refuse(resource_exhausted("full"));
  EXPECT_EQ(post(kChat, kWhole).status, 429);
}

TEST_F(ServerTest, EveryRouteThatIsNotOpenNeedsAKey) {
  options_.api_key_file = file("keys", "alice: secret-key-1\n");
  start();
  for (const Route& route : routes(Surface::kPublic)) {
    std::string path = route.path;
    if (path.ends_with('*')) path.back() = 'x';
    for (const char* header : {"", "authorization: Bearer wrong-key-1\r\n", "x-api-key: secret-key-1\r\n"}) {
      TestClient client(server_->port());
      if (std::string_view(route.method) == "GET") {
        client.get(path, header);
      } else {
        client.post(path, "{}", header);
      }
      const Answer answer = client.answer();
      EXPECT_EQ(answer.status == 401, !route.open) << path << " " << answer.status;
      if (!route.open) {
        EXPECT_EQ(answer.header("www-authenticate"), "Bearer");
      }
    }
  }
  EXPECT_EQ(get("/version", "authorization: Bearer secret-key-1\r\n").status, 200);
  TestClient client(server_->port());
  client.post(kChat, kWhole, "authorization: Bearer secret-key-1\r\n");
  EXPECT_TRUE(engine_.call(call(0)).request.cache_salt.starts_with("alice"));

  // Keys are read again without a restart; a broken file changes nothing.
  file("keys", "bob: secret-key-2\n");
  ASSERT_TRUE(server_->reload().ok());
  EXPECT_EQ(get("/version", "authorization: Bearer secret-key-1\r\n").status, 401);
  EXPECT_EQ(get("/version", "authorization: Bearer secret-key-2\r\n").status, 200);
  file("keys", "");
  EXPECT_FALSE(server_->reload().ok());
  EXPECT_EQ(get("/version", "authorization: Bearer secret-key-2\r\n").status, 200);
}

TEST_F(ServerTest, RateLimit) {
  options_.requests_per_s_max = 1;
  start();
  int refused = 0;
  for (int i = 0; i < 5; ++i) {
    const Answer answer = get("/version");
    if (answer.status != 429) continue;
    refused += 1;
    EXPECT_EQ(error_code(answer), "rate_limited");
    EXPECT_NE(answer.header("retry-after-ms"), "");
  }
  EXPECT_GE(refused, 2);
  EXPECT_EQ(get("/health").status, 200);  // probes are not counted
}

TEST_F(ServerTest, StrangersAreRefused) {
  start();
  TestClient client(server_->port());
  client.send("GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n");
  EXPECT_EQ(client.answer().status, 403);
  EXPECT_EQ(post(kChat, kWhole, "origin: https://evil.example\r\n").status, 403);
  EXPECT_EQ(engine_.ids().size(), 0u);
}

TEST_F(ServerTest, FailuresOfTheEngine) {
  start();
  const auto failing = [&](const char* body, bool after_a_token, FinishReason reason, Status status) {
    const std::size_t nth = engine_.ids().size();
    TestClient client(server_->port());
    client.post(kChat, body);
    const auto id = call(nth);
    if (after_a_token) engine_.say(id, "some text");
    engine_.say(id, "", reason, std::move(status));
    return client.answer();
  };
  const Status lost(StatusCode::kAborted, "the step failed");
  for (const char* body : {kStream, kWhole}) {
    const Answer answer = failing(body, false, FinishReason::kError, lost);
    EXPECT_EQ(answer.status, 500);
    EXPECT_EQ(error_code(answer), "engine_error");
    EXPECT_EQ(failing(body, false, FinishReason::kDeadline, {}).status, 408);
    // Too much for this server whenever it is asked: not what a client tries again.
    const Status too_much(StatusCode::kResourceExhausted, "a prompt of 401 tokens needs 13 KV blocks, there are 4");
    const Answer refused = failing(body, false, FinishReason::kError, too_much);
    EXPECT_EQ(refused.status, 400);
    EXPECT_EQ(error_code(refused), "too_large");
  }
  EXPECT_EQ(failing(kWhole, true, FinishReason::kError, lost).status, 500);
  const Answer late = failing(kStream, true, FinishReason::kError, lost);
  EXPECT_EQ(late.status, 200);
  EXPECT_TRUE(late.whole);
  EXPECT_NE(late.body.find("data: {\"error\":"), std::string::npos);
  EXPECT_NE(late.body.find("engine_error"), std::string::npos);
  const Answer expired = failing(kStream, true, FinishReason::kDeadline, {});
  EXPECT_NE(expired.body.find("\"timeout\""), std::string::npos);
}

TEST_F(ServerTest, Timeouts) {
  options_.request_timeout_s_max = 50;
  start();
  TestClient plain(server_->port()), asking(server_->port()), greedy(server_->port());
  plain.post(kChat, kWhole);
  const auto left_s = [&](std::size_t nth) {
    const auto deadline = engine_.call(call(nth)).request.deadline;
    return deadline ? static_cast<double>(deadline->ns - clock_.now().ns) * 1e-9 : 0.0;
  };
  EXPECT_NEAR(left_s(0), 50, 5);
  asking.post(kChat, kWhole, "x-request-timeout-ms: 20000\r\n");
  EXPECT_NEAR(left_s(1), 20, 5);
  greedy.post(kChat, kWhole, "x-request-timeout-ms: 99999999\r\n");
  EXPECT_NEAR(left_s(2), 50, 5);
  EXPECT_EQ(post(kChat, kWhole, "x-request-timeout-ms: soon\r\n").status, 400);
}

TEST_F(ServerTest, SilentStreamsGetComments) {
  options_.ping_s = 0.1;
  start();
  TestClient client(server_->port());
  client.post(kChat, kStream);
  const auto id = call(0);
  ASSERT_TRUE(client.read_until(": ping"));
  engine_.say(id, "hello", FinishReason::kStop);
  EXPECT_TRUE(client.answer().body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServerTest, DrainFinishesWhatIsUnderWay) {
  start();
  TestClient idle(server_->port()), busy(server_->port());
  idle.get("/health");
  EXPECT_EQ(idle.answer().status, 200);
  busy.post(kChat, kStream);
  const auto id = call(0);
  engine_.say(id, "Hel");
  ASSERT_TRUE(busy.read_until("Hel"));
  const int port = server_->port();
  server_->begin_drain();
  EXPECT_TRUE(idle.read_to_end());
  EXPECT_TRUE(eventually([&] { return !TestClient(port).connected(); }));
  EXPECT_FALSE(server_->wait_drained(50ms));
  engine_.say(id, "lo", FinishReason::kStop);
  const Answer answer = busy.answer();
  EXPECT_TRUE(answer.whole);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(busy.read_to_end());
  EXPECT_TRUE(server_->wait_drained(5s));
}

TEST_F(ServerTest, WhatOutlivesTheDrainIsToldSo) {
  start();
  TestClient stream(server_->port()), whole(server_->port());
  stream.post(kChat, kStream);
  const auto id = call(0);
  engine_.say(id, "Hel");
  ASSERT_TRUE(stream.read_until("Hel"));
  whole.post(kChat, kWhole);
  call(1);
  server_->begin_drain();
  server_->abort_calls();
  const Answer cut = stream.answer();
  EXPECT_TRUE(cut.whole);
  EXPECT_NE(cut.body.find("shutting down"), std::string::npos);
  EXPECT_EQ(whole.answer().status, 503);
  EXPECT_TRUE(server_->wait_drained(5s));
  EXPECT_TRUE(engine_.call(id).cancelled);
}

TEST_F(ServerTest, DestroyingTheServerCancelsEverything) {
  start();
  TestClient client(server_->port());
  client.post(kChat, kStream);
  const auto id = call(0);
  server_.reset();
  EXPECT_TRUE(engine_.call(id).cancelled);
  engine_.step("into the void");
}

TEST_F(ServerTest, AStepThatDoesNotEndFailsHealthAndLiveness) {
  options_.stall_s = 60;
  start();
  engine_.set_turn_ns(59'000'000'000);
  for (const char* const path : {"/health", "/readyz", "/livez"}) EXPECT_EQ(get(path).status, 200) << path;
  engine_.set_turn_ns(75'000'000'000);
  for (const char* const path : {"/health", "/readyz", "/livez"}) {
    const auto answer = get(path);
    EXPECT_EQ(answer.status, 503) << path;
    EXPECT_NE(answer.body.find("at one step for 75 s"), std::string::npos) << answer.body;
  }
  const std::string metrics = get("/metrics").body;
  const std::size_t gauge = metrics.find("\ntandem:engine_step_seconds{");
  ASSERT_NE(gauge, std::string::npos);
  EXPECT_EQ(metrics.substr(metrics.find("} ", gauge), 5), "} 75\n");
  engine_.set_turn_ns(0);
  EXPECT_EQ(get("/livez").status, 200);
}

TEST_F(ServerTest, Control) {
  start();
  struct stat status {};
  ASSERT_EQ(::stat(server_->control_address().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(control("/admin/v1/weights", R"({"version":7})").status, 409);
  EXPECT_EQ(control("/admin/v1/pause").status, 200);
  EXPECT_TRUE(engine_.stats().paused);
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_EQ(get("/livez").status, 200);
  EXPECT_EQ(control("/admin/v1/weights", R"({"version":7})").body, R"({"weights_version":7})");
  EXPECT_EQ(control("/admin/v1/resume").status, 200);
  EXPECT_FALSE(engine_.stats().paused);
  EXPECT_EQ(control("/admin/v1/cache/flush").status, 200);
  EXPECT_EQ(engine_.flushes(), 1);
  const LogLevel level = log_level();
  EXPECT_EQ(control("/admin/v1/log", R"({"level":"error"})").status, 200);
  EXPECT_EQ(log_level(), LogLevel::kError);
  set_log_level(level);
  for (const auto& [path, body] :
       std::vector<std::pair<std::string, std::string>>{{"/admin/v1/log", R"({"level":"loud"})"},
                                                        {"/admin/v1/log", "[]"},
                                                        {"/admin/v1/log", "{"},
                                                        {"/admin/v1/weights", R"({"version":-1})"},
                                                        {"/admin/v1/weights", R"({"version":"7"})"},
                                                        {"/admin/v1/pause", R"({"mode":"hard"})"},
                                                        {"/admin/v1/pause", R"({"mode":1})"},
                                                        {"/admin/v1/abort", "{}"}})
    EXPECT_EQ(control(path, body).status, 400) << path << body;
  EXPECT_EQ(post("/admin/v1/pause", "").status, 404);  // nothing of it on the public port
}

TEST_F(ServerTest, OperatorsEndOneCallOrAll) {
  start();
  TestClient first(server_->port()), second(server_->port()), third(server_->port());
  first.post(kChat, kWhole, "x-request-id: one\r\n");
  call(0);
  second.post(kChat, kStream, "x-request-id: two\r\n");
  const auto id = call(1);
  third.post(kChat, kWhole);
  call(2);
  EXPECT_EQ(control("/admin/v1/abort", R"({"request_id":"one"})").status, 200);
  EXPECT_EQ(first.answer().status, 503);
  EXPECT_FALSE(engine_.call(id).cancelled);
  EXPECT_EQ(control("/admin/v1/abort", R"({"all":true})").status, 200);
  EXPECT_EQ(second.answer().status, 503);
  EXPECT_EQ(third.answer().status, 503);
}

TEST_F(ServerTest, ControlKeys) {
  options_.control = "127.0.0.1:0";
  EXPECT_FALSE(Server::create(options_, "1", 1, context_, engine_, clock_).ok());  // over TCP, keys are a must
  options_.control = (folder_ / "control.sock").string();
  options_.control_key_file = file("control_keys", "operator-key\n");
  start();
  EXPECT_EQ(control("/admin/v1/pause").status, 401);
  EXPECT_EQ(control("/admin/v1/pause", "", "authorization: Bearer operator-key\r\n").status, 200);
}

TEST_F(ServerTest, AReloadIsAllOrNothing) {
  options_.api_key_file = file("keys", "first-key-1\n");
  options_.control_key_file = file("control_keys", "operator-key\n");
  start();
  file("keys", "second-key-2\n");
  file("control_keys", "short\n");
  EXPECT_FALSE(server_->reload().ok());
  const auto status_with = [&](const std::string& key) {
    return get("/version", "authorization: Bearer " + key + "\r\n").status;
  };
  EXPECT_EQ(status_with("first-key-1"), 200);
  EXPECT_EQ(status_with("second-key-2"), 401);
  file("control_keys", "operator-key\n");
  EXPECT_TRUE(server_->reload().ok());
  EXPECT_EQ(status_with("first-key-1"), 401);
  EXPECT_EQ(status_with("second-key-2"), 200);
}

TEST_F(ServerTest, OptionsThatCannotWork) {
  start();
  const auto refusal = [&](const std::function<void(ServerOptions&)>& change) {
    ServerOptions options = options_;
    options.control = "off";
    change(options);
    const auto server = Server::create(options, "1", 1, context_, engine_, clock_);
    return server.ok() ? std::string("accepted") : server.status().message();
  };
  EXPECT_NE(refusal([&](auto& o) { o.port = server_->port(); }).find("--port"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.host = "0.0.0.0"; }).find("--api-key-file"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.host = "no.such.host.invalid"; }).find("--host"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.tls_key = "key.pem"; }).find("--tls-cert"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.tls_key = o.tls_certificate = "/nonexistent.pem"; }).find("/nonexistent.pem"),
            std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.api_key_file = "/nonexistent"; }).find("/nonexistent"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.unix_socket = std::string(200, 'a'); }).find("characters"), std::string::npos);
  EXPECT_NE(refusal([&](auto& o) { o.unix_socket = server_->control_address(); }).find("listen"), std::string::npos);
  EXPECT_NE(refusal([&](auto& o) { o.unix_socket = file("plain", "x"); }).find("no socket"), std::string::npos);
  EXPECT_EQ(refusal([](auto& o) { o.host = "0.0.0.0", o.insecure = true; }), "accepted");
}

TEST_F(ServerTest, AUnixSocketBesideThePort) {
  options_.unix_socket = (folder_ / "public.sock").string();
  start();
  TestClient client(options_.unix_socket);
  client.get("/health");
  EXPECT_EQ(client.answer().status, 200);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(options_.unix_socket));
}

TEST_F(ServerTest, ConnectionsArePerPeerAndInAllBounded) {
  options_.connections_per_peer_max = 3;
  start();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    clients.back()->get("/health");
    EXPECT_EQ(clients.back()->answer().status, 200);
  }
  EXPECT_EQ(get("/health").status, 0);
  clients.pop_back();
  EXPECT_TRUE(eventually([&] { return get("/health").status == 200; }));
}

TEST_F(ServerTest, WithoutFileDescriptorsCallersAreTurnedAwayAndThenServedAgain) {
  start();
  EXPECT_EQ(get("/health").status, 200);
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  std::vector<int> hogs;
  const rlimit low{256, limit.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &low);
  for (int fd; (fd = ::dup(0)) >= 0;) hogs.push_back(fd);
  // Descriptors that come free are taken by clients, until the server has none for its side of one.
  std::vector<std::unique_ptr<TestClient>> clients;
  bool refused = false;
  for (int i = 0; i < 20 && !refused; ++i) {
    ::close(hogs.back());
    hogs.pop_back();
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    clients.back()->get("/health");
    refused = clients.back()->answer().status == 0;
  }
  EXPECT_TRUE(refused);
  clients.clear();
  for (const int fd : hogs) ::close(fd);
  ::setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_TRUE(eventually([&] { return get("/health").status == 200; }));
}

TEST_F(ServerTest, ManyRandomCancelsLeaveNothingBehind) {
  start(1000);
  std::srand(7);
  for (int round = 0; round < 100; ++round) {
    TestClient client(server_->port());
    const bool streams = std::rand() % 2 == 0;
    client.post(kChat, streams ? kStream : kWhole);
    const int stage = std::rand() % 4;
    if (stage > 0) call(0);
    if (stage > 1) engine_.step("text");
    if (stage > 2 && streams) client.read_until("text");
    client.close();
    ASSERT_TRUE(eventually([&] {
      engine_.step("more");
      engine_.forget_ended();
      return engine_.ids().empty();
    }));
  }
  EXPECT_TRUE(eventually([&] {
    const std::string text = get("/metrics").body;
    return text.find("num_calls{model_name=\"tiny\"} 0\n") != std::string::npos &&
           text.find("connections_open{model_name=\"tiny\"} 1\n") != std::string::npos;
  }));
}

}  // namespace
}  // namespace tandem::server

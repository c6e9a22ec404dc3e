// The owner of a connection in tests: writes down every event, answers as told, and checks what connections promise.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/http/connection.h"

namespace tandem::server {

class Recorder final : public ConnectionEvents {
 public:
  struct Request {
    StreamId stream;
    RequestHead head;
    std::string body;
  };

  // What tests look at.
  std::vector<std::string> log;  // "head 1 GET /", "request 1 5", "cancel 1", "drained 1", "refuse 413"
  std::vector<Request> requests;
  std::set<std::int64_t> open;
  std::vector<std::int64_t> cancelled, drained;
  std::vector<int> refusals;
  // What tests say.
  std::function<std::optional<Response>(StreamId, const RequestHead&)> head_answer;
  std::function<void(StreamId, const Request&)> on_whole;
  std::function<void(StreamId)> on_cancelled, on_low;

  std::optional<Response> on_head(StreamId stream, const RequestHead& head) override {
    log.push_back("head " + std::to_string(stream.value()) + " " + head.method + " " + head.path);
    EXPECT_TRUE(heads_.insert(stream.value()).second) << "a stream's head comes once";
    return head_answer ? head_answer(stream, head) : std::nullopt;
  }
  void on_request(StreamId stream, RequestHead head, std::string body) override {
    log.push_back("request " + std::to_string(stream.value()) + " " + std::to_string(body.size()));
    EXPECT_TRUE(heads_.count(stream.value()) == 1 && announced_.insert(stream.value()).second);
    open.insert(stream.value());
    requests.push_back({stream, std::move(head), std::move(body)});
    if (on_whole) on_whole(stream, Request(requests.back()));
  }
  void on_cancel(StreamId stream) override {
    log.push_back("cancel " + std::to_string(stream.value()));
    EXPECT_EQ(open.erase(stream.value()), 1u) << "only open requests are cancelled, once";
    cancelled.push_back(stream.value());
    if (on_cancelled) on_cancelled(stream);
  }
  void on_drained(StreamId stream) override {
    log.push_back("drained " + std::to_string(stream.value()));
    EXPECT_EQ(open.count(stream.value()), 1u);
    drained.push_back(stream.value());
    if (on_low) on_low(stream);
  }
  Response on_refusal(int status, std::string_view reason) override {
    log.push_back("refuse " + std::to_string(status));
    refusals.push_back(status);
    EXPECT_FALSE(reason.empty());
    return {{status, {{"content-type", "text/plain"}}}, std::string(reason)};
  }

 private:
  std::set<std::int64_t> heads_, announced_;
};

// A connection with its owner and clock.
struct Peer {
  explicit Peer(Protocol protocol = Protocol::kHttp1, ConnectionLimits limits_given = {},
                std::size_t budget_bytes = 64u << 20)
      : limits(limits_given),
        budget(budget_bytes),
        budget_bytes_(static_cast<std::int64_t>(budget_bytes)),
        connection(Connection::create(protocol, limits, budget, recorder, now)) {}
  ~Peer() {
    EXPECT_EQ(static_cast<std::size_t>(connection->requests_open()), recorder.open.size());
    connection.reset();
    EXPECT_EQ(budget.left(), budget_bytes_);
  }

  void feed(std::string_view bytes) { connection->feed(bytes, now); }
  std::string pull(std::size_t bytes_max = 1 << 20) {
    std::string out;
    connection->pull(out, bytes_max, now);
    return out;
  }
  // Goes to `ns` from now, calling on_time() exactly when it is due.
  void pass(std::int64_t ns) {
    const TimePoint end{now.ns + ns};
    while (connection->deadline() <= end) {
      now.ns = std::max(now.ns, connection->deadline().ns);
      connection->on_time(now);
      if (connection->finished()) break;
    }
    now = end;
  }
  void respond(std::int64_t stream, int status, std::string body, Headers headers = {}) {
    recorder.open.erase(stream);
    connection->send_response(StreamId(stream), {{status, std::move(headers)}, std::move(body)});
  }
  void begin(std::int64_t stream) { connection->begin_response(StreamId(stream), {200, {}}); }
  void send(std::int64_t stream, std::string_view bytes) { connection->send_body(StreamId(stream), bytes); }
  void end(std::int64_t stream) {
    recorder.open.erase(stream);
    connection->end_body(StreamId(stream));
  }
  void abort(std::int64_t stream) {
    recorder.open.erase(stream);
    connection->abort(StreamId(stream));
  }

  ConnectionLimits limits;
  ByteBudget budget;
  std::int64_t budget_bytes_;
  TimePoint now{1'000'000};
  Recorder recorder;
  std::unique_ptr<Connection> connection;
};

}  // namespace tandem::server

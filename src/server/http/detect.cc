// Which protocol a connection speaks: told, or seen from its first bytes.
#include <algorithm>
#include <utility>

#include "server/http/connection_impl.h"

namespace tandem::server {
namespace {

// Keeps the bytes that agree with HTTP/2's preface; the first that does not makes the connection HTTP/1.1. Afterwards
// it only passes everything on.
class DetectingConnection final : public Connection {
 public:
  DetectingConnection(const ConnectionLimits& limits, ByteBudget& body_budget, ConnectionEvents& events, TimePoint now)
      : limits_(limits), budget_(body_budget), events_(events), since_(now) {}

  void feed(std::string_view bytes, TimePoint now) override {
    if (ended_) return;
    if (inner_) return inner_->feed(bytes, now);
    if (bytes.empty()) return;
    if (seen_.empty()) since_ = now;
    const std::string_view expected = kHttp2Preface.substr(seen_.size());
    const std::size_t compared = std::min(expected.size(), bytes.size());
    if (bytes.substr(0, compared) != expected.substr(0, compared)) {
      begin(create_http1_connection);
      inner_->feed(bytes, now);
    } else if (compared == expected.size()) {
      begin(create_http2_connection);
      inner_->feed(bytes, now);
    } else {
      seen_.append(bytes);
    }
  }
  bool wants_input() const override { return !ended_ && (!inner_ || inner_->wants_input()); }
  void feed_end(TimePoint now) override {
    if (inner_) return inner_->feed_end(now);
    ended_ = true;
  }
  void fail() override {
    if (inner_) return inner_->fail();
    ended_ = true;
  }
  void pull(std::string& out, std::size_t bytes_max, TimePoint now) override {
    if (inner_) inner_->pull(out, bytes_max, now);
  }
  void send_response(StreamId stream, Response response) override {
    if (inner_) inner_->send_response(stream, std::move(response));
  }
  void begin_response(StreamId stream, ResponseHead head) override {
    if (inner_) inner_->begin_response(stream, std::move(head));
  }
  void send_body(StreamId stream, std::string_view bytes) override {
    if (inner_) inner_->send_body(stream, bytes);
  }
  void end_body(StreamId stream) override {
    if (inner_) inner_->end_body(stream);
  }
  void abort(StreamId stream) override {
    if (inner_) inner_->abort(stream);
  }
  std::size_t backlog(StreamId stream) const override { return inner_ ? inner_->backlog(stream) : 0; }
  void drain() override {
    if (inner_) return inner_->drain();
    draining_ = true;
    ended_ |= seen_.empty();  // what has begun is read
  }
  bool finished() const override { return inner_ ? inner_->finished() : ended_; }
  int requests_open() const override { return inner_ ? inner_->requests_open() : 0; }
  TimePoint deadline() const override {
    if (inner_) return inner_->deadline();
    if (ended_) return kNever;
    return after(since_, seen_.empty() ? limits_.idle_timeout_ns : limits_.head_timeout_ns);
  }
  void on_time(TimePoint now) override {
    if (!inner_ && now >= deadline()) {
      if (seen_.empty()) {
        ended_ = true;
        return;
      }
      begin(create_http1_connection);  // half a preface is half a head
    }
    if (inner_) inner_->on_time(now);
  }

 private:
  template <class Create>
  void begin(Create create) {
    inner_ = create(limits_, budget_, events_, since_);
    inner_->feed(std::exchange(seen_, {}), since_);
    if (draining_) inner_->drain();
  }

  const ConnectionLimits limits_;
  ByteBudget& budget_;
  ConnectionEvents& events_;
  TimePoint since_;  // the start, then the first byte
  std::string seen_;
  bool ended_ = false, draining_ = false;
  std::unique_ptr<Connection> inner_;
};

}  // namespace

std::unique_ptr<Connection> Connection::create(Protocol protocol, const ConnectionLimits& limits,
                                               ByteBudget& body_budget, ConnectionEvents& events, TimePoint now) {
  switch (protocol) {
    case Protocol::kHttp1: return create_http1_connection(limits, body_budget, events, now);
    case Protocol::kHttp2: return create_http2_connection(limits, body_budget, events, now);
    case Protocol::kDetect: break;
  }
  return std::make_unique<DetectingConnection>(limits, body_budget, events, now);
}

}  // namespace tandem::server

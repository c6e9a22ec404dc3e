// The owner of a connection in fuzzers: answers in ways that the input chooses, and stops the program when a connection
// breaks a promise of connection.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "server/http/backlog.h"
#include "server/http/connection.h"

namespace tandem::server {

// Small, so that short inputs reach every limit.
inline ConnectionLimits fuzz_limits() {
  ConnectionLimits limits;
  limits.target_bytes_max = 100;
  limits.header_bytes_max = 400;
  limits.headers_max = 10;
  limits.body_bytes_max = 1000;
  limits.chunk_overhead_max = 100;
  limits.streams_max = 5;
  limits.pipelined_max = 3;
  limits.requests_max = 20;
  limits.backlog_high_bytes = 100;
  limits.backlog_low_bytes = 20;
  limits.resets_per_s = 0.5;
  limits.controls_per_s = 2;
  return limits;
}

class HttpOwner final : public ConnectionEvents {
 public:
  static constexpr std::int64_t kBudgetBytes = 2000;

  explicit HttpOwner(Protocol protocol, const ConnectionLimits& limits = fuzz_limits())
      : connection_(Connection::create(protocol, limits, budget_, *this, now_)) {}
  ~HttpOwner() override {
    connection_.reset();
    TD_CHECK(budget_.left() == kBudgetBytes, budget_.left());
  }

  void feed(std::string_view bytes) {
    connection_->feed(bytes, now_);
    check();
  }
  void feed_end() {
    connection_->feed_end(now_);
    check();
  }
  void fail() {
    connection_->fail();
    TD_CHECK(connection_->finished());
    check();
  }
  void drain() {
    connection_->drain();
    check();
  }
  void pull(std::size_t bytes_max) {
    const std::size_t before = sent.size();
    connection_->pull(sent, bytes_max, now_);
    // One head, frame or chunk may be longer than asked for.
    TD_CHECK(sent.size() - before <= bytes_max + 40'000, sent.size() - before, bytes_max);
    check();
  }
  void pass(std::int64_t ns) {
    const TimePoint end{now_.ns + ns};
    while (connection_->deadline() <= end) {
      now_.ns = std::max(now_.ns, connection_->deadline().ns);
      connection_->on_time(now_);
      TD_CHECK(connection_->deadline() > now_, connection_->deadline().ns, now_.ns);  // or owners would spin
      check();
    }
    now_ = end;
  }
  // Goes on with one of the open requests, chosen and treated as `choice` says.
  void answer(std::uint8_t choice) {
    if (open_.empty()) return;
    auto it = open_.begin();
    std::advance(it, choice % open_.size());
    const StreamId id = it->first;
    Answer& answer = it->second;
    switch (choice / 8 % 8) {
      case 0:
        if (answer.begun) break;
        connection_->send_response(id, {{200, {{"x", "y"}}}, std::exchange(answer.body, {})});
        open_.erase(id);
        break;
      case 1:
        connection_->abort(id);
        open_.erase(id);
        break;
      case 2:
        begin(id, answer, choice >= 128 ? 204 : 200);
        connection_->end_body(id);
        open_.erase(id);
        break;
      default: begin(id, answer, 200); connection_->send_body(id, std::string(choice, 'z'));
    }
    check();
  }
  void set_policy(std::uint8_t policy) { policy_ = policy; }
  bool finished() const { return connection_->finished(); }

  // What happened, in words, and what was sent.
  std::string log, sent;

 private:
  struct Answer {
    std::string body;
    bool begun = false;
  };

  std::optional<Response> on_head(StreamId stream, const RequestHead& head) override {
    note("head", stream) += head.method + " " + head.path + "?" + head.query + " " + head.host;
    for (const Header& header : head.headers) log += "|" + header.name + ":" + header.value;
    TD_CHECK(!head.path.empty() && (head.path.front() == '/' || head.path == "*"), head.path);
    TD_CHECK(head.path.find("/../") == std::string::npos && head.path.find('\\') == std::string::npos, head.path);
    TD_CHECK(!head.host.empty() || head.version == HttpVersion::k10);
    TD_CHECK(heads_.emplace(stream, true).second, stream.value());
    if (policy_ % 4 != 1) return std::nullopt;
    return Response{{429, {}}, "no"};
  }
  void on_request(StreamId stream, RequestHead head, std::string body) override {
    note("request", stream) += head.method + " " + body;
    TD_CHECK(heads_.count(stream) == 1 && open_.emplace(stream, Answer{std::move(body)}).second, stream.value());
    if (policy_ % 4 == 2) answer(policy_);
    if (policy_ % 16 == 3) connection_->drain();
    if (policy_ % 32 == 7) connection_->fail();
  }
  void on_cancel(StreamId stream) override {
    note("cancel", stream);
    TD_CHECK(open_.erase(stream) == 1, stream.value());
  }
  void on_drained(StreamId stream) override {
    TD_CHECK(open_.count(stream) == 1, stream.value());
    if (policy_ % 4 == 3) connection_->send_body(stream, "more");
  }
  Response on_refusal(int status, std::string_view reason) override {
    note("refuse", StreamId(status)) += reason;
    return {{status, {}}, std::string(reason)};
  }

  std::string& note(std::string_view what, StreamId stream) {
    return log.append("\n").append(what).append(" ").append(std::to_string(stream.value())).append(" ");
  }
  void begin(StreamId id, Answer& answer, int status) {
    if (!std::exchange(answer.begun, true)) connection_->begin_response(id, {status, {}});
  }

  void check() const {
    if (!connection_) return;  // within its constructor
    TD_CHECK(connection_->requests_open() == static_cast<int>(open_.size()), connection_->requests_open(),
             open_.size());
    TD_CHECK(budget_.left() >= 0 && budget_.left() <= kBudgetBytes, budget_.left());
    if (!connection_->finished()) return;
    TD_CHECK(open_.empty() && !connection_->wants_input() && connection_->deadline() == kNever);
  }

  ByteBudget budget_{kBudgetBytes};
  TimePoint now_{1};
  std::uint8_t policy_ = 0;
  std::map<StreamId, Answer> open_;
  std::map<StreamId, bool> heads_;
  std::unique_ptr<Connection> connection_;
};

// Runs an input: its first byte says how many of the next are commands, and the rest is what the peer sends.
inline void run_http_history(Protocol protocol, const std::uint8_t* data, std::size_t size,
                             std::string_view before = "") {
  const std::size_t commands = size == 0 ? 0 : std::min<std::size_t>(data[0], size - 1);
  std::string_view bytes(reinterpret_cast<const char*>(data) + (size == 0 ? 0 : 1 + commands),
                         size == 0 ? 0 : size - 1 - commands);
  {
    HttpOwner owner(protocol);
    if (!before.empty()) owner.feed(before);
    for (std::size_t i = 0; i < commands; ++i) {
      const std::uint8_t command = data[1 + i], value = command / 8;
      switch (command % 8) {
        case 0:
        case 1: {
          const std::size_t count =
              std::min<std::size_t>(bytes.size(), command % 8 == 0 ? value + 1u : 1u << value / 2);
          owner.feed(bytes.substr(0, count));
          bytes.remove_prefix(count);
          break;
        }
        case 2: owner.pull(std::size_t{1} << value); break;
        case 3:
        case 4: owner.answer(static_cast<std::uint8_t>(value * 9)); break;
        case 5: owner.pass((kSecondNs / 16) << value % 12); break;
        case 6: owner.set_policy(value); break;
        default:
          if (value == 0) owner.fail();
          if (value == 1) owner.drain();
          if (value == 2) owner.feed_end();
      }
    }
    owner.feed(bytes);
    for (int i = 0; i < 20; ++i) {
      owner.pull(1 << 20);
      owner.answer(static_cast<std::uint8_t>(i * 16));
    }
    owner.pass(1'000'000 * kSecondNs);
    owner.pull(1 << 20);
    owner.pass(1'000'000 * kSecondNs);
    // Open requests may take their owner as long as they like; without them, nothing lasts.
    for (int i = 0; i < 100; ++i) owner.answer(0), owner.answer(16);
    owner.pull(1 << 20);
    owner.pass(1'000'000 * kSecondNs);
    owner.pull(1 << 20);
    TD_CHECK(owner.finished());
  }
  // However the bytes are split, the same happens.
  HttpOwner whole(protocol), split(protocol);
  const std::string all = std::string(before) + std::string(bytes);
  whole.feed(all);
  for (std::size_t i = 0; i < all.size(); ++i) split.feed(std::string_view(all).substr(i, 1));
  TD_CHECK(whole.log == split.log, whole.log, split.log);
  if (protocol != Protocol::kHttp2) {  // nghttp2 may leave acknowledgements out once a GOAWAY came
    whole.pull(1 << 20);
    split.pull(1 << 20);
    TD_CHECK(whole.sent == split.sent, whole.sent, split.sent);
  }
  whole.fail();
  split.fail();
}

}  // namespace tandem::server

// Random histories of requests, answers in parts, partial reads, cancellations, drains and time, against a model: every
// request ends exactly once, the budget returns to its start, backlogs are exact, and what arrives is what was given.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "unit/server/http/http1_client.h"
#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

ConnectionLimits small_limits() {
  ConnectionLimits limits;
  limits.pipelined_max = 4;
  limits.streams_max = 6;
  limits.backlog_high_bytes = 3000;
  limits.backlog_low_bytes = 500;
  limits.requests_max = 60;
  limits.body_bytes_max = 5000;
  return limits;
}

// The owner's side of a history: answers open requests in random parts, and remembers what it gave.
class Owner {
 public:
  Owner(Protocol protocol, unsigned seed) : random(seed), peer(protocol, small_limits(), 20'000) {
    peer.recorder.on_whole = [this](StreamId stream, const Recorder::Request& request) {
      body_bytes[stream.value()] = request.body.size();
    };
    peer.recorder.head_answer = [this](StreamId stream, const RequestHead& head) -> std::optional<Response> {
      is_head[stream.value()] = head.method == "HEAD";
      if (!chance(15)) return std::nullopt;
      given[stream.value()] = "rejected";
      return Response{{429, {}}, "rejected"};
    };
  }

  bool chance(unsigned one_in) { return random() % one_in == 0; }
  std::size_t up_to(std::size_t bound) { return random() % bound; }

  void answer() {
    if (peer.recorder.open.empty()) return;
    auto it = peer.recorder.open.begin();
    std::advance(it, up_to(peer.recorder.open.size()));
    const std::int64_t id = *it;
    const bool begun = given.count(id) == 1;
    if (!begun && chance(3)) {
      given[id] = piece(id, up_to(2) * up_to(9000));
      return peer.respond(id, 200, given[id]);
    }
    if (!begun) {
      given[id];
      return peer.begin(id);
    }
    if (chance(60)) {
      aborted.insert(id);
      return peer.abort(id);
    }
    if (chance(8)) return peer.end(id);
    const std::string bytes = piece(id, up_to(chance(10) ? 5000 : 40));
    peer.send(id, bytes);
    given[id] += bytes;
  }

  // `received` of a stream whose answer's bytes all arrived so far.
  void check_backlog(std::int64_t id, const std::string& received) {
    const std::string& all = given[id];
    ASSERT_EQ(received, all.substr(0, received.size())) << id;
    if (peer.recorder.open.count(id) == 0 || is_head[id]) return;
    ASSERT_EQ(peer.connection->backlog(StreamId(id)), all.size() - received.size()) << id;
  }
  void check_state() {
    ASSERT_EQ(peer.connection->requests_open(), static_cast<int>(peer.recorder.open.size()));
    std::int64_t open_bytes = 0;
    for (const std::int64_t id : peer.recorder.open) open_bytes += static_cast<std::int64_t>(body_bytes[id]);
    ASSERT_LE(open_bytes, peer.budget_bytes_ - peer.budget.left());
    ASSERT_GE(peer.budget.left(), 0);
    if (peer.connection->finished()) {
      ASSERT_FALSE(peer.connection->wants_input());
      ASSERT_EQ(peer.connection->deadline(), kNever);
      ASSERT_EQ(peer.budget.left(), peer.budget_bytes_);
      ASSERT_TRUE(peer.recorder.open.empty());
    }
  }

  std::mt19937 random;
  Peer peer;
  std::map<std::int64_t, std::string> given;
  std::map<std::int64_t, std::size_t> body_bytes;
  std::map<std::int64_t, bool> is_head;
  std::set<std::int64_t> aborted;

 private:
  std::string piece(std::int64_t id, std::size_t bytes) {
    std::string text(bytes, '\0');
    for (char& c : text) c = static_cast<char>('a' + (id * 7 + static_cast<std::int64_t>(++written_[id])) % 26);
    return text;
  }
  std::map<std::int64_t, std::size_t> written_;
};

class Http1History : public Owner {
 public:
  explicit Http1History(unsigned seed) : Owner(seed % 2 == 0 ? Protocol::kHttp1 : Protocol::kDetect, seed) {}

  void run() {
    const bool clean = !chance(3);  // nobody breaks off
    for (int i = 0; i < 400 && !peer.connection->finished(); ++i) {
      switch (up_to(8)) {
        case 0:
        case 1: send_some(); break;
        case 2:
        case 3:
        case 4: answer(); break;
        case 5:
        case 6: pull(1 + up_to(chance(2) ? 50 : 20'000)); break;
        default: peer.pass(static_cast<std::int64_t>(up_to(chance(10) ? 8'000 : 100)) * 1'000'000);
      }
      if (chance(400)) peer.connection->drain();
      if (!clean && chance(200)) peer.connection->feed_end(peer.now);
      if (!clean && chance(300)) {
        failed_ = true;
        peer.connection->fail();
      }
      check_state();
      if (testing::Test::HasFatalFailure()) return;
    }
    // To the end: everything is answered and read.
    peer.connection->drain();
    for (int i = 0; i < 10'000 && !peer.connection->finished(); ++i) {
      send_some();
      answer();
      pull(1 << 20);
      if (i > 5000 || wire_.empty()) peer.pass(kSecondNs);
    }
    EXPECT_TRUE(peer.connection->finished());
    check_state();
    if (failed_ || !aborted.empty() || !peer.recorder.cancelled.empty() || !peer.recorder.refusals.empty()) return;
    for (std::size_t i = 0; i < client_.answers.size(); ++i) EXPECT_TRUE(client_.answers[i].ended) << i;
    for (const Recorder::Request& request : peer.recorder.requests)
      EXPECT_LE(request.stream.value(), static_cast<std::int64_t>(client_.answers.size()));
  }
  std::size_t requests_count() const { return peer.recorder.requests.size(); }

 private:
  void send_some() {
    if (wire_.size() < 200 && client_.head_requests.size() < 80) add_request();
    if (!peer.connection->wants_input()) return;
    const std::size_t count = std::min(wire_.size(), 1 + up_to(chance(2) ? 10 : 2000));
    peer.feed(wire_.substr(0, count));
    wire_.erase(0, count);
  }
  void add_request() {
    const std::string body(up_to(chance(8) ? 8000 : 600), 'b');
    const std::string path = "/" + std::to_string(client_.head_requests.size() + 1);
    const std::size_t kind = up_to(6);
    client_.head_requests.push_back(kind == 0);
    const std::string more = chance(10) ? "Expect: 100-continue\r\n" : "";
    if (kind == 0) {
      wire_ += "HEAD " + path + " HTTP/1.1\r\nHost: h\r\n\r\n";
    } else if (kind <= 2) {
      wire_ += "GET " + path + " HTTP/1.1\r\nHost: h\r\n" + (chance(60) ? "Connection: close\r\n" : "") + "\r\n";
    } else if (kind <= 4) {
      wire_ += "POST " + path + " HTTP/1.1\r\nHost: h\r\n" + more + "Content-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body;
    } else {
      wire_ += "POST " + path + " HTTP/1.1\r\nHost: h\r\n" + more + "Transfer-Encoding: chunked\r\n\r\n";
      for (std::size_t at = 0; at < body.size();) {
        const std::size_t count = std::min(body.size() - at, 1 + up_to(100));
        wire_ += fmt::format("{:x}{}\r\n", count, chance(9) ? ";x=y" : "") + body.substr(at, count) + "\r\n";
        at += count;
      }
      wire_ += "0\r\n\r\n";
    }
  }
  void pull(std::size_t bytes_max) {
    client_.feed(peer.pull(bytes_max));
    if (!client_.at_rest()) return;
    for (std::size_t i = 0; i < client_.answers.size(); ++i) {
      const Http1Client::Answer& answer = client_.answers[i];
      const std::int64_t id = static_cast<std::int64_t>(i) + 1;
      if (answer.status == 200 && !is_head[id]) check_backlog(id, answer.body);
    }
  }

  Http1Client client_;
  std::string wire_;
  bool failed_ = false;
};

class Http2History : public Owner {
 public:
  explicit Http2History(unsigned seed) : Owner(seed % 2 == 0 ? Protocol::kHttp2 : Protocol::kDetect, seed) {}

  void run() {
    const bool clean = !chance(3);
    for (int i = 0; i < 400 && !peer.connection->finished(); ++i) {
      switch (up_to(10)) {
        case 0:
        case 1: client_step(); break;
        case 2:
        case 3: carry_up(); break;
        case 4:
        case 5:
        case 6: answer(); break;
        case 7:
        case 8: carry_down(1 + up_to(chance(2) ? 50 : 20'000)); break;
        default: peer.pass(static_cast<std::int64_t>(up_to(chance(10) ? 8'000 : 100)) * 1'000'000);
      }
      if (chance(400)) peer.connection->drain();
      if (!clean && chance(400)) peer.connection->feed_end(peer.now);
      if (!clean && chance(400)) peer.connection->fail();
      check_state();
      if (testing::Test::HasFatalFailure()) return;
    }
    peer.connection->drain();
    for (const auto& [id, left] : uploads_) client_.upload(id, "", true);
    uploads_.clear();
    for (int i = 0; i < 3000 && !peer.connection->finished(); ++i) {
      carry_up();
      answer();
      carry_down(1 << 20);
      if (i > 1000) peer.pass(kSecondNs);
    }
    EXPECT_TRUE(peer.connection->finished());
    check_state();
    // An answer that was ended and neither reset nor lost has arrived whole.
    for (const auto& [id, answer] : client_.answers) {
      if (!answer.closed || answer.error != 0 || aborted.count(id) == 1) continue;
      if (answer.statuses.empty() || answer.statuses.back() != 200 || is_head[id]) continue;
      EXPECT_EQ(answer.body, given[id]) << id;
      EXPECT_TRUE(answer.ended);
    }
  }
  std::size_t requests_count() const { return peer.recorder.requests.size(); }

 private:
  void client_step() {
    if (ids_.size() < 80 && !chance(3)) {
      const bool later = chance(3);
      const std::string body(up_to(chance(8) ? 8000 : 600), 'b');
      const char* const methods[] = {"GET", "HEAD", "POST"};
      const std::string method = methods[up_to(3)];
      const std::int32_t id =
          client_.request(method, "/" + std::to_string(ids_.size()), later || chance(2) ? &body : nullptr,
                          chance(10) ? Headers{{"expect", "100-continue"}} : Headers{}, !later);
      ids_.push_back(id);
      if (later) uploads_[id] = 3;
      return;
    }
    if (!uploads_.empty() && chance(2)) {
      const auto it = uploads_.begin();
      const bool end = --it->second == 0;
      client_.upload(it->first, std::string(up_to(300), 'u'), end);
      if (end) uploads_.erase(it);
      return;
    }
    if (!ids_.empty() && chance(4)) {
      const std::int32_t id = ids_[up_to(ids_.size())];
      client_.reset(id);
      reset_.insert(id);
      uploads_.erase(id);
    }
  }
  void carry_up() {
    std::string bytes = client_.pull();
    while (!bytes.empty()) {
      const std::size_t count = std::min(bytes.size(), 1 + up_to(chance(2) ? 10 : 2000));
      peer.feed(bytes.substr(0, count));
      bytes.erase(0, count);
    }
  }
  void carry_down(std::size_t bytes_max) {
    const std::string bytes = peer.pull(bytes_max);
    if (!bytes.empty()) client_.feed_some(bytes);
    for (const std::int64_t id : peer.recorder.open) {
      const Http2Client::Answer& answer = client_.answers[static_cast<std::int32_t>(id)];
      // What still comes for a stream that it reset, the client drops.
      if (given.count(id) == 1 && reset_.count(id) == 0) check_backlog(id, answer.body);
    }
  }

  Http2Client client_;
  std::vector<std::int32_t> ids_;
  std::map<std::int32_t, int> uploads_;  // pieces left
  std::set<std::int64_t> reset_;
};

template <class History>
void run_histories(unsigned count) {
  std::size_t requests = 0, cancelled = 0, drained = 0, refused = 0;
  for (unsigned seed = 1; seed <= count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    history.run();
    requests += history.requests_count();
    cancelled += history.peer.recorder.cancelled.size();
    drained += history.peer.recorder.drained.size();
    refused += history.peer.recorder.refusals.size();
    if (testing::Test::HasFailure()) return;
  }
  // The histories reach what they are for.
  EXPECT_GT(requests, 5 * count);
  EXPECT_GT(cancelled, count / 20);
  EXPECT_GT(drained, count / 20);
  EXPECT_GT(refused, count / 20);
}

TEST(RandomHistory, Http1) { run_histories<Http1History>(1500); }
TEST(RandomHistory, Http2) { run_histories<Http2History>(1500); }

}  // namespace
}  // namespace tandem::server

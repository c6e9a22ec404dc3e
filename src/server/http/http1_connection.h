// HTTP/1.1 and 1.0, the server's side of one connection.
//
// Requests are read one after the other; up to pipelined_max of them may be under way, and their answers leave in the
// order of the requests: what later ones have to say waits in their exchange. A streamed answer leaves as one chunk per
// pull(), however many pieces it was given in.
//
// How it ends. After an answer that says "connection: close" nothing more is read as a request. If the peer was still
// sending (a refused head, an unwanted body), its bytes are read and dropped for a while after the answer is out, up to
// kLingerBytes and kLingerNs, since closing a socket with unread bytes makes the peer's system throw the answer away.
// An unwanted body of known length up to kDiscardBytes is read and dropped instead, and the connection lives on.
// Threads: one at a time.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "server/http/answer_head.h"
#include "server/http/backlog.h"
#include "server/http/connection_impl.h"
#include "server/http/http1_chunks.h"
#include "server/http/http1_head.h"

namespace tandem::server {

class Http1Connection final : public Connection {
 public:
  static constexpr std::size_t kDiscardBytes = 64 << 10, kLingerBytes = 256 << 10;
  static constexpr std::int64_t kLingerNs = 2 * kSecondNs;

  Http1Connection(const ConnectionLimits& limits, ByteBudget& body_budget, ConnectionEvents& events, TimePoint now);
  ~Http1Connection() override;

  void feed(std::string_view bytes, TimePoint now) override;
  bool wants_input() const override;
  void feed_end(TimePoint now) override;
  void fail() override;
  void pull(std::string& out, std::size_t bytes_max, TimePoint now) override;
  void send_response(StreamId stream, Response response) override;
  void begin_response(StreamId stream, ResponseHead head) override;
  void send_body(StreamId stream, std::string_view bytes) override;
  void end_body(StreamId stream) override;
  void abort(StreamId stream) override;
  std::size_t backlog(StreamId stream) const override;
  void drain() override;
  bool finished() const override;
  int requests_open() const override { return requests_open_; }
  TimePoint deadline() const override;
  void on_time(TimePoint now) override;

 private:
  // One request and its answer.
  struct Exchange {
    Exchange(StreamId stream, const ConnectionLimits& limits) : id(stream), body(limits) {}
    StreamId id;
    bool open = false;  // announced by on_request(), and not ended
    bool http10 = false, head_method = false;
    bool close = false;         // the connection ends after this answer
    bool continue_due = false;  // the peer waits for 100 before it sends the body
    bool aborted = false;
    bool head_written = false, whole = false, ended = false;
    std::size_t body_taken = 0;  // of the budget, for the request's body
    std::optional<ResponseHead> head;
    Backlog body;

    bool has_body() const { return !head_method && status_has_body(head->status); }
  };
  enum class Input : std::uint8_t {
    kHead,     // before or in a head
    kBody,     // in the body of exchanges_.back()
    kDiscard,  // in a body that nobody wants
    kClosed,   // no further request is read
  };

  Exchange* find(StreamId stream);
  Exchange* find_open(StreamId stream);
  Exchange& push_exchange();

  // Reading.
  bool read_held(TimePoint now);
  std::size_t read(std::string_view bytes, TimePoint now);
  std::size_t read_head(std::string_view bytes, TimePoint now);
  std::size_t read_body(std::string_view bytes, TimePoint now);
  std::size_t read_discarded(std::string_view bytes, TimePoint now);
  void begin_request(TimePoint now);
  bool accept_head(Http1Head& head, TimePoint now);
  void announce();
  bool take_body(std::string_view data, TimePoint now);
  void refuse(const Refusal& refusal, TimePoint now);
  void close_input(bool linger);
  void cut_behind(Exchange& exchange);
  void drop_body(Exchange& exchange);

  // Writing.
  void write_answers(std::string& out, std::size_t end, TimePoint now);
  bool write_exchange(Exchange& exchange, std::string& out, std::size_t end, TimePoint now);
  void write_head(Exchange& exchange, std::string& out);
  void set_answer(Exchange& exchange, Response response);
  bool front_waits() const;
  void on_exchange_done(bool close, TimePoint now);

  // Ending.
  void end_request(Exchange& exchange);
  void cancel_behind();
  void stamp(TimePoint now);
  TimePoint input_due() const;
  TimePoint output_due() const;

  const ConnectionLimits limits_;
  ByteBudget& budget_;
  ConnectionEvents& events_;
  TimePoint now_;  // the latest that a caller said

  Input input_ = Input::kHead;
  HeadScanner scanner_;
  TimePoint head_since_;  // the head's first byte
  TimePoint idle_since_;  // no request under way since
  RequestHead request_;   // whose body is being read
  std::string request_body_;
  std::optional<ChunkDecoder> chunks_;
  std::uint64_t body_left_ = 0;  // without chunks; also of a discarded body
  BodyClock body_clock_;
  std::string held_;  // read from the transport, not yet looked at
  bool draining_ = false, failed_ = false;
  bool lingering_ = false;  // drops what comes after the last request
  std::size_t lingered_bytes_ = 0;
  std::optional<TimePoint> linger_until_;

  std::deque<Exchange> exchanges_;  // in the order of the requests; ids are consecutive
  std::int64_t requests_count_ = 0;
  int requests_open_ = 0;
  bool cancels_due_ = false;  // those behind an exchange that turned out to be the last
  StallClock stall_;          // of the front exchange's output
};

}  // namespace tandem::server

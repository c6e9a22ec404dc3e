// HTTP/2, the server's side of one connection, around nghttp2's session.
//
// nghttp2 keeps the protocol: framing, HPACK, states, flow control, the form of messages. This class keeps what a
// server needs besides: limits of heads and bodies, refusals, backlogs, time, and an account of what peers make us do
// (Http2FrameMeter). Too much of it ends in GOAWAY with ENHANCE_YOUR_CALM. Answers share the connection evenly,
// whatever priorities the peer asks for.
//
// How a request ends early. Reset by the peer, or broken by it (nghttp2 then resets it): on_cancel() at once, before
// our reset is even sent. Refused or unwanted before its body is whole: the answer is sent, up to kDiscardBytes more of
// the body are read and dropped, and then RST_STREAM with NO_ERROR asks the peer to stop. How a connection ends.
// drain(): a shutdown notice and a PING; once it is answered, or after kDrainNoticeNs, GOAWAY with the last request
// taken. Idle: GOAWAY. Threads: one at a time.
#pragma once

#include <nghttp2/nghttp2.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/http/backlog.h"
#include "server/http/connection_impl.h"
#include "server/http/http2_frame_meter.h"
#include "server/http/target.h"

namespace tandem::server {

class Http2Connection final : public Connection {
 public:
  static constexpr std::size_t kDiscardBytes = 64 << 10;
  static constexpr std::int64_t kDrainNoticeNs = kSecondNs;
  static constexpr std::int32_t kWindowBytes = 1 << 20;  // of the connection, and of each stream's upload

  Http2Connection(const ConnectionLimits& limits, ByteBudget& body_budget, ConnectionEvents& events, TimePoint now);
  ~Http2Connection() override;

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
  // Tells our own PING, sent with the notice of a shutdown, from others.
  static constexpr std::uint8_t kDrainPing[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};

  enum class Input : std::uint8_t {
    kHead,
    kBody,     // of a request that is wanted
    kDiscard,  // of one that was answered already
    kEnded,    // END_STREAM came
  };
  struct Stream {
    Stream(std::int32_t stream_id, std::size_t place, const ConnectionLimits& limits)
        : id(stream_id), index(place), body(limits) {}
    const std::int32_t id;
    std::size_t index;  // in streams_
    Input input = Input::kHead;
    RequestHead request;
    std::string target, authority;
    std::size_t header_bytes = 0;
    std::optional<Refusal> head_refusal;
    std::string request_body;
    std::size_t body_taken = 0, discarded_bytes = 0;
    BodyClock body_clock;
    bool open = false;       // announced by on_request(), and not ended
    bool answered = false;   // the answer's head was given
    bool ended = false;      // all of the answer was given
    bool deferred = false;   // nghttp2 waits for resume_data()
    bool end_sent = false;   // END_STREAM has left
    bool stop_peer = false;  // the peer is to stop sending once the answer is out
    bool reset = false;      // RST_STREAM is on its way
    bool blameless = false;  // that RST_STREAM, if any, is our wish and not the peer's fault
    bool unstamped = false;  // is in unstamped_
    bool bodiless = false;   // the answer is but its head
    Backlog body;
  };

  static nghttp2_session* create_session(Http2Connection* self, const ConnectionLimits& limits);
  Stream* find(StreamId stream) const;
  Stream* find_open(StreamId stream) const;

  // Reading: nghttp2's callbacks, and what they lead to.
  void on_begin_headers(const nghttp2_frame& frame);
  void on_header(Stream& stream, std::string_view name, std::string_view value);
  void on_frame_received(const nghttp2_frame& frame);
  void on_data(Stream& stream, std::string_view data);
  void on_stream_closed(std::int32_t id);
  void on_frame_sent(const nghttp2_frame& frame);
  ssize_t read_answer(Stream& stream, std::uint8_t* bytes, std::size_t bytes_max, std::uint32_t& flags);
  void finish_head(Stream& stream, bool whole);
  std::optional<Refusal> check_head(Stream& stream, std::uint64_t& body_bytes, bool& expects_continue);
  void announce(Stream& stream);
  void refuse(Stream& stream, const Refusal& refusal);

  // Writing.
  void answer(Stream& stream, Response response);
  void submit_head(Stream& stream, const ResponseHead& head, std::optional<std::size_t> body_bytes);
  void note_backlog(Stream& stream);
  void resume(Stream& stream);
  void stop_peer(Stream& stream);
  void reset(Stream& stream, std::uint32_t error_code);

  // Ending.
  void drop_body(Stream& stream);
  void end_request(Stream& stream);
  void cancel(Stream& stream);
  void cancel_all();
  void calm();
  void submit_last_goaway();
  void stamp(TimePoint now);
  TimePoint due(const Stream& stream) const;
  TimePoint connection_due() const;

  friend struct Http2Callbacks;

  const ConnectionLimits limits_;
  ByteBudget& budget_;
  ConnectionEvents& events_;
  TimePoint now_;  // the latest that a caller said
  Http2FrameMeter meter_;
  nghttp2_session* session_;

  std::vector<std::unique_ptr<Stream>> streams_;  // as long as nghttp2 knows them
  std::vector<std::int32_t> unstamped_;           // streams whose backlog waits without a clock
  std::vector<std::int32_t> drained_;             // streams whose on_drained() is due
  std::int64_t requests_count_ = 0;
  int requests_open_ = 0;
  TimePoint idle_since_;
  StallClock stall_;  // of the transport: there is output, and nobody pulls it
  bool failed_ = false, calmed_ = false, draining_ = false, goaway_submitted_ = false;
  std::optional<TimePoint> goaway_at_;  // the last one, after drain()'s notice
};

}  // namespace tandem::server

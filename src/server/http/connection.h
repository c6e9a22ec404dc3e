// One HTTP connection as a state machine: bytes and time in, requests out; answers in, bytes out. There is no socket,
// clock or thread in it, so that it runs the same on a socket, behind TLS, in a fuzzer and in a simulation.
//
// The owner feeds what it reads, sends what pull() gives, calls on_time() when deadline() has come, and closes the
// transport once finished() holds and all that was pulled is sent. Requests come as events; each one that on_request()
// announced ends in exactly one of: end_body()/send_response() by us, abort() by us, or on_cancel() by the peer.
// Calls for a request that has ended are ignored: an answer may cross a cancellation.
// Threads: one at a time. Events are called from within feed(), feed_end(), on_time(), pull() and fail(); in them every
// method but the first four may be called.
// Sources: RFC 9110, 9112 (HTTP/1.1), 9113 (HTTP/2).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/strong_id.h"
#include "server/http/limits.h"
#include "server/http/message.h"

namespace tandem::server {

// A request of one connection and its answer. HTTP/2: the stream; HTTP/1.1: the how manieth.
using StreamId = StrongId<struct StreamIdTag, std::int64_t>;

class ConnectionEvents {
 public:
  virtual ~ConnectionEvents() = default;

  // A head is complete. Nothing: read the body. An answer: it is sent at once and the body is not wanted (401, 404, 429
  // before a large upload); on_request() then never comes.
  virtual std::optional<Response> on_head(StreamId stream, const RequestHead& head) = 0;

  // A whole request. Its body's bytes are given back to the budget when the answer ends; the receiver may drop them
  // earlier. The connection keeps no copy.
  virtual void on_request(StreamId stream, RequestHead head, std::string body) = 0;

  // The peer gave the request up, or reads too slowly, or is gone: nothing can be sent for it any more.
  virtual void on_cancel(StreamId stream) = 0;

  // The stream's backlog had passed backlog_high_bytes and fell below backlog_low_bytes.
  virtual void on_drained(StreamId stream) = 0;

  // The answer to a request that the connection itself refuses (400, 408, 413, 414, 417, 431, 501, 503, 505).
  virtual Response on_refusal(int status, std::string_view reason) = 0;
};

enum class Protocol : std::uint8_t {
  kDetect,  // plain text: HTTP/2 if the first bytes are its preface, otherwise HTTP/1.1
  kHttp1,
  kHttp2,
};

class Connection {
 public:
  // `events` and `body_budget` are borrowed and outlive the connection.
  static std::unique_ptr<Connection> create(Protocol protocol, const ConnectionLimits& limits, ByteBudget& body_budget,
                                            ConnectionEvents& events, TimePoint now);
  virtual ~Connection() = default;

  // What the peer sent. Bytes after the connection has failed are ignored.
  virtual void feed(std::string_view bytes, TimePoint now) = 0;
  // False while reading more would only pile up (pipelined requests, a full output): the owner then stops reading the
  // socket, and asks again after pull() and after answers.
  virtual bool wants_input() const = 0;
  // The peer will send no more. HTTP/1.1: answers under way are still sent (half-close); HTTP/2: all is cancelled.
  virtual void feed_end(TimePoint now) = 0;
  // The transport failed: every request under way is cancelled, and nothing more can be sent.
  virtual void fail() = 0;

  // Appends to `out` bytes to send now, about `bytes_max` at most; what stays behind counts as backlog. To be called
  // after anything else was: answers, refusals, even acknowledgements only leave this way.
  virtual void pull(std::string& out, std::size_t bytes_max, TimePoint now) = 0;

  // An answer, whole. A HEAD request gets its head only.
  virtual void send_response(StreamId stream, Response response) = 0;
  // An answer in parts. Bodies of unknown length: chunked in HTTP/1.1; HTTP/1.0 ends with the connection.
  virtual void begin_response(StreamId stream, ResponseHead head) = 0;
  virtual void send_body(StreamId stream, std::string_view bytes) = 0;
  virtual void end_body(StreamId stream) = 0;
  // Breaks an answer off so that the peer can see it is not whole: RST_STREAM, or the connection ends.
  virtual void abort(StreamId stream) = 0;
  // Bytes of the answer's body that were given and not yet pulled.
  virtual std::size_t backlog(StreamId stream) const = 0;

  // Takes no new requests and ends after those under way: GOAWAY, or "connection: close".
  virtual void drain() = 0;
  // Nothing more will be read or sent once what was pulled is out.
  virtual bool finished() const = 0;
  // Requests announced by on_request() and not ended.
  virtual int requests_open() const = 0;

  virtual TimePoint deadline() const = 0;  // when to call on_time() at the latest
  virtual void on_time(TimePoint now) = 0;
};

}  // namespace tandem::server

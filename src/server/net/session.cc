#include "server/net/session.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <chrono>
#include <limits>
#include <utility>

namespace tandem::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr int kReadsMax = 4;                    // in a row, before others have their turn
constexpr std::size_t kOutputBytes = 64 << 10;  // pulled at once; the rest stays behind as backlog
constexpr std::size_t kDiscardBytesMax = 1 << 20;
constexpr std::int64_t kHandshakeNs = 10 * kSecondNs;
constexpr std::int64_t kLingerNs = 2 * kSecondNs, kDrainLingerNs = kSecondNs / 5;

}  // namespace

Session::Session(IoThread& thread, Socket socket, Surface surface, std::shared_ptr<const TlsContext> tls,
                 std::string peer)
    : thread_(thread), socket_(std::move(socket)), timer_(thread.context()), peer_(std::move(peer)) {
  if (tls) tls_ = std::make_unique<TlsFilter>(std::move(tls));
  client_ = std::make_unique<Client>(thread_.service(), thread_.table(), surface, *this, peer_);
}

Session::~Session() { connection_.reset(); }  // before the client, to which it speaks

void Session::start() {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  opened_ = now();
  if (!tls_) open_connection(Protocol::kDetect);
  wait_readable();
  arm_timer();
}

void Session::open_connection(Protocol protocol) {
  Service& service = thread_.service();
  connection_ = Connection::create(protocol, service.options.connection, service.body_budget, *client_, now());
  client_->attach(*connection_);
}

void Session::wait_readable() {
  if (waiting_readable_ || state_ == State::kClosed) return;
  if (state_ == State::kOpen && connection_ && !connection_->wants_input()) return;
  waiting_readable_ = true;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const error_code& error) {
    self->waiting_readable_ = false;
    if (error || self->state_ == State::kClosed) return;
    self->on_readable();
  });
}

void Session::on_readable() {
  std::string& buffer = thread_.read_buffer();
  for (int i = 0; i < kReadsMax; ++i) {
    error_code error;
    const std::size_t count = socket_.read_some(asio::buffer(buffer), error);
    if (error == asio::error::would_block || error == asio::error::interrupted) break;
    if (state_ == State::kLingering) {
      discarded_ += count;
      if (error || discarded_ > kDiscardBytesMax) return close();
      continue;
    }
    if (error == asio::error::eof) {
      // Who closes has usually left: a half-close is taken for one unless told otherwise.
      const bool left = !connection_ || (connection_->requests_open() > 0 && !thread_.service().options.half_close);
      if (left || tls_) return close();  // TLS without close_notify: cut off
      connection_->feed_end(now());
      flush();
      return;  // nothing more to read
    }
    if (error) return close();
    take_input({buffer.data(), count});
    if (state_ != State::kOpen) break;
    if (connection_ && !connection_->wants_input()) break;
    if (count < buffer.size()) break;
  }
  if (state_ == State::kClosed) return;
  flush();
  if (state_ == State::kClosed) return;
  wait_readable();
  arm_timer();
}

void Session::take_input(std::string_view bytes) {
  if (!tls_) {
    connection_->feed(bytes, now());
    return;
  }
  plain_.clear();
  if (!tls_->feed(bytes, plain_).ok()) {
    flush();  // the alert that says why
    if (state_ == State::kOpen) finish();
    return;
  }
  if (!connection_ && tls_->handshake_done()) open_connection(tls_->protocol());
  if (connection_ && !plain_.empty()) connection_->feed(plain_, now());
  if (tls_->peer_closed()) {
    if (!connection_) return close();
    connection_->feed_end(now());
  }
}

// True if there is something to send.
bool Session::fill_output() {
  if (sent_ < output_.size()) return true;
  output_.clear();
  sent_ = 0;
  if (!tls_) {
    connection_->pull(output_, kOutputBytes, now());
    return !output_.empty();
  }
  if (connection_) {
    plain_.clear();
    connection_->pull(plain_, kOutputBytes, now());
    if (!plain_.empty() && !tls_->write(plain_).ok()) connection_->fail();
    if (connection_->finished() && plain_.empty() && !std::exchange(said_goodbye_, true)) tls_->close();
  }
  tls_->pull(output_);
  return !output_.empty();
}

void Session::flush() {
  if (state_ != State::kOpen) return;
  if (waiting_writable_) return arm_timer();  // what waits may make the time shorter
  while (fill_output()) {
    error_code error;
    const std::size_t count = socket_.write_some(asio::buffer(output_.data() + sent_, output_.size() - sent_), error);
    if (error == asio::error::would_block) {
      waiting_writable_ = true;
      socket_.async_wait(Socket::wait_write, [self = shared_from_this()](const error_code& failed) {
        self->waiting_writable_ = false;
        if (failed || self->state_ == State::kClosed) return;
        self->flush();
      });
      arm_timer();
      return;
    }
    if (error && error != asio::error::interrupted) return close();
    sent_ += count;
  }
  if (connection_ && connection_->finished()) return finish();
  wait_readable();
  arm_timer();
}

// All is sent: says so, and waits a little for the peer to have read it.
void Session::finish() {
  state_ = State::kLingering;
  lingering_since_ = now();
  if (connection_) connection_->fail();
  error_code error;
  socket_.shutdown(Socket::shutdown_send, error);
  if (error) return close();
  wait_readable();
  arm_timer();
}

void Session::drain() {
  if (!connection_) return close();
  connection_->drain();
  flush();
}

void Session::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  if (connection_) connection_->fail();
  error_code ignored;
  timer_.cancel(ignored);
  socket_.close(ignored);
  thread_.remove(shared_from_this());
}

TimePoint Session::deadline() const {
  if (state_ == State::kLingering)
    return {lingering_since_.ns + (thread_.service().draining.load() ? kDrainLingerNs : kLingerNs)};
  if (!connection_) return {opened_.ns + kHandshakeNs};
  return connection_->deadline();
}

// The timer is left alone where it rings early enough: on_timer() looks again.
void Session::arm_timer() {
  if (state_ == State::kClosed) return;
  const TimePoint due = deadline();
  if (due.ns == std::numeric_limits<std::int64_t>::max()) return;
  if (armed_for_ != TimePoint() && armed_for_ <= due) return;
  armed_for_ = due;
  timer_.expires_after(std::chrono::nanoseconds(std::max<std::int64_t>(0, due.ns - now().ns)));
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (error || self->state_ == State::kClosed) return;
    self->armed_for_ = TimePoint();
    self->on_timer();
  });
}

void Session::on_timer() {
  const TimePoint time = now();
  if (time >= deadline()) {
    if (state_ == State::kLingering || !connection_) return close();
    connection_->on_time(time);
    flush();
    if (state_ == State::kClosed) return;
    // Its last words do not get through either.
    if (connection_->finished() && waiting_writable_) return close();
  }
  arm_timer();
}

}  // namespace tandem::server

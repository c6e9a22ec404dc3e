// A socket, TLS over it if asked for, and the HTTP connection over that.
//
// Reads when the connection wants input, and writes when it has output: at most one write a flush() where the socket
// takes it at once. Closing lingers until the peer has read what was sent.
// Threads: its I/O thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "server/app/client.h"
#include "server/http/connection.h"
#include "server/http/tls.h"
#include "server/net/io_thread.h"

namespace tandem::server {

class Session final : public Transport, public std::enable_shared_from_this<Session> {
 public:
  Session(IoThread& thread, Socket socket, Surface surface, std::shared_ptr<const TlsContext> tls, std::string peer);
  ~Session() override;

  void start();
  void flush() override;
  void drain();
  void close();  // at once; calls under way are cancelled
  const std::string& peer() const { return peer_; }

 private:
  enum class State : std::uint8_t { kOpen, kLingering, kClosed };

  TimePoint now() const { return thread_.service().clock.now(); }
  void wait_readable();
  void on_readable();
  void take_input(std::string_view bytes);
  void open_connection(Protocol protocol);
  bool fill_output();
  void finish();
  void arm_timer();
  void on_timer();
  TimePoint deadline() const;

  IoThread& thread_;
  Socket socket_;
  boost::asio::steady_timer timer_;
  const std::string peer_;
  std::unique_ptr<TlsFilter> tls_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Connection> connection_;  // after the handshake, with TLS

  State state_ = State::kOpen;
  bool waiting_readable_ = false, waiting_writable_ = false;
  bool said_goodbye_ = false;   // close_notify was given to the output
  std::string output_, plain_;  // bytes for the socket; scratch
  std::size_t sent_ = 0;        // of output_
  std::size_t discarded_ = 0;   // while lingering
  TimePoint opened_, lingering_since_;
  TimePoint armed_for_;  // when the timer will ring; 0: it will not
};

}  // namespace tandem::server

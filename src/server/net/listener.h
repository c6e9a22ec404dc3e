// Accepts connections and deals them out to the I/O threads.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"

namespace tandem::server {

// Threads: accepts on its context's thread; close() from any.
class Listener : public std::enable_shared_from_this<Listener> {
 public:
  // A connected socket, its address family, and the peer's address (empty for Unix sockets). The receiver owns it.
  using OnAccept = std::function<void(int socket, int family, std::string peer)>;

  // Errors: kInvalidArgument (no such address), kUnavailable (in use, not permitted: the remedy is named).
  [[nodiscard]] static Result<std::shared_ptr<Listener>> listen_tcp(boost::asio::io_context& context,
                                                                    const std::string& host, int port,
                                                                    OnAccept on_accept);
  // Only this user may connect. A socket that nobody listens on any more is replaced.
  [[nodiscard]] static Result<std::shared_ptr<Listener>> listen_unix(boost::asio::io_context& context,
                                                                     const std::string& path, OnAccept on_accept);
  ~Listener();

  void start();
  void close();
  int port() const { return port_; }
  const std::string& path() const { return path_; }

 private:
  Listener(boost::asio::io_context& context, int socket, int family, OnAccept on_accept);
  void wait();
  void accept_some();

  boost::asio::posix::stream_descriptor descriptor_;
  boost::asio::steady_timer retry_;
  const int family_;
  const OnAccept on_accept_;
  int spare_ = -1;  // a descriptor to give up when there are no more, so that a caller can be turned away
  int port_ = 0;
  std::string path_;
};

}  // namespace tandem::server

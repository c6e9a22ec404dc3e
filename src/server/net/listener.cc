#include "server/net/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr int kBacklog = 1024;
constexpr int kAcceptsMax = 64;  // in a row
constexpr auto kRetry = std::chrono::milliseconds(50);

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Status cannot_listen(const std::string& where, int error) {
  const char* remedy = error == EADDRINUSE      ? "; another program listens there: choose another with --port"
                       : error == EACCES        ? "; ports below 1024 need a privilege: choose a higher one with --port"
                       : error == EADDRNOTAVAIL ? "; this machine does not have that address: see --host"
                                                : "";
  return make_status(StatusCode::kUnavailable, "cannot listen on {}: {}{}", where, std::strerror(error), remedy);
}

int open_spare() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

std::string peer_of(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof(text));
  } else if (address.ss_family == AF_INET6) {
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text, sizeof(text));
  }
  return text;
}

}  // namespace

Listener::Listener(asio::io_context& context, int socket, int family, OnAccept on_accept)
    : descriptor_(context, socket),
      retry_(context),
      family_(family),
      on_accept_(std::move(on_accept)),
      spare_(open_spare()) {}

Listener::~Listener() {
  if (spare_ >= 0) ::close(spare_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<std::shared_ptr<Listener>> Listener::listen_tcp(asio::io_context& context, const std::string& host, int port,
                                                       OnAccept on_accept) {
  const std::string where = fmt::format("{}:{}", host, port);
  std::string plain = host;
  if (plain.size() > 2 && plain.front() == '[' && plain.back() == ']') plain = plain.substr(1, plain.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(plain.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0)
    return invalid_argument("--host {}: {}", host, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> address(found, &::freeaddrinfo);

  Fd socket(::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return cannot_listen(where, errno);
  const int on = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(socket.get(), found->ai_addr, found->ai_addrlen) != 0) return cannot_listen(where, errno);
  if (::listen(socket.get(), kBacklog) != 0) return cannot_listen(where, errno);
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &length);
  const auto listener =
      std::shared_ptr<Listener>(new Listener(context, socket.release(), found->ai_family, std::move(on_accept)));
  listener->port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                                      : reinterpret_cast<sockaddr_in&>(bound).sin_port);
  return listener;
}

Result<std::shared_ptr<Listener>> Listener::listen_unix(asio::io_context& context, const std::string& path,
                                                        OnAccept on_accept) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return invalid_argument("{}: a Unix socket's path has at most {} characters", path, sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* bare = reinterpret_cast<const sockaddr*>(&address);

  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return cannot_listen(path, errno);
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) return invalid_argument("{}: exists and is no socket; choose another path", path);
    const Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (::connect(probe.get(), bare, sizeof(address)) == 0) return cannot_listen(path, EADDRINUSE);
    ::unlink(path.c_str());
  }
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(socket.get(), bare, sizeof(address));
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return cannot_listen(path, error);
  if (::listen(socket.get(), kBacklog) != 0) return cannot_listen(path, errno);
  const auto listener =
      std::shared_ptr<Listener>(new Listener(context, socket.release(), AF_UNIX, std::move(on_accept)));
  listener->path_ = path;
  return listener;
}

void Listener::start() {
  asio::post(descriptor_.get_executor(), [self = shared_from_this()] { self->wait(); });
}

void Listener::close() {
  asio::post(descriptor_.get_executor(), [self = shared_from_this()] {
    error_code ignored;
    self->retry_.cancel(ignored);
    self->descriptor_.close(ignored);
  });
}

void Listener::wait() {
  if (!descriptor_.is_open()) return;
  descriptor_.async_wait(asio::posix::stream_descriptor::wait_read,
                         [self = shared_from_this()](const error_code& error) {
                           if (!error) self->accept_some();
                         });
}

void Listener::accept_some() {
  for (int i = 0; i < kAcceptsMax; ++i) {
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    const int socket = ::accept4(descriptor_.native_handle(), reinterpret_cast<sockaddr*>(&address), &length,
                                 SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket >= 0) {
      const int on = 1;
      if (family_ != AF_UNIX) {
        ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
      }
      on_accept_(socket, family_, peer_of(address));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    if ((errno == EMFILE || errno == ENFILE) && spare_ >= 0) {
      // Turns one caller away instead of letting it, and this loop, hang.
      ::close(spare_);
      const int refused = ::accept4(descriptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC);
      if (refused >= 0) ::close(refused);
      spare_ = open_spare();
      log_warning("no file descriptors left: a connection was refused; raise the limit (ulimit -n)");
    }
    retry_.expires_after(kRetry);
    retry_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error) self->wait();
    });
    return;
  }
  wait();
}

}  // namespace tandem::server

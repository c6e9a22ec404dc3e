#include "server/server.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/thread_pool.h"
#include "server/net/io_thread.h"
#include "server/net/listener.h"

namespace tandem::server {
namespace {

// Where nobody said: a folder of the user's own, which others cannot look into.
Result<std::string> default_control_path(int port) {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  std::string folder = runtime != nullptr && *runtime != '\0' ? std::string(runtime) + "/tandem"
                                                              : fmt::format("/tmp/tandem-{}", ::getuid());
  if (::mkdir(folder.c_str(), 0700) != 0) {
    struct stat status {};
    if (::lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != ::getuid() ||
        (status.st_mode & 077) != 0)
      return invalid_argument("{}: is not a private folder of yours; give --control PATH, or --control off", folder);
  }
  return fmt::format("{}/{}.sock", folder, port);
}

struct HostPort {
  std::string host;
  int port = 0;
};

// "127.0.0.1:9000", "[::1]:9000"; nothing if it is a path.
std::optional<HostPort> parse_host_port(const std::string& text) {
  const auto colon = text.rfind(':');
  if (text.find('/') != std::string::npos || colon == std::string::npos || colon + 1 == text.size())
    return std::nullopt;
  int port = 0;
  for (const char c : text.substr(colon + 1)) {
    if (c < '0' || c > '9' || port > 65535) return std::nullopt;
    port = port * 10 + (c - '0');
  }
  if (port > 65535) return std::nullopt;
  return HostPort{text.substr(0, colon), port};
}

class ThreadedServer final : public Server {
 public:
  ThreadedServer(const ServerOptions& options, const std::string& version, std::int64_t running_max,
                 const ApiContext& api, engine::Engine& engine, const Clock& clock)
      : service_(options, version, running_max, api, engine, clock),
        gate_(options.connections_max, options.connections_per_peer_max) {
    service_.abort_calls = [this](const std::string& request_id) {
      for (const auto& thread : threads_) thread->abort(request_id, "the request was ended by the server's operator");
    };
  }

  ~ThreadedServer() override {
    for (const auto& listener : listeners_) listener->close();
    listeners_.clear();
    service_.workers.stop();  // while the loops that its tasks come back to are there
    threads_.clear();
  }

  Status start() {
    const ServerOptions& options = service_.options;
    if (options.tls_certificate.empty() != options.tls_key.empty())
      return invalid_argument("TLS takes both: give --tls-cert and --tls-key");
    if (!is_loopback(options.host) && options.api_key_file.empty() && !options.insecure)
      return invalid_argument(
          "--host {} is reachable from other machines and anyone could call: give --api-key-file FILE, or --insecure "
          "if that is meant",
          options.host);
    TD_TRY(reload());
    const int cores = ThreadPool::cores_count();
    const int threads_count = options.io_threads > 0 ? options.io_threads : std::max(1, cores / 8);
    for (int i = 0; i < threads_count; ++i) threads_.push_back(std::make_unique<IoThread>(service_, gate_));

    auto& context = threads_.front()->context();
    listeners_.push_back(
        TD_TRY(Listener::listen_tcp(context, options.host, options.port, on_accept(Surface::kPublic, true))));
    port_ = listeners_.front()->port();
    if (!options.unix_socket.empty())
      listeners_.push_back(
          TD_TRY(Listener::listen_unix(context, options.unix_socket, on_accept(Surface::kPublic, false))));
    TD_TRY(listen_for_control());
    for (const auto& listener : listeners_) listener->start();
    return ok_status();
  }

  int port() const override { return port_; }
  std::string url() const override {
    const std::string& host = service_.options.host;
    const bool bare_v6 = host.find(':') != std::string::npos && host.front() != '[';
    return fmt::format("{}://{}:{}", service_.options.tls_key.empty() ? "http" : "https",
                       bare_v6 ? "[" + host + "]" : host, port_);
  }
  std::string control_address() const override { return control_address_; }

  void begin_drain() override {
    service_.draining = true;
    for (const auto& listener : listeners_) listener->close();
    for (const auto& thread : threads_) thread->drain();
  }

  bool wait_drained(std::chrono::milliseconds timeout) override {
    const auto end = std::chrono::steady_clock::now() + timeout;
    for (;;) {
      std::size_t sessions = 0;
      for (const auto& thread : threads_) sessions += thread->sessions_count();
      if (sessions == 0) return true;
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void abort_calls() override {
    for (const auto& thread : threads_) thread->abort("", "the server is shutting down");
  }

  // All of it is read before any of it is used.
  Status reload() override {
    const ServerOptions& options = service_.options;
    std::vector<KeyRing::Key> keys, control_keys;
    std::shared_ptr<const TlsContext> tls;
    if (!options.api_key_file.empty()) keys = TD_TRY(KeyRing::read(options.api_key_file));
    if (!options.control_key_file.empty()) control_keys = TD_TRY(KeyRing::read(options.control_key_file));
    if (!options.tls_key.empty()) tls = TD_TRY(TlsContext::load(options.tls_certificate, options.tls_key));
    service_.keys.set(std::move(keys));
    service_.control_keys.set(std::move(control_keys));
    std::lock_guard lock(tls_mutex_);
    tls_ = std::move(tls);
    return ok_status();
  }

 private:
  Status listen_for_control() {
    std::string control = service_.options.control;
    if (control == "off") return ok_status();
    auto& context = threads_.front()->context();
    if (control == "auto") control = TD_TRY(default_control_path(port_));
    if (const auto address = parse_host_port(control)) {
      if (service_.options.control_key_file.empty())
        return invalid_argument("--control {} needs keys: give --control-key-file FILE, or a path for a Unix socket",
                                control);
      listeners_.push_back(
          TD_TRY(Listener::listen_tcp(context, address->host, address->port, on_accept(Surface::kControl, false))));
      control_address_ = fmt::format("{}:{}", address->host, listeners_.back()->port());
    } else {
      listeners_.push_back(TD_TRY(Listener::listen_unix(context, control, on_accept(Surface::kControl, false))));
      control_address_ = control;
    }
    return ok_status();
  }

  Listener::OnAccept on_accept(Surface surface, bool with_tls) {
    return [this, surface, with_tls](int socket, int family, std::string peer) {
      if (!gate_.enter(peer)) {
        service_.metrics.count_refusal("connections");
        ::close(socket);
        return;
      }
      std::shared_ptr<const TlsContext> tls;
      if (with_tls) {
        std::lock_guard lock(tls_mutex_);
        tls = tls_;
      }
      IoThread& thread = *threads_[next_thread_++ % threads_.size()];
      thread.adopt(socket, family, surface, std::move(tls), std::move(peer));
    };
  }

  Service service_;
  ConnectionGate gate_;
  std::mutex tls_mutex_;
  std::shared_ptr<const TlsContext> tls_;  // guarded by tls_mutex_; null: plain text
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::size_t next_thread_ = 0;  // the accepting thread's
  int port_ = 0;
  std::string control_address_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::create(const ServerOptions& options, const std::string& version,
                                               std::int64_t running_max, const ApiContext& api, engine::Engine& engine,
                                               const Clock& clock) {
  auto server = std::make_unique<ThreadedServer>(options, version, running_max, api, engine, clock);
  TD_TRY(server->start());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace tandem::server

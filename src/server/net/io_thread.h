// One I/O thread: an event loop, the connections pinned to it, and the calls on them.
//
// Threads: post() and the counts from any; everything else happens on the thread itself.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <thread>
#include <unordered_set>

#include "server/app/call_table.h"
#include "server/app/router.h"
#include "server/http/tls.h"

namespace tandem::server {

class Session;

using Socket = boost::asio::generic::stream_protocol::socket;

// How many connections there are, in all and of each peer. Threads: any.
class ConnectionGate {
 public:
  ConnectionGate(int connections_max, int per_peer_max)
      : connections_max_(connections_max), per_peer_max_(per_peer_max) {}
  // False: one more would be too many. A peer without a name (a Unix socket) is not counted for itself.
  bool enter(const std::string& peer);
  void leave(const std::string& peer);

 private:
  const int connections_max_, per_peer_max_;
  std::mutex mutex_;
  int count_ = 0;                               // guarded by mutex_
  std::unordered_map<std::string, int> peers_;  // guarded by mutex_
};

class IoThread final : public IoLoop {
 public:
  IoThread(Service& service, ConnectionGate& gate);
  ~IoThread() override;  // closes what is open, then joins

  void post(std::function<void()> task) override;
  boost::asio::io_context& context() { return context_; }
  Service& service() { return service_; }
  CallTable& table() { return *table_; }

  // Any thread. The gate was entered for `peer`.
  void adopt(Socket::native_handle_type socket, int family, Surface surface, std::shared_ptr<const TlsContext> tls,
             std::string peer);
  // Any thread. Connections take no new requests and end when they are idle.
  void drain();
  // Any thread. Ends calls, as CallTable::abort().
  void abort(const std::string& request_id, const std::string& reason);
  void close_all();  // any thread

  std::size_t sessions_count() const { return sessions_count_.load(std::memory_order_relaxed); }

  // Of sessions.
  void remove(const std::shared_ptr<Session>& session);
  std::string& read_buffer() { return read_buffer_; }

 private:
  void tick();

  Service& service_;
  ConnectionGate& gate_;
  const std::shared_ptr<CallTable> table_;  // outlives the context, whose handlers hold sessions
  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  boost::asio::steady_timer ticker_;
  std::unordered_set<std::shared_ptr<Session>> sessions_;
  std::atomic<std::size_t> sessions_count_{0};
  std::string read_buffer_;  // of whichever session is reading
  bool draining_ = false;
  std::thread thread_;
};

}  // namespace tandem::server

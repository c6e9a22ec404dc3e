#include "server/net/io_thread.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "server/net/session.h"

namespace tandem::server {
namespace {

constexpr auto kTick = std::chrono::seconds(1);
constexpr std::size_t kReadBytes = 64 << 10;

}  // namespace

bool ConnectionGate::enter(const std::string& peer) {
  std::lock_guard lock(mutex_);
  if (count_ >= connections_max_) return false;
  if (!peer.empty()) {
    int& of_peer = peers_[peer];
    if (of_peer >= per_peer_max_) return false;
    of_peer += 1;
  }
  count_ += 1;
  return true;
}

void ConnectionGate::leave(const std::string& peer) {
  std::lock_guard lock(mutex_);
  count_ -= 1;
  if (const auto found = peers_.find(peer); found != peers_.end() && --found->second == 0) peers_.erase(found);
}

IoThread::IoThread(Service& service, ConnectionGate& gate)
    : service_(service),
      gate_(gate),
      table_(std::make_shared<CallTable>(*this, service)),
      work_(boost::asio::make_work_guard(context_)),
      ticker_(context_),
      read_buffer_(kReadBytes, '\0') {
  tick();
  thread_ = std::thread([this] { context_.run(); });
}

IoThread::~IoThread() {
  table_->close();
  post([this] {
    ticker_.cancel();
    for (const std::shared_ptr<Session>& session : std::exchange(sessions_, {})) session->close();
    work_.reset();
    context_.stop();
  });
  thread_.join();
}

void IoThread::post(std::function<void()> task) { boost::asio::post(context_, std::move(task)); }

void IoThread::tick() {
  ticker_.expires_after(kTick);
  ticker_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    table_->on_tick(service_.clock.now());
    tick();
  });
}

void IoThread::adopt(Socket::native_handle_type socket, int family, Surface surface,
                     std::shared_ptr<const TlsContext> tls, std::string peer) {
  post([this, socket, family, surface, tls = std::move(tls), peer = std::move(peer)]() mutable {
    Socket adopted(context_, boost::asio::generic::stream_protocol(family, 0), socket);
    auto session = std::make_shared<Session>(*this, std::move(adopted), surface, std::move(tls), std::move(peer));
    sessions_.insert(session);
    sessions_count_.fetch_add(1, std::memory_order_relaxed);
    service_.metrics.connections_open.fetch_add(1, std::memory_order_relaxed);
    service_.metrics.connections_total.fetch_add(1, std::memory_order_relaxed);
    session->start();
    if (draining_) session->drain();
  });
}

void IoThread::remove(const std::shared_ptr<Session>& session) {
  // Posted, so that whoever is at work on the session finishes first.
  post([this, session] {
    if (sessions_.erase(session) == 0) return;
    gate_.leave(session->peer());
    sessions_count_.fetch_sub(1, std::memory_order_relaxed);
    service_.metrics.connections_open.fetch_sub(1, std::memory_order_relaxed);
  });
}

void IoThread::drain() {
  post([this] {
    draining_ = true;
    const auto sessions = sessions_;
    for (const std::shared_ptr<Session>& session : sessions) session->drain();
  });
}

void IoThread::abort(const std::string& request_id, const std::string& reason) {
  post([this, request_id, reason] { table_->abort(request_id, reason); });
}

void IoThread::close_all() {
  post([this] {
    const auto sessions = sessions_;
    for (const std::shared_ptr<Session>& session : sessions) session->close();
  });
}

}  // namespace tandem::server

// One connection's requests: who may ask, which route answers, and the calls under way.
//
// Threads: its I/O thread. Lives as long as its connection.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "server/app/call_table.h"
#include "server/app/router.h"
#include "server/http/connection.h"

namespace tandem::server {

// The socket under a connection, as seen from above.
class Transport {
 public:
  virtual ~Transport() = default;
  // Sends what the connection has to say. Never destroys the connection before it returns.
  virtual void flush() = 0;
};

// A request on its way, as far as routes need it.
struct Exchange {
  StreamId stream;
  const Route* route = nullptr;
  std::string argument;    // of the path
  std::string request_id;  // the client's x-request-id, or ours
  std::string caller;      // the key's name, or "-"
  Headers extra_headers;   // for every answer: CORS
  TimePoint arrived;
  std::int64_t timeout_ms = 0;  // asked for by x-request-timeout-ms; 0: none
};

class Client final : public ConnectionEvents {
 public:
  //   peer  the address that limits are counted for
  Client(Service& service, CallTable& table, Surface surface, Transport& transport, std::string peer);
  ~Client() override;

  void attach(Connection& connection) { connection_ = &connection; }
  Connection& connection() { return *connection_; }
  // True the first time after each flush().
  bool touch() { return !std::exchange(touched_, true); }
  void flush() {
    touched_ = false;
    transport_.flush();
  }

  std::optional<Response> on_head(StreamId stream, const RequestHead& head) override;
  void on_request(StreamId stream, RequestHead head, std::string body) override;
  void on_cancel(StreamId stream) override;
  void on_drained(StreamId stream) override;
  Response on_refusal(int status, std::string_view reason) override;

  // Of calls: the answer is complete, counted and logged; the call is destroyed.
  void end_call(StreamId stream);
  // Adds what every answer carries, and counts it.
  void respond(const Exchange& exchange, Response response);
  void add_common_headers(const Exchange& exchange, Headers& headers);

 private:
  // The request as routes see it, or why it goes no further.
  std::variant<Exchange, ApiError> judge(StreamId stream, const RequestHead& head) const;
  // Answers that need no worker and no engine; nothing for the other routes.
  std::optional<Response> answer_at_once(const Exchange& exchange) const;

  Service& service_;
  CallTable& table_;
  const Surface surface_;
  Transport& transport_;
  const std::string peer_;
  Connection* connection_ = nullptr;
  bool touched_ = false;
  std::map<StreamId, std::unique_ptr<LiveCall>> calls_;
};

}  // namespace tandem::server

// One call from its request to the last byte of its answer.
//
// A worker prepares it; the engine runs it; its events are written as they come. It ends when its answer does, or when
// its client leaves: then its requests are cancelled in the engine before anything else happens.
// Threads: its I/O thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/api/call.h"
#include "server/app/client.h"

namespace tandem::server {

class LiveCall {
 public:
  LiveCall(Service& service, CallTable& table, Client& client, Exchange exchange, std::uint64_t id)
      : service_(service), table_(table), client_(client), exchange_(std::move(exchange)), id_(id) {
    table_.add(*this);
  }
  ~LiveCall();  // cancels what still runs
  LiveCall(const LiveCall&) = delete;
  LiveCall& operator=(const LiveCall&) = delete;

  static ApiError too_many(const Admission::Refusal& refusal);

  // Hands the body to a worker. The call may be over when this returns.
  void start(std::string body);

  std::uint64_t id() const { return id_; }
  const std::string& request_id() const { return exchange_.request_id; }
  Client& client() { return client_; }
  bool generating() const { return generates(exchange_.route->handler); }

  // Each of these may end the call, and then destroys it.
  void on_event(std::size_t index, engine::TokenEvent& event, TimePoint arrived);
  void abort(const std::string& reason);

  void on_client_left();  // before it is destroyed
  void on_drained();
  // True if something is to be flushed: a comment on a stream that has long said nothing.
  bool on_tick(TimePoint now);

 private:
  // What one of its requests is to the engine.
  struct Running {
    engine::RequestId id;
    std::uint64_t tag = 0;
    int unfinished = 0;
    std::int64_t prompt_tokens = 0;
    bool prompt_queued = false;         // counted by admission as waiting for its first token
    std::vector<TimePoint> last_token;  // of each sample
  };

  bool enter_admission();
  void on_prepared(CallResult result);
  void submit(PreparedCall prepared);
  void begin_stream();
  void write(std::string_view bytes);
  void observe(Running& running, const engine::TokenEvent& event, TimePoint arrived);
  void end_prompt(Running& running);
  void cancel_running();
  void refuse(const ApiError& error);  // the whole answer, or the end of a stream
  void end();                          // destroys this
  void log(int status) const;

  Service& service_;
  CallTable& table_;
  Client& client_;
  const Exchange exchange_;
  const std::uint64_t id_;
  bool admitted_ = false;  // leave() is owed
  bool head_sent_ = false, held_ = false;
  int status_ = 200;
  PreparedCall prepared_;
  std::vector<Running> running_;
  std::string body_;  // of an answer that is not a stream; else scratch
  TimePoint last_write_, first_token_, last_token_;
  std::int64_t generated_tokens_ = 0, cached_tokens_ = 0;
  const char* finish_ = "";
};

}  // namespace tandem::server

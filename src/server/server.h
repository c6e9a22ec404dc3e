// The server: listeners, I/O threads, and what they share, over an engine that somebody else owns.
//
// Threads: create, begin_drain, wait_drained, reload and the destructor from one; the rest is its own.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "engine/engine.h"
#include "server/api/call.h"
#include "server/app/options.h"

namespace tandem::server {

class Server {
 public:
  // Listens, and answers from then on. `api`, `engine` and `clock` are borrowed and outlive the server.
  //   version      what /version says
  //   running_max  calls that the engine runs at once
  // Errors: kInvalidArgument (options that contradict each other, files that are wrong: named), kNotFound,
  // kUnavailable (an address is taken).
  [[nodiscard]] static Result<std::unique_ptr<Server>> create(const ServerOptions& options, const std::string& version,
                                                              std::int64_t running_max, const ApiContext& api,
                                                              engine::Engine& engine, const Clock& clock);
  virtual ~Server() = default;  // ends what is left at once

  virtual int port() const = 0;                     // of the public listener
  virtual std::string url() const = 0;              // "http://127.0.0.1:8000"
  virtual std::string control_address() const = 0;  // a path or HOST:PORT; empty: none

  // Stops accepting; connections end when their calls have.
  virtual void begin_drain() = 0;
  // True when every connection is gone.
  virtual bool wait_drained(std::chrono::milliseconds timeout) = 0;
  // Ends what still runs: its clients are told.
  virtual void abort_calls() = 0;

  // Reads keys and certificates again; on an error what was there stays. Connections that are open keep theirs.
  [[nodiscard]] virtual Status reload() = 0;
};

}  // namespace tandem::server

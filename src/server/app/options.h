// How a server is set up. Every field is a flag of `tandem serve`, an environment variable and a key of its file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "server/http/limits.h"

namespace tandem::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;               // 0: any that is free
  std::string unix_socket;       // a path; served beside host and port
  std::string control = "auto";  // "auto": a Unix socket of the user's own; a path; "HOST:PORT"; "off"
  std::filesystem::path tls_certificate, tls_key;  // PEM; both or neither
  std::filesystem::path api_key_file;              // keys that clients must show, one a line; empty: none needed
  std::filesystem::path control_key_file;  // those of the control listener; needed where it is not a Unix socket
  bool insecure = false;                   // beyond this machine without keys
  std::vector<std::string> allowed_hosts;  // names that Host may say, beside those of the address listened on
  std::vector<std::string> cors_origins;   // "https://app.example", or "*"; empty: pages of other sites are refused

  int io_threads = 0;      // 0: one for every eight cores
  int worker_threads = 2;  // templates, tokenizers, grammars
  ConnectionLimits connection;
  std::size_t body_bytes_total = 256u << 20;  // of all requests' bodies together
  int connections_max = 4096;
  int connections_per_peer_max = 256;

  std::int64_t queue_requests_max = 1024;  // calls beyond those that the engine can run at once
  std::int64_t queue_tokens_max = 0;       // prompt tokens of calls that wait for their first token; 0: no limit
  double queue_wait_s_max = 0;             // refuse calls that would wait longer than this; 0: no limit
  double requests_per_s_max = 0;           // of one key, or of one peer where there are no keys; 0: no limit
  double request_timeout_s_max = 0;        // of one call; 0: no limit
  double drain_s = 30;                     // what calls under way get at shutdown
  double stall_s = 300;                    // of one step; beyond, /health and /livez fail; 0: never
  double ping_s = 15;                      // between comments on a stream that says nothing; 0: none
  bool half_close = false;                 // a client that closes its sending side still wants its answers
  bool log_requests = false;               // a JSON line for every call on standard error
};

}  // namespace tandem::server

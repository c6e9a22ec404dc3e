// TLS as a filter over bytes: records in, plain text out, and back. No socket inside.
//
// TLS 1.2 and 1.3, ALPN "h2" before "http/1.1", no renegotiation, no compression, session tickets. A context is
// immutable: a changed certificate is a new context, which new connections take and old ones do not see.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "server/http/connection.h"

typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_st SSL;

namespace tandem::server {

// Certificate, key and settings. Threads: any.
class TlsContext {
 public:
  // PEM files. Errors: kNotFound, kInvalidArgument (not PEM, key and certificate do not match: the file is named).
  [[nodiscard]] static Result<std::shared_ptr<const TlsContext>> load(const std::filesystem::path& certificate,
                                                                      const std::filesystem::path& key);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsFilter;
  explicit TlsContext(SSL_CTX* context) : context_(context) {}
  SSL_CTX* context_;
};

// The server's side of one TLS connection. Threads: one at a time.
class TlsFilter {
 public:
  explicit TlsFilter(std::shared_ptr<const TlsContext> context);
  ~TlsFilter();
  TlsFilter(const TlsFilter&) = delete;
  TlsFilter& operator=(const TlsFilter&) = delete;

  // Bytes from the wire; appends what they decrypt to. Errors: kInvalidArgument (not TLS, a bad record: close).
  [[nodiscard]] Status feed(std::string_view records, std::string& plain);
  // Plain text to be sent. Before the handshake is done it is kept.
  [[nodiscard]] Status write(std::string_view plain);
  // Appends records to be sent: handshake messages, too.
  void pull(std::string& records);
  // Says goodbye (close_notify); pull() afterwards.
  void close();

  bool handshake_done() const { return handshake_done_; }
  bool peer_closed() const { return peer_closed_; }  // close_notify came
  Protocol protocol() const;                         // by ALPN, once the handshake is done; none: kHttp1

 private:
  std::shared_ptr<const TlsContext> context_;
  SSL* ssl_;

  Status flush_unsent();
  Status read_plain(std::string& plain);
  Status fail(const char* what);

  std::string unsent_;  // plain text waiting for the handshake
  bool handshake_done_ = false, peer_closed_ = false, failed_ = false;
  int key_updates_ = 0;  // asked for by the peer
};

}  // namespace tandem::server

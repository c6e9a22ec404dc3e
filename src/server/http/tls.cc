#include "server/http/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "base/file.h"

namespace tandem::server {
namespace {

constexpr std::uint64_t kPemBytesMax = 1 << 20;
// Nothing legitimate renews its keys this often, and each renewal costs us an answer.
constexpr int kKeyUpdatesMax = 100;
// As ALPN writes them: each with its length before it, the one we prefer first.
constexpr unsigned char kProtocols[] = "\x02h2\x08http/1.1";
// Forward secrecy and authenticated encryption: all that HTTP/2 allows in TLS 1.2 (RFC 9113 appendix A).
constexpr const char* kTls12Ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20";

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// Why OpenSSL failed last. Empties its queue, in which later calls would find old errors.
std::string take_reason() {
  const unsigned long error = ERR_get_error();
  const char* reason = error == 0 ? nullptr : ERR_reason_error_string(error);
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

Owned<BIO> memory_of(const std::string& bytes) {
  Owned<BIO> bio(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
  TD_CHECK(bio != nullptr);
  return bio;
}

// An encrypted key fails instead of asking for its password on the terminal.
int no_password(char*, int, int, void*) { return -1; }

Status use_certificates(SSL_CTX* context, const std::filesystem::path& path) {
  const std::string pem = TD_TRY(read_file(path, kPemBytesMax));
  const Owned<BIO> bio = memory_of(pem);
  Owned<X509> certificate(PEM_read_bio_X509_AUX(bio.get(), nullptr, no_password, nullptr));
  if (!certificate)
    return invalid_argument("{}: no PEM certificate in it ({}); give the chain that begins with the server's",
                            path.string(), take_reason());
  if (SSL_CTX_use_certificate(context, certificate.get()) != 1)
    return invalid_argument("{}: the certificate cannot be used: {}", path.string(), take_reason());
  for (;;) {
    Owned<X509> issuer(PEM_read_bio_X509(bio.get(), nullptr, no_password, nullptr));
    if (!issuer) break;
    if (SSL_CTX_add1_chain_cert(context, issuer.get()) != 1)
      return invalid_argument("{}: a certificate of the chain cannot be used: {}", path.string(), take_reason());
  }
  const unsigned long error = ERR_peek_last_error();
  if (ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE) {
    ERR_clear_error();  // the end of the file
    return ok_status();
  }
  return invalid_argument("{}: a certificate of the chain is malformed: {}", path.string(), take_reason());
}

Status use_key(SSL_CTX* context, const std::filesystem::path& path, const std::filesystem::path& certificate) {
  std::string pem = TD_TRY(read_file(path, kPemBytesMax));
  const Owned<BIO> bio = memory_of(pem);
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key)
    return invalid_argument("{}: no PEM private key in it, or it is encrypted ({}); give it without a password",
                            path.string(), take_reason());
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1)
    return invalid_argument("{}: the key does not belong to {}: {}", path.string(), certificate.string(),
                            take_reason());
  return ok_status();
}

int select_protocol(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes, const unsigned char* offered,
                    unsigned int offered_bytes, void*) {
  unsigned char* found = nullptr;
  const int outcome =
      SSL_select_next_proto(&found, chosen_bytes, kProtocols, sizeof(kProtocols) - 1, offered, offered_bytes);
  *chosen = found;
  return outcome == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

// Sees every message: counts the requests for new keys.
void count_key_updates(int is_write, int, int content_type, const void* bytes, std::size_t size, SSL*, void* count) {
  if (is_write == 0 && content_type == SSL3_RT_HANDSHAKE && size > 0 &&
      *static_cast<const unsigned char*>(bytes) == SSL3_MT_KEY_UPDATE)
    ++*static_cast<int*>(count);
}

}  // namespace

Result<std::shared_ptr<const TlsContext>> TlsContext::load(const std::filesystem::path& certificate,
                                                           const std::filesystem::path& key) {
  ERR_clear_error();
  Owned<SSL_CTX> context(SSL_CTX_new(TLS_server_method()));
  TD_CHECK(context != nullptr);
  TD_CHECK(SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1);
  TD_CHECK(SSL_CTX_set_cipher_list(context.get(), kTls12Ciphers) == 1);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                         SSL_OP_PRIORITIZE_CHACHA);
  // Sessions live in the tickets that clients keep, not here.
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  static constexpr unsigned char kSessionContext[] = "tandem";
  TD_CHECK(SSL_CTX_set_session_id_context(context.get(), kSessionContext, sizeof(kSessionContext) - 1) == 1);
  SSL_CTX_set_alpn_select_cb(context.get(), select_protocol, nullptr);
  TD_TRY(use_certificates(context.get(), certificate));
  TD_TRY(use_key(context.get(), key, certificate));
  return std::shared_ptr<const TlsContext>(new TlsContext(context.release()));
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

TlsFilter::TlsFilter(std::shared_ptr<const TlsContext> context)
    : context_(std::move(context)), ssl_(SSL_new(context_->context_)) {
  TD_CHECK(ssl_ != nullptr);
  BIO* in = BIO_new(BIO_s_mem());
  BIO* out = BIO_new(BIO_s_mem());
  TD_CHECK(in != nullptr && out != nullptr);
  SSL_set_bio(ssl_, in, out);
  SSL_set_accept_state(ssl_);
  SSL_set_msg_callback(ssl_, count_key_updates);
  SSL_set_msg_callback_arg(ssl_, &key_updates_);
}

TlsFilter::~TlsFilter() { SSL_free(ssl_); }

Status TlsFilter::fail(const char* what) {
  failed_ = true;
  return invalid_argument("{}: {}", what, take_reason());
}

Status TlsFilter::feed(std::string_view records, std::string& plain) {
  if (failed_) return invalid_argument("TLS: the connection has failed");
  ERR_clear_error();
  while (!records.empty()) {
    const std::string_view part = records.substr(0, 1 << 20);
    TD_CHECK(BIO_write(SSL_get_rbio(ssl_), part.data(), static_cast<int>(part.size())) ==
             static_cast<int>(part.size()));
    records.remove_prefix(part.size());
  }
  if (!handshake_done_) {
    const int outcome = SSL_do_handshake(ssl_);
    if (outcome != 1) {
      if (SSL_get_error(ssl_, outcome) == SSL_ERROR_WANT_READ) return ok_status();
      return fail("TLS handshake");
    }
    handshake_done_ = true;
    TD_TRY(flush_unsent());
  }
  return read_plain(plain);
}

Status TlsFilter::read_plain(std::string& plain) {
  char buffer[16 << 10];  // a record's plain text
  while (!peer_closed_) {
    std::size_t count = 0;
    const int outcome = SSL_read_ex(ssl_, buffer, sizeof buffer, &count);
    if (outcome == 1) {
      plain.append(buffer, count);
      continue;
    }
    const int error = SSL_get_error(ssl_, outcome);
    if (key_updates_ > kKeyUpdatesMax) return fail("TLS: the peer renews its keys too often");
    if (error == SSL_ERROR_WANT_READ) return ok_status();
    if (error != SSL_ERROR_ZERO_RETURN) return fail("TLS record");
    peer_closed_ = true;
  }
  return ok_status();
}

Status TlsFilter::write(std::string_view plain) {
  if (failed_) return invalid_argument("TLS: the connection has failed");
  if (!handshake_done_) {
    unsent_.append(plain);
    return ok_status();
  }
  if (plain.empty()) return ok_status();
  ERR_clear_error();
  std::size_t count = 0;
  if (SSL_write_ex(ssl_, plain.data(), plain.size(), &count) != 1) return fail("TLS write");
  TD_CHECK(count == plain.size(), count, plain.size());  // memory takes it all
  return ok_status();
}

Status TlsFilter::flush_unsent() { return write(std::exchange(unsent_, {})); }

void TlsFilter::pull(std::string& records) {
  BIO* out = SSL_get_wbio(ssl_);
  const std::size_t begin = records.size(), waiting = BIO_ctrl_pending(out);
  if (waiting == 0) return;
  records.resize(begin + waiting);
  for (std::size_t done = 0; done < waiting;) {
    const std::size_t part = std::min<std::size_t>(waiting - done, 1 << 20);
    const int count = BIO_read(out, records.data() + begin + done, static_cast<int>(part));
    TD_CHECK(count > 0);
    done += static_cast<std::size_t>(count);
  }
}

void TlsFilter::close() {
  if (failed_ || !handshake_done_) return;
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
}

Protocol TlsFilter::protocol() const {
  const unsigned char* name = nullptr;
  unsigned int bytes = 0;
  SSL_get0_alpn_selected(ssl_, &name, &bytes);
  return std::string_view(reinterpret_cast<const char*>(name), bytes) == "h2" ? Protocol::kHttp2 : Protocol::kHttp1;
}

}  // namespace tandem::server

#include "server/http/tls.h"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <fstream>
#include <random>

#include "base/file.h"
#include "unit/server/http/http2_client.h"

namespace tandem::server {
namespace {

// A fresh key with a certificate that it signed itself, as PEM files in a folder of its own.
struct Identity {
  explicit Identity(const std::string& name) {
    folder = std::filesystem::temp_directory_path() / ("tandem_tls_" + std::to_string(getpid()) + "_" + name);
    std::filesystem::create_directories(folder);
    certificate = folder / "certificate.pem";
    key = folder / "key.pem";
    EVP_PKEY* pair = EVP_EC_gen("P-256");
    X509* x509 = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), 0);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, pair);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(x509));
    X509_sign(x509, pair, EVP_sha256());
    save(certificate, [&](BIO* bio) { PEM_write_bio_X509(bio, x509); });
    save(key, [&](BIO* bio) { PEM_write_bio_PrivateKey(bio, pair, nullptr, nullptr, 0, nullptr, nullptr); });
    save(folder / "locked.pem", [&](BIO* bio) {
      PEM_write_bio_PrivateKey(bio, pair, EVP_aes_128_cbc(), reinterpret_cast<const unsigned char*>("secret"), 6,
                               nullptr, nullptr);
    });
    X509_free(x509);
    EVP_PKEY_free(pair);
  }
  ~Identity() { std::filesystem::remove_all(folder); }

  template <class Write>
  static void save(const std::filesystem::path& path, Write write) {
    BIO* bio = BIO_new_file(path.c_str(), "w");
    write(bio);
    BIO_free(bio);
  }
  std::shared_ptr<const TlsContext> load() const { return TlsContext::load(certificate, key).value(); }

  std::filesystem::path folder, certificate, key;
};

// OpenSSL's client over memory.
class Client {
 public:
  explicit Client(std::string_view alpn, int version = TLS1_3_VERSION, SSL_SESSION* session = nullptr)
      : context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_min_proto_version(context_, version);
    SSL_CTX_set_max_proto_version(context_, version);
    SSL_CTX_set_options(context_, SSL_OP_ALLOW_CLIENT_RENEGOTIATION);
    ssl = SSL_new(context_);
    if (!alpn.empty())
      SSL_set_alpn_protos(ssl, reinterpret_cast<const unsigned char*>(alpn.data()), static_cast<unsigned>(alpn.size()));
    if (session != nullptr) SSL_set_session(ssl, session);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
  }
  ~Client() {
    SSL_free(ssl);
    SSL_CTX_free(context_);
    ERR_clear_error();
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  std::string pull() {
    std::string records(BIO_ctrl_pending(SSL_get_wbio(ssl)), '\0');
    if (!records.empty()) BIO_read(SSL_get_wbio(ssl), records.data(), static_cast<int>(records.size()));
    return records;
  }
  // Takes records, moves the handshake, reads plain text.
  std::string feed(std::string_view records) {
    if (!records.empty()) BIO_write(SSL_get_rbio(ssl), records.data(), static_cast<int>(records.size()));
    if (!SSL_is_init_finished(ssl) && SSL_do_handshake(ssl) != 1) return {};
    std::string plain;
    char buffer[20'000];
    for (int count; (count = SSL_read(ssl, buffer, sizeof buffer)) > 0;)
      plain.append(buffer, static_cast<std::size_t>(count));
    return plain;
  }
  void write(std::string_view plain) { SSL_write(ssl, plain.data(), static_cast<int>(plain.size())); }

  SSL* ssl = nullptr;

 private:
  SSL_CTX* context_;
};

struct Talk {
  std::string to_server, to_client;
  Status status;
};
Talk talk(TlsFilter& server, Client& client) {
  Talk talk;
  talk.to_client += client.feed("");
  for (int quiet = 0; quiet < 2;) {
    const std::string up = client.pull();
    if (!up.empty() && talk.status.ok()) talk.status = server.feed(up, talk.to_server);
    std::string down;
    server.pull(down);
    if (!down.empty()) talk.to_client += client.feed(down);
    quiet = up.empty() && down.empty() ? quiet + 1 : 0;
  }
  return talk;
}

using std::string_view_literals::operator""sv;
constexpr std::string_view kBoth = "\x08http/1.1\x02h2"sv, kHttp1Only = "\x08http/1.1"sv, kH2Only = "\x02h2"sv;

TEST(Tls, BothVersionsBothProtocols) {
  const Identity identity("both");
  const auto context = identity.load();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    for (const std::string_view alpn : {kBoth, kHttp1Only, kH2Only, ""sv}) {
      TlsFilter server(context);
      Client client(alpn, version);
      EXPECT_TRUE(server.write("early ").ok()) << "kept until the handshake is done";
      Talk first = talk(server, client);
      ASSERT_TRUE(first.status.ok());
      EXPECT_TRUE(server.handshake_done());
      EXPECT_EQ(first.to_client, "early ");
      const bool h2 = alpn == kBoth || alpn == kH2Only;
      EXPECT_EQ(server.protocol(), h2 ? Protocol::kHttp2 : Protocol::kHttp1);
      std::string large(300'000, '\0');
      for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 7 / 5);
      client.write(large);
      EXPECT_TRUE(server.write(large).ok());
      const Talk second = talk(server, client);
      EXPECT_EQ(second.to_server, large);
      EXPECT_EQ(second.to_client, large);
      EXPECT_FALSE(server.peer_closed());
      SSL_shutdown(client.ssl);
      EXPECT_TRUE(talk(server, client).status.ok());
      EXPECT_TRUE(server.peer_closed());
      server.close();
      talk(server, client);
      EXPECT_TRUE(SSL_get_shutdown(client.ssl) & SSL_RECEIVED_SHUTDOWN);
    }
  }
}

TEST(Tls, OldVersionsAndUnknownProtocolsAreRefused) {
  const Identity identity("old");
  {
    TlsFilter server(identity.load());
    Client client(kBoth, TLS1_1_VERSION);
    SSL_set_security_level(client.ssl, 0);
    EXPECT_EQ(talk(server, client).status.code(), StatusCode::kInvalidArgument);
  }
  {
    TlsFilter server(identity.load());
    Client client(
        "\x03"
        "foo"sv);
    EXPECT_EQ(talk(server, client).status.code(), StatusCode::kInvalidArgument);
    EXPECT_FALSE(server.handshake_done());
  }
}

TEST(Tls, AnySplitOfTheBytes) {
  const Identity identity("split");
  TlsFilter server(identity.load());
  Client client(kBoth);
  std::string plain;
  const auto by_byte = [&](const std::string& bytes) {
    for (const char c : bytes) ASSERT_TRUE(server.feed({&c, 1}, plain).ok());
  };
  for (int i = 0; i < 5; ++i) {
    client.feed("");
    by_byte(client.pull());
    std::string down;
    server.pull(down);
    client.feed(down);
  }
  ASSERT_TRUE(server.handshake_done());
  client.write("hello");
  client.write("world");
  by_byte(client.pull());
  EXPECT_EQ(plain, "helloworld");
}

TEST(Tls, RenegotiationIsRefused) {
  const Identity identity("again");
  TlsFilter server(identity.load());
  Client client(kHttp1Only, TLS1_2_VERSION);
  ASSERT_TRUE(talk(server, client).status.ok());
  ASSERT_EQ(SSL_renegotiate(client.ssl), 1);
  SSL_do_handshake(client.ssl);
  std::string plain, down;
  (void)server.feed(client.pull(), plain);
  server.pull(down);
  client.feed(down);
  EXPECT_FALSE(SSL_is_init_finished(client.ssl));
}

TEST(Tls, NewKeysAreGivenBoundedly) {
  const Identity identity("keys");
  TlsFilter server(identity.load());
  Client client(kHttp1Only);
  ASSERT_TRUE(talk(server, client).status.ok());
  const auto renew = [&] {
    EXPECT_EQ(SSL_key_update(client.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    client.write("x");
    return talk(server, client);
  };
  for (int i = 0; i < 100; ++i) {
    const Talk one = renew();
    ASSERT_TRUE(one.status.ok());
    EXPECT_EQ(one.to_server, "x");
  }
  EXPECT_FALSE(renew().status.ok());
}

TEST(Tls, SessionsAreResumedByTickets) {
  const Identity identity("tickets");
  const auto context = identity.load();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    SSL_SESSION* session = nullptr;
    {
      TlsFilter server(context);
      Client client(kBoth, version);
      ASSERT_TRUE(talk(server, client).status.ok());
      EXPECT_FALSE(SSL_session_reused(client.ssl));
      session = SSL_get1_session(client.ssl);
      // Without a goodbye the client would hold the session for broken.
      SSL_shutdown(client.ssl);
    }
    TlsFilter server(context);
    Client client(kBoth, version, session);
    ASSERT_TRUE(talk(server, client).status.ok());
    EXPECT_TRUE(SSL_session_reused(client.ssl));
    // Another context has other ticket keys: a whole handshake, no error.
    TlsFilter other(identity.load());
    Client again(kBoth, version, session);
    ASSERT_TRUE(talk(other, again).status.ok());
    EXPECT_FALSE(SSL_session_reused(again.ssl));
    SSL_SESSION_free(session);
  }
}

TEST(Tls, ANewCertificateIsANewContext) {
  const Identity first("first"), second("second");
  const auto before = first.load();
  TlsFilter old_connection(before);
  Client old_client(kBoth);
  ASSERT_TRUE(talk(old_connection, old_client).status.ok());
  const auto after = second.load();
  const auto name = [](SSL* ssl) {
    X509* certificate = SSL_get1_peer_certificate(ssl);
    char text[100] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, text, sizeof text);
    X509_free(certificate);
    return std::string(text);
  };
  TlsFilter new_connection(after);
  Client new_client(kBoth);
  ASSERT_TRUE(talk(new_connection, new_client).status.ok());
  EXPECT_EQ(name(new_client.ssl), "second");
  EXPECT_EQ(name(old_client.ssl), "first");
  old_client.write("still here");
  EXPECT_EQ(talk(old_connection, old_client).to_server, "still here");
}

TEST(Tls, FilesThatAreWrong) {
  const Identity identity("files"), other("others");
  const auto code_and_name = [&](const std::filesystem::path& certificate, const std::filesystem::path& key,
                                 StatusCode code, const std::filesystem::path& named) {
    const auto loaded = TlsContext::load(certificate, key);
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.code(), code);
    EXPECT_NE(loaded.status().message().find(named.string()), std::string::npos) << loaded.status().message();
    EXPECT_EQ(ERR_peek_error(), 0u) << "OpenSSL's queue is left empty";
  };
  const auto missing = identity.folder / "missing.pem", garbage = identity.folder / "garbage.pem";
  std::ofstream(garbage) << "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  const auto broken_chain = identity.folder / "chain.pem";
  std::ofstream(broken_chain) << read_file(identity.certificate).value() << read_file(garbage).value();
  code_and_name(missing, identity.key, StatusCode::kNotFound, missing);
  code_and_name(identity.certificate, missing, StatusCode::kNotFound, missing);
  code_and_name(garbage, identity.key, StatusCode::kInvalidArgument, garbage);
  code_and_name(broken_chain, identity.key, StatusCode::kInvalidArgument, broken_chain);
  code_and_name(identity.certificate, garbage, StatusCode::kInvalidArgument, garbage);
  code_and_name(identity.key, identity.key, StatusCode::kInvalidArgument, identity.key);
  code_and_name(identity.certificate, identity.certificate, StatusCode::kInvalidArgument, identity.certificate);
  code_and_name(identity.certificate, other.key, StatusCode::kInvalidArgument, other.key);
  code_and_name(identity.certificate, identity.folder / "locked.pem", StatusCode::kInvalidArgument,
                identity.folder / "locked.pem");
  // A chain of two is fine.
  const auto chain = identity.folder / "two.pem";
  std::ofstream(chain) << read_file(identity.certificate).value() << read_file(other.certificate).value();
  EXPECT_TRUE(TlsContext::load(chain, identity.key).ok());
}

TEST(Tls, GarbageIsAnErrorAndStaysOne) {
  const Identity identity("garbage");
  const auto context = identity.load();
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    TlsFilter server(context);
    std::string bytes = i == 0 ? "GET / HTTP/1.1\r\nHost: h\r\n\r\n" : std::string();
    for (int n = 0; i > 0 && n < 1 + i * 10; ++n) bytes.push_back(static_cast<char>(random()));
    if (i % 3 == 1) bytes.replace(0, 3, "\x16\x03\x01");
    std::string plain, records;
    Status status = server.feed(bytes, plain);
    EXPECT_TRUE(i > 0 || status.code() == StatusCode::kInvalidArgument);
    const bool failed = !status.ok();
    status = server.feed(bytes, plain);
    EXPECT_TRUE(!failed || !status.ok());
    server.pull(records);
    server.close();
    EXPECT_TRUE(plain.empty());
    EXPECT_FALSE(server.handshake_done());
    EXPECT_EQ(ERR_peek_error(), 0u);
  }
}

TEST(Tls, ABadRecordEndsOnlyItsConnection) {
  const Identity identity("record");
  const auto context = identity.load();
  TlsFilter one(context), two(context);
  Client client_one(kBoth), client_two(kBoth);
  ASSERT_TRUE(talk(one, client_one).status.ok());
  ASSERT_TRUE(talk(two, client_two).status.ok());
  client_one.write("secret");
  std::string records = client_one.pull(), plain;
  records.back() = static_cast<char>(records.back() ^ 1);
  EXPECT_EQ(one.feed(records.substr(0, 10), plain).code(), StatusCode::kOk) << "a part of a record is no error";
  EXPECT_EQ(one.feed(records.substr(10), plain).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(plain.empty());
  EXPECT_FALSE(one.write("x").ok());
  client_two.write("fine");
  EXPECT_EQ(talk(two, client_two).to_server, "fine");
}

TEST(Tls, CarriesHttp2) {
  const Identity identity("h2");
  TlsFilter filter(identity.load());
  Client tls(kBoth);
  ASSERT_TRUE(talk(filter, tls).status.ok());
  Peer server(filter.protocol());
  Http2Client client;
  const auto id = client.request("GET", "/");
  server.recorder.on_whole = [&](StreamId stream, const Recorder::Request&) {
    server.respond(stream.value(), 200, "hi");
  };
  for (int i = 0; i < 10; ++i) {
    if (const std::string up = client.pull(); !up.empty()) tls.write(up);
    const Talk both = talk(filter, tls);
    ASSERT_TRUE(both.status.ok());
    server.feed(both.to_server);
    client.feed(both.to_client);
    ASSERT_TRUE(filter.write(server.pull()).ok());
  }
  EXPECT_EQ(client.answers[id].body, "hi");
}

}  // namespace
}  // namespace tandem::server

// What an HTTP request and an answer are, whatever version of the protocol carries them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::server {

struct Header {
  std::string name;  // lower case
  std::string value;
};
using Headers = std::vector<Header>;

// The first header of that (lower-case) name, or null.
inline const std::string* find_header(const Headers& headers, std::string_view name) {
  for (const Header& header : headers)
    if (header.name == name) return &header.value;
  return nullptr;
}

enum class HttpVersion : std::uint8_t { k10, k11, k2 };

// The head of a request that a connection has accepted: every field was checked for form and size.
struct RequestHead {
  HttpVersion version = HttpVersion::k11;
  std::string method;  // as sent: "GET", "POST"...
  std::string path;    // begins with '/' (or is "*", in OPTIONS only); printable ASCII, no ".." segment, no backslash;
                       // still percent-encoded
  std::string query;   // after '?', without it
  std::string host;    // Host or :authority, never empty but in HTTP/1.0
  Headers headers;     // without pseudo-headers; names in lower case

  const std::string* header(std::string_view name) const { return find_header(headers, name); }
};

// An answer. Connections add what frames it (content-length, transfer-encoding, connection); nobody else does.
struct ResponseHead {
  int status = 200;
  Headers headers;
};
struct Response {
  ResponseHead head;
  std::string body;
};

}  // namespace tandem::server

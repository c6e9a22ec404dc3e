// What a request asks for, and of whom: forms of request targets and hosts that are accepted, whatever version of the
// protocol carries them. Sources: RFC 9112 section 3.2, RFC 9113 section 8.3.1, RFC 3986.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::server {

// Why a connection refuses a request by itself. `reason` is a literal.
struct Refusal {
  int status = 400;
  std::string_view reason;
};

struct Target {
  std::string path;   // "/..." or, for OPTIONS only, "*"
  std::string query;  // after '?'
  std::string host;   // of an absolute target (http://host/path); otherwise empty
};

// Takes `raw` apart. Refused: more than `bytes_max` bytes (414); CONNECT (501); and with 400 anything but printable
// ASCII, a backslash, a fragment, a broken percent-encoding in the path, an encoded NUL, a ".." segment however it is
// encoded, "*" for another method than OPTIONS.
std::optional<Refusal> parse_target(std::string_view method, std::string_view raw, std::size_t bytes_max,
                                    Target& target);

// A host as in Host and :authority: a name, an IPv4 address or an [IPv6 address], and perhaps a port.
bool is_host(std::string_view host);

bool equals_ignoring_case(std::string_view a, std::string_view b);

}  // namespace tandem::server

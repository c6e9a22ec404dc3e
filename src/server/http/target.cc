#include "server/http/target.h"

#include <algorithm>

namespace tandem::server {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alpha(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  return lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
}

// The value of the two digits after a '%' at `i`, or -1.
int percent_value(std::string_view text, std::size_t i) {
  if (i + 2 >= text.size()) return -1;
  const int high = hex_value(text[i + 1]), low = hex_value(text[i + 2]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// A whole decoded segment is "..", where encoded slashes and backslashes part segments as well.
std::optional<Refusal> check_path(std::string_view path) {
  std::size_t dots = 0, others = 0;
  for (std::size_t i = 0; i <= path.size(); ++i) {
    int c = i < path.size() ? static_cast<unsigned char>(path[i]) : '/';
    if (c == '%') {
      c = percent_value(path, i);
      if (c < 0) return Refusal{400, "the path has a broken percent-encoding"};
      if (c == 0) return Refusal{400, "the path has an encoded NUL"};
      i += 2;
    }
    if (c == '/' || c == '\\') {
      if (dots == 2 && others == 0) return Refusal{400, "the path has a \"..\" segment"};
      dots = others = 0;
    } else {
      ++(c == '.' ? dots : others);
    }
  }
  return std::nullopt;
}

// The part after "http://" or "https://", if `raw` begins with one.
std::optional<std::string_view> after_scheme(std::string_view raw) {
  for (const std::string_view scheme : {std::string_view("http://"), std::string_view("https://")})
    if (raw.size() >= scheme.size() && equals_ignoring_case(raw.substr(0, scheme.size()), scheme))
      return raw.substr(scheme.size());
  return std::nullopt;
}

}  // namespace

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

bool is_host(std::string_view host) {
  std::size_t name_bytes = 0;
  if (host.starts_with('[')) {
    const std::size_t end = host.find(']');
    if (end == std::string_view::npos || end < 3) return false;
    const std::string_view address = host.substr(1, end - 1);
    if (!std::all_of(address.begin(), address.end(), [](char c) { return hex_value(c) >= 0 || c == ':' || c == '.'; }))
      return false;
    name_bytes = end + 1;
  } else {
    while (name_bytes < host.size() && (is_alpha(host[name_bytes]) || is_digit(host[name_bytes]) ||
                                        std::string_view("-._~").find(host[name_bytes]) != std::string_view::npos))
      ++name_bytes;
  }
  if (name_bytes == 0 || name_bytes > 255) return false;
  std::string_view port = host.substr(name_bytes);
  if (port.empty()) return true;
  if (port.front() != ':' || port.size() > 6) return false;
  port.remove_prefix(1);
  return std::all_of(port.begin(), port.end(), is_digit);
}

std::optional<Refusal> parse_target(std::string_view method, std::string_view raw, std::size_t bytes_max,
                                    Target& target) {
  target = {};
  if (raw.size() > bytes_max) return Refusal{414, "the request target is too long"};
  if (method == "CONNECT") return Refusal{501, "CONNECT is not supported: this is not a proxy"};
  for (const char c : raw) {
    if (c <= ' ' || c >= 0x7f) return Refusal{400, "the request target has bytes that are not printable ASCII"};
    if (c == '\\') return Refusal{400, "the request target has a backslash"};
    if (c == '#') return Refusal{400, "the request target has a fragment"};
  }
  if (raw == "*") {
    if (method != "OPTIONS") return Refusal{400, "the request target * is for OPTIONS only"};
    target.path = "*";
    return std::nullopt;
  }
  if (const auto rest = after_scheme(raw)) {
    const std::size_t host_bytes = std::min(rest->find_first_of("/?"), rest->size());
    target.host = rest->substr(0, host_bytes);
    if (!is_host(target.host)) return Refusal{400, "the request target's host is malformed"};
    raw = rest->substr(host_bytes);
  } else if (!raw.starts_with('/')) {
    return Refusal{400, "the request target does not begin with /"};
  }
  const std::size_t path_bytes = std::min(raw.find('?'), raw.size());
  if (const auto refusal = check_path(raw.substr(0, path_bytes))) return refusal;
  const std::string_view query = raw.substr(std::min(path_bytes + 1, raw.size()));
  if (query.find("%00") != std::string_view::npos) return Refusal{400, "the query has an encoded NUL"};
  target.path = path_bytes == 0 ? "/" : raw.substr(0, path_bytes);
  target.query = query;
  return std::nullopt;
}

}  // namespace tandem::server

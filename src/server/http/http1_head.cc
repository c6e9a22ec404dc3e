#include "server/http/http1_head.h"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <limits>
#include <utility>

#include "base/check.h"

namespace tandem::server {
namespace {

namespace beast = boost::beast;
using beast::http::field;

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return lower;
}

std::string_view view(beast::string_view text) { return {text.data(), text.size()}; }

// Collects the fields of a head. Beast checks the grammar and reads Connection; what it does not refuse is refused by
// parse_http1_head().
class FieldCollector final : public beast::http::basic_parser<true> {
 public:
  FieldCollector() {
    skip(true);  // bodies are read elsewhere
    eager(true);
    header_limit(std::numeric_limits<std::uint32_t>::max());  // the scanner has held the head to its limits
  }

  std::string method, target;
  int version = 0;
  Headers headers;

 private:
  using Error = beast::error_code;
  void on_request_impl(beast::http::verb, beast::string_view verb, beast::string_view path, int number,
                       Error&) override {
    method = view(verb);
    target = view(path);
    version = number;
  }
  void on_field_impl(field, beast::string_view name, beast::string_view value, Error&) override {
    headers.push_back({to_lower(view(name)), std::string(view(value))});
  }
  void on_header_impl(Error&) override {}
  void on_finish_impl(Error&) override {}
  // The rest belongs to answers and bodies.
  void on_response_impl(int, beast::string_view, int, Error&) override {}
  void on_body_init_impl(boost::optional<std::uint64_t> const&, Error&) override {}
  std::size_t on_body_impl(beast::string_view, Error&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t, beast::string_view, Error&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view, Error&) override { return 0; }
};

// "HTTP/2.0" and the like at the end of the request line: well formed, but not ours.
bool is_other_version(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\r'));
  const std::string_view version = line.substr(std::min(line.rfind(' '), line.size() - 1) + 1);
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return version.size() == 8 && version.starts_with("HTTP/") && digit(version[5]) && version[6] == '.' &&
         digit(version[7]) && version != "HTTP/1.1" && version != "HTTP/1.0";
}

// The one header of that name; `count` says how many there are.
const std::string* find_single(const Headers& headers, std::string_view name, std::size_t& count) {
  count = 0;
  const std::string* found = nullptr;
  for (const Header& header : headers) {
    if (header.name != name) continue;
    ++count;
    found = &header.value;
  }
  return found;
}

std::optional<Refusal> read_host(const FieldCollector& fields, std::string host_of_target, std::string& host) {
  std::size_t count = 0;
  const std::string* value = find_single(fields.headers, "host", count);
  if (count > 1) return Refusal{400, "there are several Host headers"};
  if (value == nullptr && fields.version >= 11) return Refusal{400, "the Host header is missing"};
  if (value != nullptr && !is_host(*value)) return Refusal{400, "the Host header is malformed"};
  // RFC 9112 section 3.2.2: the host of an absolute target counts, not that of the header.
  host = !host_of_target.empty() ? std::move(host_of_target) : value != nullptr ? *value : std::string();
  return std::nullopt;
}

// How the body is framed. Two proxies that disagree here can be made to see different requests (request smuggling), so
// every form but the two plain ones is refused.
std::optional<Refusal> read_framing(const FieldCollector& fields, Http1Head& head) {
  std::size_t lengths = 0, encodings = 0;
  const std::string* length = find_single(fields.headers, "content-length", lengths);
  const std::string* encoding = find_single(fields.headers, "transfer-encoding", encodings);
  if (length != nullptr && encoding != nullptr)
    return Refusal{400, "Content-Length and Transfer-Encoding exclude each other"};
  if (encoding != nullptr) {
    if (fields.version < 11) return Refusal{400, "HTTP/1.0 has no Transfer-Encoding"};
    if (encodings > 1 || !equals_ignoring_case(*encoding, "chunked"))
      return Refusal{501, "the only Transfer-Encoding supported is chunked"};
    head.chunked = true;
  }
  if (length != nullptr) {
    const bool digits = !length->empty() && length->size() <= 18 &&
                        std::all_of(length->begin(), length->end(), [](char c) { return c >= '0' && c <= '9'; });
    if (lengths > 1 || !digits) return Refusal{400, "Content-Length is malformed"};
    for (const char c : *length) head.body_bytes = head.body_bytes * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return std::nullopt;
}

}  // namespace

std::optional<Refusal> parse_http1_head(std::string_view bytes, const ConnectionLimits& limits, Http1Head& head) {
  head = {};
  if (is_other_version(bytes)) return Refusal{505, "the HTTP version is not supported: use 1.1, 1.0 or 2"};
  FieldCollector fields;
  beast::error_code error;
  fields.put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
  if (error) return Refusal{400, "the request's head is malformed"};
  TD_CHECK(fields.is_done(), bytes.size());

  std::size_t header_bytes = 0;
  for (const Header& header : fields.headers) header_bytes += header.name.size() + header.value.size();
  if (header_bytes > limits.header_bytes_max) return Refusal{431, "the headers are too large"};

  Target target;
  if (const auto refusal = parse_target(fields.method, fields.target, limits.target_bytes_max, target)) return refusal;
  if (const auto refusal = read_host(fields, std::move(target.host), head.request.host)) return refusal;
  if (const auto refusal = read_framing(fields, head)) return refusal;

  std::size_t expectations = 0;
  const std::string* expected = find_single(fields.headers, "expect", expectations);
  if (expected != nullptr && fields.version >= 11) {
    if (expectations > 1 || !equals_ignoring_case(*expected, "100-continue"))
      return Refusal{417, "the only expectation supported is 100-continue"};
    head.expects_continue = true;
  }
  head.keep_alive = fields.keep_alive();
  head.request.version = fields.version >= 11 ? HttpVersion::k11 : HttpVersion::k10;
  head.request.method = std::move(fields.method);
  head.request.path = std::move(target.path);
  head.request.query = std::move(target.query);
  head.request.headers = std::move(fields.headers);
  return std::nullopt;
}

}  // namespace tandem::server

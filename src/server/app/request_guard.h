// Who may ask, before it matters what: the Host header (DNS rebinding), the Origin header (pages of other sites), the
// kind of body.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api/error.h"
#include "server/app/options.h"
#include "server/http/message.h"

namespace tandem::server {

// Immutable. Threads: any.
class RequestGuard {
 public:
  explicit RequestGuard(const ServerOptions& options);

  // Nothing, or why the request is refused: 403 (a host or an origin that is not ours), 415 (a body that is not JSON).
  std::optional<ApiError> check(const RequestHead& head) const;

  // What lets the page of an allowed origin read the answer; nothing for others.
  Headers cors_headers(const RequestHead& head) const;
  // The answer to "may I?" of a browser.
  std::optional<Response> preflight(const RequestHead& head) const;

 private:
  bool host_allowed(std::string_view host) const;
  bool origin_allowed(const std::string& origin) const;

  std::vector<std::string> hosts_;  // without port, in lower case; empty: any
  std::vector<std::string> origins_;
};

// Whether an address reaches this machine only.
bool is_loopback(std::string_view host);

}  // namespace tandem::server

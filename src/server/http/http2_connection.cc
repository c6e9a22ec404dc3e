#include "server/http/connection_impl.h"

namespace tandem::server {

std::unique_ptr<Connection> create_http2_connection(const ConnectionLimits& limits, ByteBudget& body_budget,
                                                    ConnectionEvents& events, TimePoint now) {
  return create_http1_connection(limits, body_budget, events, now);
}

}  // namespace tandem::server

#include "server/app/router.h"

namespace tandem::server {
namespace {

constexpr Route kPublicRoutes[] = {
    {"GET", "/", Handler::kPage, true},
    {"GET", "/page/*", Handler::kPage, true},
    {"GET", "/health", Handler::kHealth, true},
    {"GET", "/ping", Handler::kHealth, true},
    {"GET", "/livez", Handler::kLive, true},
    {"GET", "/readyz", Handler::kReady, true},
    {"GET", "/version", Handler::kVersion},
    {"GET", "/metrics", Handler::kMetrics},
    {"GET", "/v1/models", Handler::kModels},
    {"GET", "/v1/models/*", Handler::kModel},
    {"POST", "/v1/chat/completions", Handler::kChatCompletions},
    {"POST", "/v1/completions", Handler::kCompletions},
    {"POST", "/v1/responses", Handler::kResponses},
    {"POST", "/v1/embeddings", Handler::kEmbeddings},
    {"POST", "/tokenize", Handler::kTokenize},
    {"POST", "/detokenize", Handler::kDetokenize},
    {"POST", "/apply-template", Handler::kApplyTemplate},
};

constexpr Route kControlRoutes[] = {
    {"GET", "/livez", Handler::kLive, true},
    {"GET", "/metrics", Handler::kMetrics},
    {"GET", "/admin/v1/stats", Handler::kStats},
    {"POST", "/admin/v1/pause", Handler::kPause},
    {"POST", "/admin/v1/resume", Handler::kResume},
    {"POST", "/admin/v1/abort", Handler::kAbort},
    {"GET", "/admin/v1/weights", Handler::kShowWeights},
    {"POST", "/admin/v1/weights", Handler::kSetWeights},
    {"POST", "/admin/v1/cache/flush", Handler::kFlushCache},
    {"GET", "/admin/v1/log", Handler::kShowLog},
    {"POST", "/admin/v1/log", Handler::kSetLog},
};

}  // namespace

std::span<const Route> routes(Surface surface) {
  if (surface == Surface::kPublic) return kPublicRoutes;
  return kControlRoutes;
}

bool generates(Handler handler) {
  return handler == Handler::kChatCompletions || handler == Handler::kCompletions || handler == Handler::kResponses;
}

Match find_route(Surface surface, std::string_view method, std::string_view path) {
  Match match;
  if (method == "HEAD") method = "GET";
  for (const Route& route : routes(surface)) {
    std::string_view pattern = route.path, argument;
    if (pattern.ends_with('*')) {
      pattern.remove_suffix(1);
      if (!path.starts_with(pattern) || path.size() == pattern.size()) continue;
      argument = path.substr(pattern.size());
    } else if (path != pattern) {
      continue;
    }
    if (method == route.method) return {&route, route.method, argument};
    match.allow += (match.allow.empty() ? "" : ", ") + std::string(route.method);
    if (match.allow == "GET") match.allow = "GET, HEAD";
  }
  return match;
}

}  // namespace tandem::server

// The routes of both listeners: one table each, which a test walks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tandem::server {

enum class Surface : std::uint8_t { kPublic, kControl };

enum class Handler : std::uint8_t {
  // Answered at once, on the I/O thread.
  kPage,
  kHealth,
  kLive,
  kReady,
  kVersion,
  kMetrics,
  kModels,
  kModel,
  // Answered by a worker, without the engine.
  kTokenize,
  kDetokenize,
  kApplyTemplate,
  kEmbeddings,
  // Run by the engine.
  kChatCompletions,
  kCompletions,
  kResponses,
  // Control.
  kPause,
  kResume,
  kAbort,
  kShowWeights,
  kSetWeights,
  kFlushCache,
  kShowLog,
  kSetLog,
  kStats,
};

struct Route {
  const char* method;
  const char* path;  // ends with '*': the rest of the path is an argument
  Handler handler;
  bool open = false;  // needs no key
};

std::span<const Route> routes(Surface surface);

// True for what the engine runs: such calls queue and are counted.
bool generates(Handler handler);

struct Match {
  const Route* route = nullptr;  // null: no such path, or not with this method
  std::string allow;             // the methods that the path has; empty: no such path
  std::string_view argument;     // of the path, percent-encoded
};
// HEAD is answered as GET is.
Match find_route(Surface surface, std::string_view method, std::string_view path);

}  // namespace tandem::server

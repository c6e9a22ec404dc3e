// Any bytes as an HTTP/2 connection's input after the preface, in any pieces, with time and answers in between.
#include "http_owner.h"
#include "server/http/connection_impl.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem::server;
  if (size > 1 << 16) return 0;
  // With and without the SETTINGS frame that must come first.
  static const std::string start = std::string(kHttp2Preface) + std::string("\0\0\0\4\0\0\0\0\0", 9);
  const bool bare = size > 0 && data[0] % 8 == 7;
  run_http_history(Protocol::kHttp2, data, size, bare ? kHttp2Preface : std::string_view(start));
  return 0;
}

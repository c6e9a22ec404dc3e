// Any bytes as an HTTP/1.1 connection's input, in any pieces, with time and answers in between.
#include "http_owner.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tandem::server;
  if (size > 1 << 16) return 0;
  run_http_history(size > 0 && data[0] % 2 == 1 ? Protocol::kDetect : Protocol::kHttp1, data, size);
  return 0;
}

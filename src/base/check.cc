#include "base/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace tandem {
namespace {
std::atomic<int> check_rank{0};
std::atomic<std::int64_t> check_step{-1};
}  // namespace

void set_check_context(int rank, std::int64_t step) {
  check_rank.store(rank, std::memory_order_relaxed);
  check_step.store(step, std::memory_order_relaxed);
}

void detail::check_failed(const char* file, int line, const char* condition, const std::string& values) {
  std::fprintf(stderr, "tandem: bug at %s:%d: check failed: %s", file, line, condition);
  if (!values.empty()) std::fprintf(stderr, " (%s)", values.c_str());
  std::fprintf(stderr, " [rank %d, step %lld]\n", check_rank.load(), static_cast<long long>(check_step.load()));
  std::fflush(stderr);
  std::abort();
}

}  // namespace tandem

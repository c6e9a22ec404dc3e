#include "server/app/service.h"

#include <chrono>
#include <random>

#include "base/rng.h"

namespace tandem::server {
namespace {

// As many tasks as there can be calls, and some for those without the engine.
std::size_t tasks_max(const ServerOptions& options, std::int64_t running_max) {
  return static_cast<std::size_t>(options.queue_requests_max + running_max) + 256;
}

std::uint64_t random_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

}  // namespace

Service::Service(const ServerOptions& given, std::string version_text, std::int64_t running_max, const ApiContext& api_,
                 engine::Engine& engine_, const Clock& clock_)
    : options(given),
      version(std::move(version_text)),
      api(api_),
      engine(engine_),
      clock(clock_),
      guard(options),
      limiter(options.requests_per_s_max),
      admission({.running_max = running_max,
                 .queue_requests_max = options.queue_requests_max,
                 .queue_tokens_max = options.queue_tokens_max,
                 .queue_wait_s_max = options.queue_wait_s_max}),
      body_budget(options.body_bytes_total),
      workers(options.worker_threads, tasks_max(options, running_max)),
      id_seed_(random_seed()) {}

std::string Service::new_call_id() {
  const auto words = philox({.seed = id_seed_}, ids_made_.fetch_add(1, std::memory_order_relaxed));
  return fmt::format("{:08x}{:08x}{:08x}", words[0], words[1], words[2]);
}

std::int64_t Service::unix_seconds() const {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace tandem::server

#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tandem {
namespace {

inline void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// About 50 us of spinning before a worker sleeps: longer than the gap between two kernels of one step.
constexpr int kSpinsBeforeSleep = 2000;
// A caller waits for tasks that others run. Where the cores are busy, whoever runs one may need this one's core.
constexpr int kSpinsBeforeYield = 2000;

}  // namespace

int ThreadPool::cores_count() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");  // a container's share: "max 100000" or "200000 100000"
  double quota = 0, period = 0;
  if (quota_file >> quota >> period && period > 0) count = std::min(count, static_cast<int>(std::ceil(quota / period)));
  return std::max(count, 1);
}

ThreadPool::ThreadPool(int threads_count) {
  if (threads_count <= 0) threads_count = cores_count();
  workers_.reserve(static_cast<std::size_t>(threads_count - 1));
  for (int i = 1; i < threads_count; ++i) workers_.emplace_back([this] { worker_loop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, TaskFunction function, void* context) {
  struct Part {
    TaskFunction function;
    void* context;
    std::int64_t first;
  };
  constexpr std::int64_t kPartMax = std::int64_t{1} << 30;  // task numbers have 32 bits
  if (count <= kPartMax) return run_region(static_cast<std::uint32_t>(count), function, context);
  for (Part part{function, context, 0}; part.first < count; part.first += kPartMax) {
    run_region(
        static_cast<std::uint32_t>(std::min(kPartMax, count - part.first)),
        [](void* of, std::int64_t i) {
          const Part& whole = *static_cast<Part*>(of);
          whole.function(whole.context, whole.first + i);
        },
        &part);
  }
}

void ThreadPool::run_region(std::uint32_t count, TaskFunction function, void* context) {
  const std::uint32_t id = region_of(ticket_.load(std::memory_order_relaxed)) + 1;
  Region& region = regions_[id % kRegions];
  region.function.store(function, std::memory_order_relaxed);
  region.context.store(context, std::memory_order_relaxed);
  region.count.store(count, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(static_cast<std::uint64_t>(id) << 32);  // seq_cst: pairs with the sleeper's re-check
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(mutex_); }  // a worker between its check and its wait must not miss the notify
    wake_.notify_all();
  }
  while (run_one(ticket_.load(std::memory_order_relaxed))) {
  }
  // All tasks are taken; wait for those under way.
  for (int spins = 0; done_.load(std::memory_order_acquire) != count; ++spins) {
    if (spins < kSpinsBeforeYield) {
      spin_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

bool ThreadPool::run_one(std::uint64_t ticket) {
  const Region& region = regions_[region_of(ticket) % kRegions];
  for (;;) {
    // These may be of a later region with the same place; then the exchange fails, for the ticket is another.
    const std::uint32_t count = region.count.load(std::memory_order_relaxed);
    const TaskFunction function = region.function.load(std::memory_order_relaxed);
    void* const context = region.context.load(std::memory_order_relaxed);
    if (task_of(ticket) >= count) return false;
    std::uint64_t seen = ticket;
    if (ticket_.compare_exchange_weak(seen, ticket + 1, std::memory_order_acquire, std::memory_order_acquire)) {
      function(context, task_of(ticket));
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
    if (region_of(seen) != region_of(ticket)) return false;
    ticket = seen;
  }
}

void ThreadPool::worker_loop() {
  for (int spins = 0;;) {
    const std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (run_one(ticket)) {
      spins = 0;
      continue;
    }
    if (++spins < kSpinsBeforeSleep) {
      spin_pause();
      continue;
    }
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return stopping_.load() || region_of(ticket_.load()) != region_of(ticket); });
    sleepers_.fetch_sub(1);
    if (stopping_.load()) return;
    spins = 0;
  }
}

}  // namespace tandem

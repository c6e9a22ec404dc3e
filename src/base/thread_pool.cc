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
    region_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, TaskFunction function, void* context) {
  function_ = function;
  context_ = context;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  region_.fetch_add(1);  // seq_cst: pairs with the sleeper's re-check below
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(mutex_); }  // a worker between its check and its wait must not miss the notify
    wake_.notify_all();
  }
  for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) function(context, i);
  // All tasks are taken; wait until the workers that run the last ones, or are late, have left the region.
  for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < 20000) {
      spin_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::worker_loop() {
  std::uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (region_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpinsBeforeSleep) {
        spin_pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return region_.load() != seen; });
      sleepers_.fetch_sub(1);
    }
    ++seen;
    if (stopping_.load()) return;
    const TaskFunction function = function_;
    void* const context = context_;
    const std::int64_t count = count_;
    for (std::int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) function(context, i);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tandem

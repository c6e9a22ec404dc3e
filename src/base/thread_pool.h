// One pool of workers for all compute. A parallel region runs `task(i)` for i < count, each exactly once, on the
// calling thread and the workers, and returns when all are done. Which thread runs which task is not fixed, so tasks
// must not depend on it: results never depend on the number of threads.
//
// Between regions that follow each other closely, workers spin; when idle longer, they sleep. A region waits for tasks,
// never for workers: one that sleeps, or that the system does not run because the cores are busy, is done without.
// Threads: one caller at a time (the owner of a Stream); tasks must not throw and must not start regions.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace tandem {

class ThreadPool {
 public:
  // `threads_count` includes the caller: 1 means no workers. 0 means one per core this process may use.
  explicit ThreadPool(int threads_count);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads_count() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(i) for every i in [0, count). `task` is any callable taking std::int64_t.
  template <class Task>
  void parallel_for(std::int64_t count, Task&& task) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (std::int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    using Callable = std::remove_reference_t<Task>;
    run(
        count, [](void* context, std::int64_t i) { (*static_cast<Callable*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

  // Cores this process may run on: its affinity mask, and no more than its control group's share.
  static int cores_count();

 private:
  using TaskFunction = void (*)(void* context, std::int64_t index);
  // What a region is. Written by the caller before ticket_ names the region, read by whoever then takes a task of it.
  struct Region {
    std::atomic<TaskFunction> function{nullptr};
    std::atomic<void*> context{nullptr};
    std::atomic<std::uint32_t> count{0};
  };
  // A thread that looks at a region must have been asleep for so many others before it can read a later one's fields;
  // and then its attempt to take a task fails.
  static constexpr std::uint32_t kRegions = 64;
  static constexpr std::uint32_t region_of(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket >> 32); }
  static constexpr std::uint32_t task_of(std::uint64_t ticket) { return static_cast<std::uint32_t>(ticket); }

  void run(std::int64_t count, TaskFunction function, void* context);
  void run_region(std::uint32_t count, TaskFunction function, void* context);
  // Runs one task of the region that `ticket` names, if one is left and the region is still the current one.
  bool run_one(std::uint64_t ticket);
  void worker_loop();

  std::vector<std::thread> workers_;
  Region regions_[kRegions];
  alignas(64) std::atomic<std::uint64_t> ticket_{0};  // the region, and its next task
  alignas(64) std::atomic<std::uint32_t> done_{0};    // tasks of it
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace tandem

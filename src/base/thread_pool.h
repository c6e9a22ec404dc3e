// One pool of workers for all compute. A parallel region runs `task(i)` for i < count, each exactly once, on the
// calling thread and the workers, and returns when all are done. Which thread runs which task is not fixed, so tasks
// must not depend on it: results never depend on the number of threads.
//
// Between regions that follow each other closely, workers spin; when idle longer, they sleep.
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
  void run(std::int64_t count, TaskFunction function, void* context);
  void worker_loop();

  std::vector<std::thread> workers_;
  // The open region. Written by the caller before `region_` is bumped, read by workers after.
  TaskFunction function_ = nullptr;
  void* context_ = nullptr;
  std::int64_t count_ = 0;
  alignas(64) std::atomic<std::uint64_t> region_{0};
  alignas(64) std::atomic<std::int64_t> next_{0};
  alignas(64) std::atomic<int> busy_{0};  // workers that have not left the open region
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace tandem

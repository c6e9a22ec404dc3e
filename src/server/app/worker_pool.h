// Threads for what may take long: JSON, templates, tokenizers, grammars. I/O threads never wait for them.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace tandem::server {

// Threads: any.
class WorkerPool {
 public:
  using Task = std::function<void()>;

  WorkerPool(int threads_count, std::size_t queue_max) : queue_(queue_max) {
    for (int i = 0; i < threads_count; ++i)
      threads_.emplace_back([this] {
        while (std::optional<Task> task = queue_.pop()) (*task)();
      });
  }
  ~WorkerPool() { stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // What is queued is still done; later tasks are refused. One thread, once or more.
  void stop() {
    queue_.close();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  // False if the queue is full or the pool was stopped; `task` is then dropped. Tasks must not throw.
  [[nodiscard]] bool post(Task task) { return queue_.push(std::move(task)); }

 private:
  BoundedQueue<Task> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace tandem::server

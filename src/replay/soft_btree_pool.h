// Memory for the nodes of one tree and its snapshots: two sizes, cut from slabs that grow with the tree. Large slabs
// ask for huge pages, since a tree is walked all over and would miss the table of small ones at each step.
//
// What is given back serves the same tree again; all is freed with the pool.   Threads: any.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace tandem::replay::tree {

class NodePool {
 public:
  // Multiples of 64 bytes, and so aligned.
  NodePool(std::size_t leaf_bytes, std::size_t inner_bytes) : bytes_{leaf_bytes, inner_bytes} {}
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;
  ~NodePool();

  void* take(bool leaf);
  void give_back(void* memory, bool leaf);
  std::int64_t taken() const { return taken_.load(std::memory_order_relaxed); }  // ever

 private:
  struct Free {
    Free* next;
  };
  void add_slab(std::size_t bytes_least);

  const std::array<std::size_t, 2> bytes_;
  std::mutex mutex_;
  std::array<Free*, 2> free_ = {};
  std::byte *at_ = nullptr, *end_ = nullptr;  // of the last slab, what has not been given out
  std::size_t total_ = 0;
  std::atomic<std::int64_t> taken_{0};
  std::vector<void*> slabs_;
};

}  // namespace tandem::replay::tree

#include "replay/soft_btree_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace tandem::replay::tree {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20, kSlabLeast = std::size_t{1} << 15, kSlabMost = 8 * kHugePage;
constexpr std::size_t kLine = 64;

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

// An address sanitizer sees a node that is used after it was freed only if it is freed.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kFreesNodes = true;
#elif defined(__has_feature)
constexpr bool kFreesNodes = __has_feature(address_sanitizer);
#else
constexpr bool kFreesNodes = false;
#endif

void* allocate(std::size_t alignment, std::size_t bytes) {
  void* memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

NodePool::~NodePool() {
  for (void* slab : slabs_) std::free(slab);
}

void* NodePool::take(bool leaf) {
  const std::size_t bytes = bytes_[leaf ? 0 : 1];
  taken_.fetch_add(1, std::memory_order_relaxed);
  if constexpr (kFreesNodes) return allocate(kLine, bytes);
  const std::lock_guard lock(mutex_);
  Free*& free = free_[leaf ? 0 : 1];
  if (free != nullptr) {
    void* memory = free;
    free = free->next;
    return memory;
  }
  if (static_cast<std::size_t>(end_ - at_) < bytes) add_slab(bytes);
  void* memory = at_;
  at_ += bytes;
  return memory;
}

void NodePool::give_back(void* memory, bool leaf) {
  if constexpr (kFreesNodes) {
    std::free(memory);
    return;
  }
  const std::lock_guard lock(mutex_);
  free_[leaf ? 0 : 1] = new (memory) Free{free_[leaf ? 0 : 1]};
}

// Half of what there is already: little is ever left unused. (What is left of the slab before is too small for a node.)
void NodePool::add_slab(std::size_t bytes_least) {
  std::size_t bytes = std::max(bytes_least, std::clamp(total_ / 2, kSlabLeast, kSlabMost));
  const bool huge = bytes >= kHugePage;
  bytes = round_up(bytes, huge ? kHugePage : kLine);
  void* slab = allocate(huge ? kHugePage : kLine, bytes);
  slabs_.push_back(slab);
  if (huge) (void)::madvise(slab, bytes, MADV_HUGEPAGE);  // small pages do as well
  total_ += bytes;
  at_ = static_cast<std::byte*>(slab);
  end_ = at_ + bytes;
}

}  // namespace tandem::replay::tree

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

// Address sanitizers see a node that is used after it was freed only if it is freed.
#if defined(__SANITIZE_ADDRESS__)
#define TD_POOL_PLAIN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TD_POOL_PLAIN 1
#endif
#endif

}  // namespace

NodePool::~NodePool() {
  for (void* slab : slabs_) std::free(slab);
}

#ifdef TD_POOL_PLAIN

void* NodePool::take(bool leaf) {
  void* memory = std::aligned_alloc(kLine, bytes_[leaf ? 0 : 1]);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void NodePool::give_back(void* memory, bool) { std::free(memory); }

#else

void* NodePool::take(bool leaf) {
  const std::lock_guard lock(mutex_);
  Free*& free = free_[leaf ? 0 : 1];
  if (free != nullptr) {
    void* memory = free;
    free = free->next;
    return memory;
  }
  const std::size_t bytes = bytes_[leaf ? 0 : 1];
  if (static_cast<std::size_t>(end_ - at_) < bytes) add_slab(bytes);
  void* memory = at_;
  at_ += bytes;
  return memory;
}

void NodePool::give_back(void* memory, bool leaf) {
  const std::lock_guard lock(mutex_);
  free_[leaf ? 0 : 1] = new (memory) Free{free_[leaf ? 0 : 1]};
}

#endif

// Half of what there is already: little is ever left unused. (What is left of the slab before is too small for a node.)
void NodePool::add_slab(std::size_t bytes_least) {
  std::size_t bytes = std::max(bytes_least, std::clamp(total_ / 2, kSlabLeast, kSlabMost));
  const bool huge = bytes >= kHugePage;
  bytes = round_up(bytes, huge ? kHugePage : kLine);
  void* slab = std::aligned_alloc(huge ? kHugePage : kLine, bytes);
  if (slab == nullptr) throw std::bad_alloc();
  slabs_.push_back(slab);
  if (huge) (void)::madvise(slab, bytes, MADV_HUGEPAGE);  // small pages do as well
  total_ += bytes;
  at_ = static_cast<std::byte*>(slab);
  end_ = at_ + bytes;
}

}  // namespace tandem::replay::tree

#include "device/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tandem::device {

Result<Arena> Arena::create(Device device, std::size_t capacity_bytes) {
  Arena arena;
  if (capacity_bytes == 0) return arena;
  if (device.kind == DeviceKind::kCuda) {
    arena.of_device_ = TD_TRY(Memory::create(device, capacity_bytes));
    arena.data_ = static_cast<std::byte*>(arena.of_device_.data());
    arena.capacity_ = capacity_bytes;
    return arena;
  }
  void* data = ::mmap(nullptr, capacity_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return resource_exhausted("cannot reserve {} bytes of memory; lower the KV cache or the token budget",
                              capacity_bytes);
  }
  ::madvise(data, capacity_bytes, MADV_HUGEPAGE);  // a hint: fewer TLB misses where the system grants it
  arena.data_ = static_cast<std::byte*>(data);
  arena.capacity_ = capacity_bytes;
  return arena;
}

Arena Arena::create_planning() {
  Arena arena;
  arena.data_ = reinterpret_cast<std::byte*>(kArenaAlignment);  // not null, and never followed
  arena.capacity_ = ~std::size_t{0} / 2;
  arena.planning_ = true;
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      of_device_(std::move(other.of_device_)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      peak_(std::exchange(other.peak_, 0)),
      planning_(std::exchange(other.planning_, false)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(of_device_, other.of_device_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  std::swap(planning_, other.planning_);
  return *this;
}

Arena::~Arena() {
  if (data_ != nullptr && !planning_ && of_device_.data() == nullptr) ::munmap(data_, capacity_);
}

void* Arena::take(std::size_t bytes) {
  const std::size_t padded = (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
  TD_CHECK(padded >= bytes && padded <= capacity_ - used_, bytes, used_, capacity_);
  void* pointer = data_ + used_;
  used_ += padded;
  peak_ = std::max(peak_, used_);
  return pointer;
}

}  // namespace tandem::device

// One block of memory, handed out from the front and taken back all at once.
//
// A step takes its buffers from an arena sized before "ready", so that it allocates nothing. The size comes from
// running the same code once over a planning arena, which has no memory behind it and only counts. Invariants: used <=
// capacity; every pointer is aligned to kArenaAlignment. Threads: one at a time.   Memory: all of it reserved in
// create(); on the CPU pages come in when first touched.
#pragma once

#include <cstddef>
#include <memory>

#include "base/status.h"
#include "device/device.h"
#include "device/memory.h"

namespace tandem::device {

inline constexpr std::size_t kArenaAlignment = 256;  // what bulk copies and vector loads on CUDA want, and more

class Arena {
 public:
  // Errors: kResourceExhausted (the system or the device refuses), kInvalidArgument (no such device).
  [[nodiscard]] static Result<Arena> create(Device device, std::size_t capacity_bytes);

  // Counts without memory: the pointers it gives must not be followed.
  static Arena create_planning();

  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  // `bytes` of uninitialised memory. Running out is a bug in the plan, not a state of the world: it aborts.
  void* take(std::size_t bytes);

  bool is_planning() const { return planning_; }
  std::size_t used_bytes() const { return used_; }
  std::size_t capacity_bytes() const { return capacity_; }
  std::size_t peak_bytes() const { return peak_; }

  // A point to go back to. Scopes nest: what was taken since is free again.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used_) {}
    ~Scope() { arena_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t mark_;
  };

 private:
  std::byte* data_ = nullptr;
  Memory of_device_;  // behind data_ on CUDA
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
  bool planning_ = false;
};

}  // namespace tandem::device

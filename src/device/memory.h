// A block of one device's memory that is its own: for tests, benchmarks and buffers that live as long as their owner.
// What a step needs comes from an Arena.
//
// Threads: one at a time. Move-only.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "device/device.h"

namespace tandem::device {

class Memory {
 public:
  // Uninitialised, aligned to 256 bytes. Errors: kResourceExhausted (the device has no such block), kInvalidArgument
  // (no such device).
  [[nodiscard]] static Result<Memory> create(Device device, std::size_t bytes);

  // Host memory that stays where it is, so that copies to and from a CUDA device run beside the host's work.
  // Errors: kResourceExhausted, kInvalidArgument (a build without CUDA).
  [[nodiscard]] static Result<Memory> create_pinned(std::size_t bytes);

  Memory() = default;
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(data_), bytes_}; }

 private:
  Device device_;
  bool pinned_ = false;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Queues a copy between the host and the stream's device, or within either. Host memory may be reused, and what was
// copied to it read, once the stream has passed the call (synchronize()).   Errors: kDeviceLost.
[[nodiscard]] Status copy(void* to, const void* from, std::size_t bytes, Stream& stream);

// The same for `rows` rows of row_bytes that lie to_pitch and from_pitch bytes apart.
[[nodiscard]] Status copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                               std::size_t row_bytes, std::size_t rows, Stream& stream);

// Queues the clearing of the stream's device's memory.   Errors: kDeviceLost.
[[nodiscard]] Status fill_zeros(void* data, std::size_t bytes, Stream& stream);

}  // namespace tandem::device

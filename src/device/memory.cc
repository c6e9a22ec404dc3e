#include "device/memory.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "device/cuda_runtime.h"

namespace tandem::device {

Result<Memory> Memory::create(Device device, std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;
  Memory memory;
  memory.device_ = device;
  memory.bytes_ = bytes;
  const std::size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes == 0) return memory;
  if (device.kind == DeviceKind::kCuda) {
    memory.data_ = TD_TRY(cuda::allocate(device.index, whole));
  } else {
    memory.data_ = std::aligned_alloc(kAlignment, whole);
    if (memory.data_ == nullptr) return resource_exhausted("the system has no block of {} bytes", bytes);
  }
  return memory;
}

Result<Memory> Memory::create_pinned(std::size_t bytes) {
  Memory memory;
  memory.pinned_ = true;
  memory.bytes_ = bytes;
  if (bytes > 0) memory.data_ = TD_TRY(cuda::allocate_pinned(bytes));
  return memory;
}

Memory::Memory(Memory&& other) noexcept
    : device_(other.device_),
      pinned_(other.pinned_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(pinned_, other.pinned_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (pinned_) {
    cuda::release_pinned(data_);
  } else if (device_.kind == DeviceKind::kCuda) {
    cuda::release(data_);
  } else {
    std::free(data_);
  }
}

Status copy(void* to, const void* from, std::size_t bytes, Stream& stream) {
  if (bytes == 0) return ok_status();
  if (stream.device().kind == DeviceKind::kCuda) return cuda::copy(to, from, bytes, stream.cuda());
  std::memcpy(to, from, bytes);
  return ok_status();
}

Status copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t row_bytes,
                 std::size_t rows, Stream& stream) {
  if (row_bytes == 0 || rows == 0) return ok_status();
  if (stream.device().kind == DeviceKind::kCuda) {
    return cuda::copy_rows(to, to_pitch, from, from_pitch, row_bytes, rows, stream.cuda());
  }
  for (std::size_t row = 0; row < rows; ++row) {
    std::memcpy(static_cast<std::byte*>(to) + row * to_pitch, static_cast<const std::byte*>(from) + row * from_pitch,
                row_bytes);
  }
  return ok_status();
}

Status fill_zeros(void* data, std::size_t bytes, Stream& stream) {
  if (bytes == 0) return ok_status();
  if (stream.device().kind == DeviceKind::kCuda) return cuda::fill_zeros(data, bytes, stream.cuda());
  std::memset(data, 0, bytes);
  return ok_status();
}

}  // namespace tandem::device

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

Memory::Memory(Memory&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (device_.kind == DeviceKind::kCuda) {
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

}  // namespace tandem::device

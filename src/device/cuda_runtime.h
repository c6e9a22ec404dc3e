// The few calls of the CUDA runtime that this folder makes, so that a build without CUDA can refuse them in one place.
// Errors: kInvalidArgument (no such device; a build without CUDA), kResourceExhausted (memory), kDeviceLost (the rest).
#pragma once

#include <cstddef>

#include "base/status.h"
#include "device/device.h"

namespace tandem::device::cuda {

[[nodiscard]] Result<CudaStreamHandle> create_stream(int index);
void destroy_stream(CudaStreamHandle handle);
[[nodiscard]] Status synchronize(CudaStreamHandle handle);
[[nodiscard]] Result<void*> allocate(int index, std::size_t bytes);
void release(void* data);
[[nodiscard]] Status copy(void* to, const void* from, std::size_t bytes, CudaStreamHandle handle);

}  // namespace tandem::device::cuda

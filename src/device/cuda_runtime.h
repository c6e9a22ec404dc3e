// The few calls of the CUDA runtime that this folder makes, so that a build without CUDA can refuse them in one place.
// Errors: kInvalidArgument (no such device; a build without CUDA), kResourceExhausted (memory), kDeviceLost (the rest).
#pragma once

#include <cstddef>

#include "base/status.h"
#include "device/device.h"

namespace tandem::device::cuda {

[[nodiscard]] Result<CudaStreamHandle> create_stream(int index);
void destroy_stream(CudaStreamHandle handle);
[[nodiscard]] Status make_current(int index);
[[nodiscard]] Status synchronize(CudaStreamHandle handle);
[[nodiscard]] Result<void*> allocate(int index, std::size_t bytes);
void release(void* data);
[[nodiscard]] Result<void*> allocate_pinned(std::size_t bytes);
void release_pinned(void* data);
[[nodiscard]] Status copy(void* to, const void* from, std::size_t bytes, CudaStreamHandle handle);
[[nodiscard]] Status copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                               std::size_t row_bytes, std::size_t rows, CudaStreamHandle handle);
[[nodiscard]] Status fill_zeros(void* data, std::size_t bytes, CudaStreamHandle handle);

[[nodiscard]] Result<CudaEventHandle> create_event(int index, bool is_timed);
void destroy_event(CudaEventHandle event);
[[nodiscard]] Status record(CudaEventHandle event, CudaStreamHandle handle);
[[nodiscard]] Status wait(CudaEventHandle event);
[[nodiscard]] Status wait_on_device(CudaEventHandle event, CudaStreamHandle handle);
[[nodiscard]] Result<float> microseconds_between(CudaEventHandle from, CudaEventHandle to);

[[nodiscard]] Status begin_capture(CudaStreamHandle handle);
// The graph ready to launch; null if `keep` is false: what was captured is thrown away.
[[nodiscard]] Result<CudaGraphHandle> end_capture(CudaStreamHandle handle, bool keep);
void destroy_graph(CudaGraphHandle graph);
[[nodiscard]] Status launch_graph(CudaGraphHandle graph, CudaStreamHandle handle);

}  // namespace tandem::device::cuda

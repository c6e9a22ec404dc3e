// Checks of a kernel's arguments, made before anything is written.
//
// A message reads "<op>: <argument> is [4,8] bf16 on cpu; expected [4,16] f32 on cpu, last axis dense".
// Threads: any.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// In a list of expected extents: any extent will do.
inline constexpr std::int64_t kAnyExtent = -1;

enum class Layout : std::uint8_t {
  kDense,          // row-major, no gaps
  kLastAxisDense,  // the elements of a row lie together, rows anywhere
};

// kInvalidArgument unless `view` has this dtype, these extents and this layout, lies in the device's memory (the CPU's,
// unless another is named), and has data if it has elements.
[[nodiscard]] Status expect_view(const char* op, const char* argument, const tensor::TensorView& view,
                                 tensor::DType dtype, std::initializer_list<std::int64_t> extents, Layout layout,
                                 device::Device device = {});

// The same, with the dtype one of f32, bf16 and f16.
[[nodiscard]] Status expect_float_view(const char* op, const char* argument, const tensor::TensorView& view,
                                       std::initializer_list<std::int64_t> extents, Layout layout);

// The same, with the dtype one of bf16 and f16.
[[nodiscard]] Status expect_half_view(const char* op, const char* argument, const tensor::TensorView& view,
                                      std::initializer_list<std::int64_t> extents, Layout layout,
                                      device::Device device);

// kInvalidArgument unless the stream is a CUDA device's.
[[nodiscard]] Status expect_cuda_stream(const char* op, const device::Stream& stream);

// An argument may be left out: a default TensorView, with neither axes nor data.
inline bool is_absent(const tensor::TensorView& view) { return view.data() == nullptr && view.rank() == 0; }

}  // namespace tandem::kernels

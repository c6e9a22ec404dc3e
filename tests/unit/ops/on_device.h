// A device for tests of ops: its stream, tensors of given values on it, and what tensors on it hold.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "device/arena.h"
#include "device/memory.h"
#include "unit/kernels/reference.h"

namespace tandem::ops::testing {

using tensor::DType;
using tensor::Shape;
using tensor::TensorView;

inline constexpr device::Device kCpuDevice{device::DeviceKind::kCpu, 0}, kCudaDevice{device::DeviceKind::kCuda, 0};

class OnDevice {
 public:
  OnDevice(device::Device device, int threads)
      : device_(device),
        stream_(is_cuda() ? std::move(device::Stream::create_cuda(device.index)).value()
                          : device::Stream::create_cpu(threads)) {}

  bool is_cuda() const { return device_.kind == device::DeviceKind::kCuda; }
  device::Stream& stream() { return *stream_; }

  // On the CPU an f32 tensor is the values themselves, which must stay.
  TensorView put(const std::vector<float>& values, const Shape& shape, DType dtype = DType::kF32) {
    if (!is_cuda() && dtype == DType::kF32) return kernels::testing::view_of(values, shape);
    return put_copy(values, shape, dtype);
  }
  // Memory of its own, on the CPU too.
  TensorView put_copy(const std::vector<float>& values, const Shape& shape, DType dtype = DType::kF32) {
    const std::vector<std::uint16_t> halves =
        dtype == DType::kBf16 ? kernels::testing::to_bf16(values) : std::vector<std::uint16_t>();
    const void* const from = dtype == DType::kBf16 ? static_cast<const void*>(halves.data()) : values.data();
    const TensorView view(memory(values.size() * static_cast<std::size_t>(tensor::dtype_bytes(dtype))), dtype, shape,
                          device_);
    copy(view.data(), from, static_cast<std::size_t>(view.bytes()));
    return view;
  }
  TensorView put_ids(const std::vector<std::int32_t>& ids) {
    const TensorView view(memory(ids.size() * sizeof(std::int32_t)), DType::kI32,
                          Shape{static_cast<std::int64_t>(ids.size())}, device_);
    copy(view.data(), ids.data(), ids.size() * sizeof(std::int32_t));
    return view;
  }
  // Of a dense tensor, f32 or bf16.
  std::vector<float> get(const TensorView& view) {
    std::vector<float> values(static_cast<std::size_t>(view.count()));
    if (view.dtype() == DType::kF32) {
      copy(values.data(), view.data(), values.size() * sizeof(float));
      return values;
    }
    std::vector<std::uint16_t> halves(values.size());
    copy(halves.data(), view.data(), halves.size() * sizeof(std::uint16_t));
    std::transform(halves.begin(), halves.end(), values.begin(), tensor::f32_from_bf16);
    return values;
  }
  void set(const TensorView& dense, std::span<const float> values) {
    ASSERT_EQ(static_cast<std::size_t>(dense.count()), values.size());
    copy(dense.data(), values.data(), values.size_bytes());
  }
  void set_bf16(const TensorView& dense, std::span<const float> values) {
    ASSERT_EQ(static_cast<std::size_t>(dense.count()), values.size());
    const std::vector<std::uint16_t> halves = kernels::testing::to_bf16(values);
    copy(dense.data(), halves.data(), halves.size() * sizeof(std::uint16_t));
  }
  // Memory that holds NaN: whoever reads what was not written is found out.
  device::Arena poisoned_arena(std::size_t bytes = 16 << 20) {
    device::Arena arena = device::Arena::create(device_, bytes).value();
    const device::Arena::Scope scope(arena);
    const std::vector<std::byte> nan(bytes, std::byte{0xff});
    copy(arena.take(bytes), nan.data(), bytes);
    return arena;
  }

 private:
  void* memory(std::size_t bytes) {
    memories_.push_back(device::Memory::create(device_, bytes + 1).value());
    return memories_.back().data();
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    if (is_cuda()) {
      EXPECT_TRUE(device::copy(to, from, bytes, *stream_).ok());
      const Status status = stream_->synchronize();
      EXPECT_TRUE(status.ok()) << status.to_string();
    } else {
      std::memcpy(to, from, bytes);
    }
  }

  device::Device device_;
  std::unique_ptr<device::Stream> stream_;
  std::vector<device::Memory> memories_;
};

// Skips a test of CUDA where there is no device.
#define TANDEM_SKIP_WITHOUT(device_wanted)                                                                   \
  if ((device_wanted).kind == tandem::device::DeviceKind::kCuda && tandem::device::cuda_devices().empty()) { \
    GTEST_SKIP() << "no CUDA device";                                                                        \
  }

}  // namespace tandem::ops::testing

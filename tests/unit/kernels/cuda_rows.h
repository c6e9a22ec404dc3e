// Tensors of bf16, f16, f32 and e4m3 on a CUDA device for kernel tests: filled from floats, read back as floats, with
// memory around and between their rows that a kernel must not touch.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/memory.h"
#include "unit/kernels/reference.h"

namespace tandem::kernels::testing {

inline constexpr device::Device kCuda{device::DeviceKind::kCuda, 0};

// Skips the test where there is no device; `stream` is its stream.
#define TANDEM_CUDA_STREAM(stream)                                                       \
  if (tandem::device::cuda_devices().empty()) GTEST_SKIP() << "no CUDA device";          \
  const auto stream##_owner = std::move(tandem::device::Stream::create_cuda(0)).value(); \
  tandem::device::Stream& stream = *stream##_owner

inline float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kBf16: return rounded_to_bf16(value);
    case DType::kF16: return tensor::f32_from_f16(tensor::f16_from_f32(value));
    case DType::kF8E4m3: return tensor::f32_from_f8e4m3(tensor::f8e4m3_from_f32(value));
    default: return value;
  }
}
inline std::vector<float> rounded_to(DType dtype, std::vector<float> values) {
  for (float& value : values) value = rounded_to(dtype, value);
  return values;
}

// [rows, width] in rows `gap` elements apart, `shift` elements from 256 bytes.
class CudaRows {
 public:
  CudaRows(DType dtype, std::int64_t rows, std::int64_t width, std::int64_t gap, std::int64_t shift,
           device::Stream& stream)
      : dtype_(dtype),
        rows_(rows),
        width_(width),
        stride_(width + gap),
        begin_(kMargin + shift),
        stream_(stream),
        host_(static_cast<std::size_t>((rows * stride_ + shift + 2 * kMargin) * tensor::dtype_bytes(dtype)), kGuard),
        memory_(std::move(device::Memory::create(kCuda, host_.size())).value()) {
    upload();
  }
  // Dense rows of these values.
  CudaRows(DType dtype, std::int64_t rows, std::int64_t width, const std::vector<float>& values, device::Stream& stream)
      : CudaRows(dtype, rows, width, 0, 0, stream) {
    set(values);
  }

  void set(const std::vector<float>& values) {
    ASSERT_EQ(values.size(), static_cast<std::size_t>(rows_ * width_));
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::byte* const to = at(i);
      if (dtype_ == DType::kF32) {
        std::memcpy(to, &values[i], sizeof(float));
      } else if (dtype_ == DType::kF8E4m3) {
        *to = static_cast<std::byte>(tensor::f8e4m3_from_f32(values[i]));
      } else {
        const std::uint16_t bits =
            dtype_ == DType::kBf16 ? tensor::bf16_from_f32(values[i]) : tensor::f16_from_f32(values[i]);
        std::memcpy(to, &bits, sizeof bits);
      }
    }
    upload();
  }
  // Waits for the stream. What lies outside the rows must be as it was.
  std::vector<float> get() {
    EXPECT_TRUE(device::copy(host_.data(), memory_.data(), host_.size(), stream_).ok());
    EXPECT_TRUE(stream_.synchronize().ok());
    std::vector<float> values(static_cast<std::size_t>(rows_ * width_));
    std::vector<std::byte> rest = host_;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::byte* const from = at(i);
      if (dtype_ == DType::kF32) {
        std::memcpy(&values[i], from, sizeof(float));
      } else if (dtype_ == DType::kF8E4m3) {
        values[i] = tensor::f32_from_f8e4m3(static_cast<std::uint8_t>(*from));
      } else {
        std::uint16_t bits;
        std::memcpy(&bits, from, sizeof bits);
        values[i] = dtype_ == DType::kBf16 ? tensor::f32_from_bf16(bits) : tensor::f32_from_f16(bits);
      }
      std::fill_n(rest.data() + (from - host_.data()), tensor::dtype_bytes(dtype_), kGuard);
    }
    EXPECT_TRUE(rest == std::vector<std::byte>(rest.size(), kGuard)) << "written outside its rows";
    return values;
  }

  TensorView view() const {
    const std::int64_t strides[] = {stride_, 1};
    return TensorView(data(), dtype_, Shape{rows_, width_}, strides, kCuda);
  }
  // [rows, heads, width / heads]
  TensorView heads_view(std::int64_t heads) const {
    const std::int64_t strides[] = {stride_, width_ / heads, 1};
    return TensorView(data(), dtype_, Shape{rows_, heads, width_ / heads}, strides, kCuda);
  }
  // [width] of one row.
  TensorView vector_view() const { return TensorView(data(), dtype_, Shape{width_}, kCuda); }

 private:
  void* data() const { return static_cast<std::byte*>(memory_.data()) + begin_ * tensor::dtype_bytes(dtype_); }
  std::byte* at(std::size_t i) {
    const auto index = static_cast<std::int64_t>(i);
    return host_.data() + (begin_ + index / width_ * stride_ + index % width_) * tensor::dtype_bytes(dtype_);
  }
  void upload() {
    ASSERT_TRUE(device::copy(memory_.data(), host_.data(), host_.size(), stream_).ok());
    ASSERT_TRUE(stream_.synchronize().ok());
  }

  static constexpr std::int64_t kMargin = 128;
  static constexpr std::byte kGuard{0xff};  // a NaN in every dtype
  DType dtype_;
  std::int64_t rows_, width_, stride_, begin_;
  device::Stream& stream_;
  std::vector<std::byte> host_;
  device::Memory memory_;
};

// i32 or i64 on the device.
class CudaInts {
 public:
  template <class T>
  CudaInts(const std::vector<T>& values, device::Stream& stream)
      : dtype_(sizeof(T) == 8 ? DType::kI64 : DType::kI32),
        memory_(std::move(device::Memory::create(kCuda, values.size() * sizeof(T) + 1)).value()) {
    EXPECT_TRUE(device::copy(memory_.data(), values.data(), values.size() * sizeof(T), stream).ok());
    EXPECT_TRUE(stream.synchronize().ok());
  }
  TensorView view(const Shape& shape) const { return TensorView(memory_.data(), dtype_, shape, kCuda); }

 private:
  DType dtype_;
  device::Memory memory_;
};

}  // namespace tandem::kernels::testing

// A borrowed, typed, strided look at memory: pointer, dtype, shape, strides, device. Copying it copies no data.
// Threads: a value. The memory's owner says how long it lives.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "device/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace tandem::tensor {

template <class T>
struct DTypeOf;
// clang-format off
template <> struct DTypeOf<double>        { static constexpr DType value = DType::kF64; };
template <> struct DTypeOf<float>         { static constexpr DType value = DType::kF32; };
template <> struct DTypeOf<std::int64_t>  { static constexpr DType value = DType::kI64; };
template <> struct DTypeOf<std::int32_t>  { static constexpr DType value = DType::kI32; };
template <> struct DTypeOf<std::int8_t>   { static constexpr DType value = DType::kI8; };
template <> struct DTypeOf<std::uint8_t>  { static constexpr DType value = DType::kU8; };
// clang-format on

class TensorView {
 public:
  TensorView() = default;  // no data: an optional input that is absent
  // Dense, row-major.
  TensorView(void* data, DType dtype, const Shape& shape, device::Device device = {});
  TensorView(void* data, DType dtype, const Shape& shape, std::span<const std::int64_t> strides,
             device::Device device = {});
  // Dense view of read-only memory. Kernels write only to their out arguments.
  TensorView(const void* data, DType dtype, const Shape& shape, device::Device device = {})
      : TensorView(const_cast<void*>(data), dtype, shape, device) {}
  template <class T, std::size_t N>
  static TensorView of(std::span<T, N> values) {
    return TensorView(values.data(), DTypeOf<std::remove_const_t<T>>::value,
                      Shape{static_cast<std::int64_t>(values.size())});
  }

  explicit operator bool() const { return data_ != nullptr; }
  void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  device::Device device() const { return device_; }
  int rank() const { return shape_.rank(); }
  std::int64_t extent(int axis) const { return shape_[axis]; }
  std::int64_t stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }  // in elements
  std::int64_t count() const { return shape_.count(); }
  std::int64_t bytes() const { return count() * dtype_bytes(dtype_); }

  bool is_dense() const;               // row-major, no gaps
  bool is_dense_from(int axis) const;  // row-major and gapless within axes >= axis

  // Typed pointer; the dtype must match (checked). 16-bit floats are read as std::uint16_t.
  template <class T>
  T* as() const {
    if constexpr (sizeof(T) == 2) {
      TD_DCHECK(dtype_bytes(dtype_) == 2, dtype_name(dtype_));
    } else {
      TD_DCHECK((dtype_ == DTypeOf<std::remove_const_t<T>>::value), dtype_name(dtype_));
    }
    return static_cast<T*>(data_);
  }

  // Rows [begin, end) of axis 0.
  TensorView rows(std::int64_t begin, std::int64_t end) const;
  // Elements [begin, end) of the last axis.
  TensorView columns(std::int64_t begin, std::int64_t end) const;
  // Another shape of the same count, for dense views.
  TensorView reshape(const Shape& shape) const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  device::Device device_;
  Shape shape_;
  std::array<std::int64_t, kRankMax> strides_{};
};

}  // namespace tandem::tensor

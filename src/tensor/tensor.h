// A tensor that owns its memory: dense, row-major, aligned to 64 bytes, zeroed at birth, on the CPU.
// Threads: one writer, or many readers. Move-only: a copy is an explicit clone().
#pragma once

#include <cstdlib>
#include <memory>
#include <span>

#include "tensor/tensor_view.h"

namespace tandem::tensor {

class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, const Shape& shape);

  TensorView view() const { return TensorView(data_.get(), dtype_, shape_); }
  operator TensorView() const { return view(); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  Tensor clone() const;

  template <class T>
  std::span<T> span() {
    return {view().as<T>(), static_cast<std::size_t>(shape_.count())};
  }
  template <class T>
  std::span<const T> span() const {
    return {view().as<const T>(), static_cast<std::size_t>(shape_.count())};
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  DType dtype_ = DType::kF32;
  Shape shape_{0};
};

}  // namespace tandem::tensor

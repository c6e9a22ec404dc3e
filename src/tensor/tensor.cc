#include "tensor/tensor.h"

#include <cstring>

namespace tandem::tensor {

Tensor::Tensor(DType dtype, const Shape& shape) : dtype_(dtype), shape_(shape) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t bytes = static_cast<std::size_t>(shape.count()) * static_cast<std::size_t>(dtype_bytes(dtype));
  const std::size_t padded = (bytes + kAlignment) / kAlignment * kAlignment;  // at least one line: never null
  data_.reset(std::aligned_alloc(kAlignment, padded));
  TD_CHECK(data_ != nullptr, padded);
  std::memset(data_.get(), 0, padded);
}

Tensor Tensor::clone() const {
  Tensor copy(dtype_, shape_);
  std::memcpy(copy.data_.get(), data_.get(), static_cast<std::size_t>(view().bytes()));
  return copy;
}

}  // namespace tandem::tensor

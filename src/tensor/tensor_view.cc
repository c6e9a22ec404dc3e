#include "tensor/tensor_view.h"

namespace tandem::tensor {

TensorView::TensorView(void* data, DType dtype, const Shape& shape, device::Device device)
    : data_(data), dtype_(dtype), device_(device), shape_(shape) {
  std::int64_t stride = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides_[static_cast<std::size_t>(axis)] = stride;
    stride *= shape[axis];
  }
}

TensorView::TensorView(void* data, DType dtype, const Shape& shape, std::span<const std::int64_t> strides,
                       device::Device device)
    : data_(data), dtype_(dtype), device_(device), shape_(shape) {
  TD_CHECK(static_cast<int>(strides.size()) == shape.rank(), strides.size(), shape.rank());
  for (std::size_t axis = 0; axis < strides.size(); ++axis) strides_[axis] = strides[axis];
}

bool TensorView::is_dense_from(int first_axis) const {
  std::int64_t expected = 1;
  for (int axis = rank() - 1; axis >= first_axis; --axis) {
    if (extent(axis) != 1 && stride(axis) != expected) return false;
    expected *= extent(axis);
  }
  return true;
}

bool TensorView::is_dense() const { return is_dense_from(0); }

TensorView TensorView::rows(std::int64_t begin, std::int64_t end) const {
  TD_CHECK(rank() >= 1 && begin >= 0 && begin <= end && end <= extent(0), begin, end, shape_.to_string());
  TensorView view = *this;
  view.data_ = static_cast<std::byte*>(data_) + begin * stride(0) * dtype_bytes(dtype_);
  std::array<std::int64_t, kRankMax> extents{};
  for (int axis = 0; axis < rank(); ++axis) extents[static_cast<std::size_t>(axis)] = extent(axis);
  extents[0] = end - begin;
  view.shape_ = Shape(std::span(extents.data(), static_cast<std::size_t>(rank())));
  return view;
}

TensorView TensorView::columns(std::int64_t begin, std::int64_t end) const {
  const int last = rank() - 1;
  TD_CHECK(last >= 0 && begin >= 0 && begin <= end && end <= extent(last), begin, end, shape_.to_string());
  TensorView view = *this;
  view.data_ = static_cast<std::byte*>(data_) + begin * stride(last) * dtype_bytes(dtype_);
  std::array<std::int64_t, kRankMax> extents{};
  for (int axis = 0; axis < rank(); ++axis) extents[static_cast<std::size_t>(axis)] = extent(axis);
  extents[static_cast<std::size_t>(last)] = end - begin;
  view.shape_ = Shape(std::span(extents.data(), static_cast<std::size_t>(rank())));
  return view;
}

TensorView TensorView::reshape(const Shape& shape) const {
  TD_CHECK(is_dense() && shape.count() == count(), shape_.to_string(), shape.to_string());
  return TensorView(data_, dtype_, shape, device_);
}

}  // namespace tandem::tensor

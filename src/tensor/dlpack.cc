#include "tensor/dlpack.h"

#include <array>

namespace tandem::tensor {
namespace {

struct DTypePair {
  DType dtype;
  DLDataType dlpack;
};
// DLPack 0.6 has no bool of its own: it travels as an 8-bit unsigned integer.
constexpr DTypePair kDTypes[] = {
    {DType::kF64, {kDLFloat, 64, 1}}, {DType::kF32, {kDLFloat, 32, 1}}, {DType::kBf16, {kDLBfloat, 16, 1}},
    {DType::kF16, {kDLFloat, 16, 1}}, {DType::kI64, {kDLInt, 64, 1}},   {DType::kI32, {kDLInt, 32, 1}},
    {DType::kI16, {kDLInt, 16, 1}},   {DType::kI8, {kDLInt, 8, 1}},     {DType::kU8, {kDLUInt, 8, 1}},
    {DType::kBool, {kDLUInt, 8, 1}},
};

// What an exported tensor carries until its deleter runs.
struct Exported {
  Tensor tensor;
  DLManagedTensor managed{};
  std::array<std::int64_t, kRankMax> shape{}, strides{};
};

}  // namespace

DLManagedTensor* to_dlpack(Tensor tensor) {
  auto* exported = new Exported{std::move(tensor)};
  const TensorView view = exported->tensor.view();
  for (int axis = 0; axis < view.rank(); ++axis) {
    exported->shape[static_cast<std::size_t>(axis)] = view.extent(axis);
    exported->strides[static_cast<std::size_t>(axis)] = view.stride(axis);
  }
  DLTensor& out = exported->managed.dl_tensor;
  out.data = view.data();
  out.device = {kDLCPU, 0};
  out.ndim = view.rank();
  for (const DTypePair& pair : kDTypes) {
    if (pair.dtype == view.dtype()) out.dtype = pair.dlpack;
  }
  TD_CHECK(out.dtype.lanes == 1, dtype_name(view.dtype()));  // 8-bit floats have no DLPack 0.6 name
  out.shape = exported->shape.data();
  out.strides = exported->strides.data();
  exported->managed.manager_ctx = exported;
  exported->managed.deleter = [](DLManagedTensor* managed) { delete static_cast<Exported*>(managed->manager_ctx); };
  return &exported->managed;
}

Result<DlpackTensor> DlpackTensor::import(DLManagedTensor* managed) {
  DlpackTensor imported;
  imported.managed_.reset(managed);
  const DLTensor& in = managed->dl_tensor;
  if (in.device.device_type != kDLCPU) {
    return invalid_argument("a DLPack tensor on device type {}: move it to the CPU first",
                            static_cast<int>(in.device.device_type));
  }
  if (in.ndim < 0 || in.ndim > kRankMax) {
    return invalid_argument("a DLPack tensor of rank {}: at most {} are supported", in.ndim, kRankMax);
  }
  const DTypePair* found = nullptr;
  for (const DTypePair& pair : kDTypes) {
    if (pair.dlpack.code == in.dtype.code && pair.dlpack.bits == in.dtype.bits && in.dtype.lanes == 1) {
      found = &pair;
      break;
    }
  }
  if (found == nullptr) {
    return invalid_argument("a DLPack tensor of type code {}, {} bits, {} lanes: convert it to f32 first",
                            static_cast<int>(in.dtype.code), static_cast<int>(in.dtype.bits),
                            static_cast<int>(in.dtype.lanes));
  }
  const Shape shape(std::span<const std::int64_t>(in.shape, static_cast<std::size_t>(in.ndim)));
  if (!shape.checked_count()) return invalid_argument("a DLPack tensor of shape {}", shape.to_string());
  auto* data = static_cast<std::byte*>(in.data) + in.byte_offset;
  imported.view_ = in.strides == nullptr
                       ? TensorView(static_cast<void*>(data), found->dtype, shape)
                       : TensorView(data, found->dtype, shape,
                                    std::span<const std::int64_t>(in.strides, static_cast<std::size_t>(in.ndim)));
  return imported;
}

}  // namespace tandem::tensor

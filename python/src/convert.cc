#include "convert.h"

#include <iterator>
#include <new>
#include <span>

namespace tandem::python {

namespace nb = nanobind;
using device::Device;
using device::DeviceKind;
using tensor::DType;

void raise(const Status& status) {
  PyObject* kind = PyExc_RuntimeError;
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kNotFound: kind = PyExc_ValueError; break;
    case StatusCode::kResourceExhausted: kind = PyExc_MemoryError; break;
    default: break;
  }
  PyErr_SetString(kind, status.message().c_str());
  throw nb::python_error();
}

Result<tensor::TensorView> view_of(const char* name, const InputArray& array) {
  struct Pair {
    nb::dlpack::dtype_code code;
    int bits;
    DType dtype;
  };
  using Code = nb::dlpack::dtype_code;
  static constexpr Pair kPairs[] = {
      {Code::Float, 64, DType::kF64}, {Code::Float, 32, DType::kF32}, {Code::Bfloat, 16, DType::kBf16},
      {Code::Float, 16, DType::kF16}, {Code::Int, 32, DType::kI32},   {Code::UInt, 8, DType::kU8},
  };
  const nb::dlpack::dtype dtype = array.dtype();
  const Pair* found = nullptr;
  for (const Pair& pair : kPairs) {
    if (static_cast<std::uint8_t>(pair.code) == dtype.code && pair.bits == dtype.bits && dtype.lanes == 1) {
      found = &pair;
    }
  }
  if (found == nullptr) {
    static constexpr const char* kKinds[] = {"int", "uint", "float", "object", "bfloat", "complex", "bool"};
    const char* const kind = dtype.code < std::size(kKinds) ? kKinds[dtype.code] : "another kind";
    return invalid_argument("{} is of the dtype {} ({} bits); expected a float of 16, 32 or 64 bits", name, kind,
                            int{dtype.bits});
  }
  Device device;
  if (array.device_type() == nb::device::cuda::value) {
    device = Device{DeviceKind::kCuda, array.device_id()};
  } else if (array.device_type() != nb::device::cpu::value && array.device_type() != nb::device::cuda_host::value) {
    return invalid_argument("{} is on a device of DLPack type {}; move it to the CPU or a CUDA device", name,
                            array.device_type());
  }
  const std::size_t rank = array.ndim();
  if (rank > static_cast<std::size_t>(tensor::kRankMax)) {
    return invalid_argument("{} has {} axes; at most {} are supported", name, rank, tensor::kRankMax);
  }
  const tensor::Shape shape(std::span<const std::int64_t>(array.shape_ptr(), rank));
  if (!shape.checked_count()) return invalid_argument("{} has the shape {}", name, shape.to_string());
  return tensor::TensorView(const_cast<void*>(array.data()), found->dtype, shape,
                            std::span<const std::int64_t>(array.stride_ptr(), rank), device);
}

std::span<std::byte> scratch_of(const std::optional<OutputArray>& scratch) {
  const tensor::TensorView view = checked_view("scratch", scratch);
  if (!view || view.count() == 0) return {};
  if (!view.is_dense()) raise(invalid_argument("scratch is not dense"));
  return {static_cast<std::byte*>(view.data()), static_cast<std::size_t>(view.bytes())};
}

}  // namespace tandem::python

// Between Python's words and the core's: arrays, devices, errors.   Threads: with the GIL held.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::python {

// Any array that speaks DLPack or the buffer protocol, borrowed for the call.
using InputArray = nanobind::ndarray<nanobind::ro>;
using OutputArray = nanobind::ndarray<>;

// Raises ValueError (kInvalidArgument, kNotFound), MemoryError (kResourceExhausted) or RuntimeError with the message as
// it is. The status is not ok.
[[noreturn]] void raise(const Status& status);

inline void check(const Status& status) {
  if (!status.ok()) raise(status);
}
template <class T>
T check(Result<T> result) {
  if (!result.ok()) raise(result.status());
  return std::move(result).value();
}

// The same memory, its strides as they are. Errors: kInvalidArgument (a dtype, device or rank without a word here).
[[nodiscard]] Result<tensor::TensorView> view_of(const char* name, const nanobind::ndarray<nanobind::ro>& array);

// An absent view for None.
template <class Array>
tensor::TensorView checked_view(const char* name, const std::optional<Array>& array) {
  return array ? check(view_of(name, InputArray(*array))) : tensor::TensorView();
}
template <class Array>
tensor::TensorView checked_view(const char* name, const Array& array) {
  return check(view_of(name, InputArray(array)));
}

// The bytes of a dense array; none for None. Raises ValueError.
std::span<std::byte> scratch_of(const std::optional<OutputArray>& scratch);

}  // namespace tandem::python

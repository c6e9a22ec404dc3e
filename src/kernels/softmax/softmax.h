// Row softmax family over f32, sums in f32 in an order fixed by the row's length and the instruction set.
//   x, y [T,N] f32, last axis dense, row stride free; y may be x
// A row's -infinity entries get probability 0; a row of nothing but -infinity gives zeros (log_softmax: -infinity).
// Errors: kInvalidArgument.   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status softmax_cpu(tensor::TensorView x, tensor::TensorView y, device::Stream& stream);
[[nodiscard]] Status log_softmax_cpu(tensor::TensorView x, tensor::TensorView y, device::Stream& stream);

// lse_ln[t] = ln sum_n e^x[t,n].   lse_ln [T] f32
[[nodiscard]] Status log_sum_exp_cpu(tensor::TensorView x, tensor::TensorView lse_ln, device::Stream& stream);

// y = cap * tanh(x / cap), elementwise; cap > 0.
[[nodiscard]] Status softcap_cpu(tensor::TensorView x, float cap, tensor::TensorView y, device::Stream& stream);

}  // namespace tandem::kernels

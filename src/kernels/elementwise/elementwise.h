// Elementwise arithmetic over rows of f32 that no other kernel swallowed.
//   a, b, y [T,C] f32, last axis dense, row stride free; y may be a or b
// Errors: kInvalidArgument.   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "kernels/linear/linear.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// y = a + alpha * b
[[nodiscard]] Status add_scaled_cpu(tensor::TensorView a, tensor::TensorView b, float alpha, tensor::TensorView y,
                                    device::Stream& stream);

// y = alpha * a
[[nodiscard]] Status scale_cpu(tensor::TensorView a, float alpha, tensor::TensorView y, device::Stream& stream);

// y = act(gate) * up
[[nodiscard]] Status gate_cpu(tensor::TensorView gate, tensor::TensorView up, Activation activation,
                              tensor::TensorView y, device::Stream& stream);

}  // namespace tandem::kernels

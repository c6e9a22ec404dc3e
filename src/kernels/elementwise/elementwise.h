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

// dgate += dy * up * act'(gate), dup += dy * act(gate); either may be absent: not wanted.
[[nodiscard]] Status gate_backward_cpu(tensor::TensorView gate, tensor::TensorView up, Activation activation,
                                       tensor::TensorView dy, tensor::TensorView dgate, tensor::TensorView dup,
                                       device::Stream& stream);

// Of y = cap * tanh(x / cap): dx += dy * (1 - (y / cap)^2).
[[nodiscard]] Status softcap_backward_cpu(tensor::TensorView y, float cap, tensor::TensorView dy, tensor::TensorView dx,
                                          device::Stream& stream);

// The same on CUDA. bf16 too: b of add_scaled, a and y of scale (the way from one to the other), y of gate; sums and
// products are f32, rounded once. Errors: also kInvalidArgument in a build without CUDA; kDeviceLost.
[[nodiscard]] Status add_scaled_cuda(tensor::TensorView a, tensor::TensorView b, float alpha, tensor::TensorView y,
                                     device::Stream& stream);
[[nodiscard]] Status scale_cuda(tensor::TensorView a, float alpha, tensor::TensorView y, device::Stream& stream);
[[nodiscard]] Status gate_cuda(tensor::TensorView gate, tensor::TensorView up, Activation activation,
                               tensor::TensorView y, device::Stream& stream);
[[nodiscard]] Status gate_backward_cuda(tensor::TensorView gate, tensor::TensorView up, Activation activation,
                                        tensor::TensorView dy, tensor::TensorView dgate, tensor::TensorView dup,
                                        device::Stream& stream);
[[nodiscard]] Status softcap_backward_cuda(tensor::TensorView y, float cap, tensor::TensorView dy,
                                           tensor::TensorView dx, device::Stream& stream);
// y = cap * tanh(a / cap); cap > 0. (On the CPU: softmax/softmax.h.)
[[nodiscard]] Status softcap_cuda(tensor::TensorView a, float cap, tensor::TensorView y, device::Stream& stream);

}  // namespace tandem::kernels

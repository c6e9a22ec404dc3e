// Rotary position embedding: pairs (x[i], x[i + R/2]) of the first R elements of each head turn by position * freq[i];
// elements from R on pass through (partial rotary). Source: Su et al., arXiv:2104.09864, in the half-split layout.
//
//   positions [T] i32     inv_freq [R/2] f32     cos, sin [T,R/2] f32     x [T,H,D] f32, last axis dense, turned in
//   place
// The table is made once a step and used by every layer. Angles are f32 products, as the reference implementations'
// are. Errors: kInvalidArgument.   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

// cos[t,i] = attention_factor * cos(positions[t] * inv_freq[i]), and sin alike.
[[nodiscard]] Status rope_table_cpu(tensor::TensorView positions, tensor::TensorView inv_freq, float attention_factor,
                                    tensor::TensorView cos, tensor::TensorView sin, device::Stream& stream);

[[nodiscard]] Status rope_table_cuda(tensor::TensorView positions, tensor::TensorView inv_freq, float attention_factor,
                                     tensor::TensorView cos, tensor::TensorView sin, device::Stream& stream);

[[nodiscard]] Status rope_cpu(tensor::TensorView x, tensor::TensorView cos, tensor::TensorView sin,
                              device::Stream& stream);

}  // namespace tandem::kernels

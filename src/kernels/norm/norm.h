// Root-mean-square normalisation of rows: y = x / sqrt(mean(x^2) + eps) * (offset + weight).
//
//   x, y    [T,C] or [T,H,C] f32, last axis dense, other strides free; y may be x
//   weight  [C] f32 | bf16 | f16
// offset is 0 for Llama's convention and 1 for Gemma's, whose weights are stored minus one. Sums are f32, in an order
// that depends only on C and the instruction set. Source: Zhang and Sennrich, arXiv:1910.07467. Errors:
// kInvalidArgument (shapes, dtypes).   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status rms_norm_cpu(tensor::TensorView x, tensor::TensorView weight, float eps, float offset,
                                  tensor::TensorView y, device::Stream& stream);

}  // namespace tandem::kernels

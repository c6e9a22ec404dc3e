// Looks up rows of the embedding table.
//   ids [T] i32     table [V,C] f32 | bf16 | f16     y [T,C] f32, row stride free;   y[t] = scale * table[ids[t]]
// Errors: kInvalidArgument (shapes, dtypes, an id outside 0..V-1).   Threads: the stream's.
#pragma once

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status embedding_cpu(tensor::TensorView ids, tensor::TensorView table, float scale, tensor::TensorView y,
                                   device::Stream& stream);

// On CUDA y may also be bf16, of a bf16 table with scale 1: rows copied as they are. An id outside 0..V-1 gives a row
// of NaN: the device's memory is not looked at before the launch. Errors: kInvalidArgument (also: a build without
// CUDA); kDeviceLost.
[[nodiscard]] Status embedding_cuda(tensor::TensorView ids, tensor::TensorView table, float scale, tensor::TensorView y,
                                    device::Stream& stream);

// Backward: dtable[ids[t]] += scale * dy[t]; dy [T,C], dtable [V,C] f32, row strides free. Tokens ascending. Errors as
// above; on CUDA an id outside 0..V-1 adds nothing.
[[nodiscard]] Status embedding_backward_cpu(tensor::TensorView ids, tensor::TensorView dy, float scale,
                                            tensor::TensorView dtable, device::Stream& stream);
[[nodiscard]] Status embedding_backward_cuda(tensor::TensorView ids, tensor::TensorView dy, float scale,
                                             tensor::TensorView dtable, device::Stream& stream);

}  // namespace tandem::kernels

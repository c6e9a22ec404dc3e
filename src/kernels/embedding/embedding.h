// Looks up rows of the embedding table.
//   ids [T] i32     table [V,C] f32 | bf16 | f16     y [T,C] f32, row stride free;   y[t] = scale * table[ids[t]]
// Errors: kInvalidArgument (shapes, dtypes, an id outside 0..V-1).   Threads: the stream's.
#pragma once

#include <span>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status embedding_cpu(tensor::TensorView ids, tensor::TensorView table, float scale, tensor::TensorView y,
                                   device::Stream& stream);

// What a step's first kernel does on CUDA beside the rows, as a launch of its own for each would cost some
// microseconds. With any of it the kernel does not overlap the one before (common/launch.cuh): what the step before
// wrote is settled for those that follow. All of it may be absent.
//   found      [N] i32: an id of -1 - n stands for found[n], n < N, a token that an earlier kernel chose
//   positions  [T] i32, and up to kAngleTablesMax tables of their angles: what rope_table_cuda() gives, bit for bit
struct AngleTable {
  tensor::TensorView inv_freq;  // [R/2] f32
  float attention_factor = 1.0f;
  tensor::TensorView cos, sin;  // [T,R/2] f32
};
inline constexpr int kAngleTablesMax = 2;
struct WithEmbedding {
  tensor::TensorView found, positions;
  std::span<const AngleTable> angles;
};

// On CUDA y may also be bf16, of a bf16 table with scale 1: rows copied as they are. An id outside 0..V-1 gives a row
// of NaN: the device's memory is not looked at before the launch. Errors: kInvalidArgument (also: a build without
// CUDA); kDeviceLost.
[[nodiscard]] Status embedding_cuda(tensor::TensorView ids, tensor::TensorView table, float scale, tensor::TensorView y,
                                    device::Stream& stream, const WithEmbedding& with = {});

// Backward: dtable[ids[t]] += scale * dy[t]; dy [T,C], dtable [V,C] f32, row strides free. Tokens ascending. Errors as
// above; on CUDA an id outside 0..V-1 adds nothing.
[[nodiscard]] Status embedding_backward_cpu(tensor::TensorView ids, tensor::TensorView dy, float scale,
                                            tensor::TensorView dtable, device::Stream& stream);
[[nodiscard]] Status embedding_backward_cuda(tensor::TensorView ids, tensor::TensorView dy, float scale,
                                             tensor::TensorView dtable, device::Stream& stream);

}  // namespace tandem::kernels

// Which logit of a row is the largest: greedy decoding where the logits are, so that only ids leave the device.
//   logits [N,V] f32, dense     ids [N] i32: the index of the largest, the lowest of equals; -1 where a logit is NaN or
//                               +infinity, or all are -infinity
//   copies [N] i32, or absent: the ids once more, in page-locked memory of the host
// Scratch, on 8 bytes, from largest_cuda_scratch_bytes().
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

std::size_t largest_cuda_scratch_bytes(std::int64_t N);

[[nodiscard]] Status largest_cuda(tensor::TensorView logits, tensor::TensorView ids, tensor::TensorView copies,
                                  std::span<std::byte> scratch, device::Stream& stream);

// Of tokens [T] i32, in place, those below 0: -1 - n becomes found[n]. found [N] i32; n < N.
[[nodiscard]] Status fill_in_found_cuda(tensor::TensorView tokens, tensor::TensorView found, device::Stream& stream);

}  // namespace tandem::kernels

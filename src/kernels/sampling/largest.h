// Which logit of a row is the largest: choose.h for rows that are all greedy and want no log-probabilities, on any card
// and for any vocabulary.
//   logits [N,V] f32, dense     ids [N] i32: the index of the largest, the lowest of equals; -1 where a logit is NaN or
//                               +infinity, or all are -infinity
//   chosen N of them, in page-locked memory of the host: the ids once more
// Scratch, on 8 bytes, from largest_cuda_scratch_bytes().
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/sampling/choose.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

std::size_t largest_cuda_scratch_bytes(std::int64_t N);

[[nodiscard]] Status largest_cuda(tensor::TensorView logits, tensor::TensorView ids, std::span<ChosenToken> chosen,
                                  std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels

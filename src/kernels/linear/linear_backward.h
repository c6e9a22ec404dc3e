// Backward of a linear layer y = alpha * (x W^T + bias) [+ residual]; the residual's gradient is dy itself.
//
//   dx      [T,K] += alpha * dy W              dweight [N,K] += alpha * dy^T x
//   dbias   [N]   += alpha * sum over T of dy  any of them may be absent: not wanted
//   dy [T,N], x [T,K], gradients: f32, last axis dense, row stride free (dbias dense); weight as in linear.h
// The two products are linear layers of transposes (linear.h has precision and order: dx sums over n, dweight over t),
// made a strip at a time, so that scratch does not grow with N*K. dbias sums f32 in ascending blocks of rows.
// Errors: kInvalidArgument, before any write.   Memory: none allocated.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/linear/linear.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

struct LinearGradients {
  tensor::TensorView dx, dweight, dbias;
};

// Scratch, aligned to 64 bytes, enough for any dtype of weight and any choice of gradients.
std::size_t linear_backward_scratch_bytes(std::int64_t T, std::int64_t K, std::int64_t N);

// `x` may be absent if dweight is.
[[nodiscard]] Status linear_backward_cpu(tensor::TensorView x, tensor::TensorView weight, float alpha,
                                         tensor::TensorView dy, const LinearGradients& gradients, Compute compute,
                                         std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels

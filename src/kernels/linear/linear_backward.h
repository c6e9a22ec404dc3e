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

// ---- On CUDA ----
//   x         [T,K] f32 | bf16 (under Compute::kBf16: what the product would have rounded it to)
//   weight    bf16 under kBf16, f32 under kF32, as in the forward; any stride and alignment
//   dy        f32, or where dbias is not wanted bf16 too, alike
//   gradients f32, as above
// Under kBf16 the products read dy and x rounded to bf16. Both products are those of linear.h, in its order: one f32
// accumulator for each element, dx's over n and dweight's over t ascending, in steps of 16 (kBf16) or one fma each
// (kF32); then alpha, and one addition to what was there. So bits do not depend on the tile; a row's dx depends on
// neither T nor its neighbours. dbias: blocks of rows, whose sums are added in an order that depends on T alone.
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.
// Memory: none allocated; scratch, on 256 bytes: the blocks' sums for dbias, and under kBf16 bf16 copies of dy and x
// (room for them also where they are bf16) and of a weight that does not lie on 16 bytes row by row.
std::size_t linear_backward_cuda_scratch_bytes(std::int64_t T, tensor::TensorView weight, Compute compute);

[[nodiscard]] Status linear_backward_cuda(tensor::TensorView x, tensor::TensorView weight, float alpha,
                                          tensor::TensorView dy, const LinearGradients& gradients, Compute compute,
                                          std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels

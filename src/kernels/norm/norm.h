// Root-mean-square normalisation of rows: y = x / sqrt(mean(x^2) + eps) * (offset + weight), and its backward.
//
//   x, y    [T,C] or [T,H,C] f32, last axis dense, other strides free; y may be x
//   weight  [C] f32 | bf16 | f16
//   dy, dx  as x    dweight [C] f32
// offset is 0 for Llama's convention and 1 for Gemma's, whose weights are stored minus one. Sums are f32, in an order
// that depends only on C and the instruction set; dweight's also on T*H. Source: Zhang and Sennrich, arXiv:1910.07467.
// Backward, with r = 1 / sqrt(mean(x^2) + eps) computed again from x and g = dy * (offset + weight):
//   dx += r * (g - x * r^2 * mean(g * x));   dweight += sum over rows of dy * x * r.   Either may be absent: not
//   wanted.
// Errors: kInvalidArgument (shapes, dtypes, scratch), before any write.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/gradients.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

[[nodiscard]] Status rms_norm_cpu(tensor::TensorView x, tensor::TensorView weight, float eps, float offset,
                                  tensor::TensorView y, device::Stream& stream);

// Scratch, on 4 bytes, for dweight; none is needed without it. `rows` is T, or T*H.
std::size_t rms_norm_backward_scratch_bytes(std::int64_t rows, std::int64_t width);
[[nodiscard]] Status rms_norm_backward_cpu(tensor::TensorView x, tensor::TensorView weight, float eps, float offset,
                                           tensor::TensorView dy, tensor::TensorView dx, tensor::TensorView dweight,
                                           std::span<std::byte> scratch, device::Stream& stream);

// On CUDA:
//   x, y, dy, dx  bf16 | f16, all of one dtype; y may be x, and dx may be x or dy      C <= 16384
//   weight        f32 or of x's dtype     dweight f32
// The sums and what leads to them are f32, in the order of norm/row_sm80.cuh: it depends on C only, dweight's on T*H
// too. Rows on 16 bytes with C a multiple of 8 are read 8 elements at a time; others give the same bits, more slowly.
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.
// Both also take x [T,C] or [T,H,C], dy and dx in f32, weight in f32; the forward any C, with y in f32 (which may be x)
// or bf16. Their order is norm/row_f32.cuh's, dweight's as above. The weight is then read before the kernels ahead on
// the stream have ended: whoever writes it there lets a copy follow, or waits, before this is queued.
[[nodiscard]] Status rms_norm_cuda(tensor::TensorView x, tensor::TensorView weight, float eps, float offset,
                                   tensor::TensorView y, device::Stream& stream);

// Scratch, on 16 bytes, for dweight. `mode` is for dx and dweight alike.
std::size_t rms_norm_backward_cuda_scratch_bytes(std::int64_t rows, std::int64_t width);
[[nodiscard]] Status rms_norm_backward_cuda(tensor::TensorView x, tensor::TensorView weight, float eps, float offset,
                                            tensor::TensorView dy, tensor::TensorView dx, tensor::TensorView dweight,
                                            GradientMode mode, std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels

// What happens to queries and keys between their projection and attention, in one pass: root-mean-square norm of each
// head, or of the whole row, or none; then rotary position embedding. The same bits as kernels/norm, then rope.h.
//
//   x, y      [T,H,D] f32, last axis dense, other strides free (heads dense if whole rows are normalised); y may be x
//   weight    [D]: each head is normalised; [H*D]: each row; absent: neither.  f32 | bf16 | f16. If H is 1 both are
//   one. cos, sin  [T,R/2] f32, R <= D (rope.h) dy, dx    as x    dweight as weight, f32
// Backward: dy is turned back by the angles' negatives, in place, so that it is the gradient between norm and rope;
// then dx and dweight are added to as in kernels/norm (dx += dy without a norm). Either may be absent: not wanted;
// without a norm and without dx nothing but the turning is done, which is the backward of a forward in place (y was x).
// The norm is computed again from x: nothing is saved. Sums as in kernels/norm.
// Errors: kInvalidArgument, before any write.   Threads: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/device.h"
#include "kernels/common/gradients.h"
#include "tensor/tensor_view.h"

namespace tandem::kernels {

struct QkNormRope {
  tensor::TensorView weight;  // or absent
  float eps = 0.0f, offset = 0.0f;
  tensor::TensorView cos, sin;
};

[[nodiscard]] Status qk_norm_rope_cpu(tensor::TensorView x, const QkNormRope& params, tensor::TensorView y,
                                      device::Stream& stream);

// Scratch, on 4 bytes, for dweight.
std::size_t qk_norm_rope_backward_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t D);
[[nodiscard]] Status qk_norm_rope_backward_cpu(tensor::TensorView x, const QkNormRope& params, tensor::TensorView dy,
                                               tensor::TensorView dx, tensor::TensorView dweight,
                                               std::span<std::byte> scratch, device::Stream& stream);

// On CUDA, queries and keys in one launch:
//   x, y, dy, dx  bf16 | f16 | f32, all calls' of one dtype and with one D <= 256 and R; y may be x, and dx may be x or
//                 dy
//   weight        [D] or absent: whole rows are not normalised here (but for H = 1); f32 or of x's dtype
// What is between x and y, or dy and dx, is f32 in registers and rounded once, by the operations of
// norm_rope_append_cuda() (kernels/attention). dy is left as it is. A head's sums have an order that depends on D and R
// only, dweight's on T*H too.
// Errors: kInvalidArgument (also: a build without CUDA), before any write; kDeviceLost.
inline constexpr std::size_t kQkNormRopeCallsMax = 2;

struct QkNormRopeCall {
  tensor::TensorView x;
  QkNormRope params;
  tensor::TensorView y;
};
[[nodiscard]] Status qk_norm_rope_cuda(std::span<const QkNormRopeCall> calls, device::Stream& stream);

struct QkNormRopeBackwardCall {
  tensor::TensorView x;  // read only if there is a norm
  QkNormRope params;
  tensor::TensorView dy, dx, dweight;  // dx and dweight may be absent: not wanted
};
// Scratch, on 16 bytes: the sum of this over the calls with a dweight. `half` is R/2.
std::size_t qk_norm_rope_backward_cuda_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t D, std::int64_t half);
[[nodiscard]] Status qk_norm_rope_backward_cuda(std::span<const QkNormRopeBackwardCall> calls, GradientMode mode,
                                                std::span<std::byte> scratch, device::Stream& stream);

}  // namespace tandem::kernels

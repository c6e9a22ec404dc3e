// Norm and rotation of queries and keys on CUDA: arguments are checked here, in builds without CUDA too.
#include "kernels/common/validate.h"
#include "kernels/rope/paths.h"
#include "kernels/rope/qk_norm_rope.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

bool is_aligned(const TensorView& rows) { return HalfRows(rows).is_aligned(); }
bool is_aligned(const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }
// A table's rows.
bool is_aligned_table(const TensorView& table) {
  return table.extent(1) == 0 || (is_aligned(table.data()) && table.stride(0) % 4 == 0);
}

// Checks what forward and backward share, and adds to `shape`, which `is_first` fills.
Status check_call(const char* op, const TensorView& x, const QkNormRope& params, bool is_first, HeadShape& shape,
                  const device::Stream& stream) {
  const device::Device device = stream.device();
  if (x.dtype() == DType::kF32) {
    TD_TRY(expect_view(op, "x", x, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  } else {
    TD_TRY(expect_half_view(op, "x", x, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, device));
  }
  const std::int64_t T = x.extent(0), D = x.extent(2);
  if (!is_absent(params.weight)) {
    const DType weight_dtype = params.weight.dtype() == DType::kF32 ? DType::kF32 : x.dtype();
    TD_TRY(expect_view(op, "weight", params.weight, weight_dtype, {D}, Layout::kDense, device));
  }
  TD_TRY(expect_view(op, "cos", params.cos, DType::kF32, {T, kAnyExtent}, Layout::kLastAxisDense, device));
  const std::int64_t half = params.cos.extent(1);
  TD_TRY(expect_view(op, "sin", params.sin, DType::kF32, {T, half}, Layout::kLastAxisDense, device));
  if (2 * half > D || D > kQkNormRopeWidthMax || T * x.extent(1) > kHalfRowsMax) {
    return invalid_argument(
        "{}: x is {} and the tables have {} columns; expected heads of at most {} elements, tables "
        "of at most half as many columns, and at most {} heads in all",
        op, x.shape().to_string(), half, kQkNormRopeWidthMax, kHalfRowsMax);
  }
  if (!is_first && (shape.dtype != x.dtype() || shape.D != D || shape.half != half)) {
    return invalid_argument("{}: the calls of one launch differ in dtype, D or R; make a launch of each", op);
  }
  shape.dtype = x.dtype();
  shape.D = static_cast<int>(D);
  shape.half = static_cast<int>(half);
  shape.is_aligned = (is_first || shape.is_aligned) && half % kChunk == 0 && (D - 2 * half) % (2 * kChunk) == 0 &&
                     is_aligned(x) && is_aligned(params.weight.data()) && is_aligned_table(params.cos) &&
                     is_aligned_table(params.sin);
  return ok_status();
}

Status check_count(const char* op, std::size_t count, const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(op, stream));
  if (count >= 1 && count <= kQkNormRopeCallsMax) return ok_status();
  return invalid_argument("{}: {} calls; a launch takes 1 to {}", op, count, kQkNormRopeCallsMax);
}

Status expect_heads(const char* op, const char* name, const TensorView& view, const TensorView& x, HeadShape& shape) {
  TD_TRY(expect_view(op, name, view, x.dtype(), {x.extent(0), x.extent(1), x.extent(2)}, Layout::kLastAxisDense,
                     x.device()));
  shape.is_aligned = shape.is_aligned && is_aligned(view);
  return ok_status();
}

}  // namespace

Status qk_norm_rope_cuda(std::span<const QkNormRopeCall> calls, device::Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope";
  TD_TRY(check_count(kOp, calls.size(), stream));
  HeadShape shape;
  for (const QkNormRopeCall& call : calls) {
    TD_TRY(check_call(kOp, call.x, call.params, &call == calls.data(), shape, stream));
    TD_TRY(expect_heads(kOp, "y", call.y, call.x, shape));
  }
  return shape.D == 0 ? ok_status() : qk_norm_rope_forward_sm80(calls, shape, stream);
}

std::size_t qk_norm_rope_backward_cuda_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t D,
                                                     std::int64_t half) {
  if (D < 1 || D > kQkNormRopeWidthMax || 2 * half > D) return 0;  // nothing to add up, or refused
  const int at_once = qk_norm_rope_heads_at_once(static_cast<int>(D), static_cast<int>(half));
  return RowPartition(T * H, at_once).sums_bytes(D);
}

Status qk_norm_rope_backward_cuda(std::span<const QkNormRopeBackwardCall> calls, GradientMode mode,
                                  std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope backward";
  TD_TRY(check_count(kOp, calls.size(), stream));
  HeadShape shape;
  std::size_t scratch_bytes = 0;
  for (const QkNormRopeBackwardCall& call : calls) {
    TD_TRY(check_call(kOp, call.x, call.params, &call == calls.data(), shape, stream));
    TD_TRY(expect_heads(kOp, "dy", call.dy, call.x, shape));
    if (!is_absent(call.dx)) TD_TRY(expect_heads(kOp, "dx", call.dx, call.x, shape));
    if (is_absent(call.dweight)) continue;
    if (is_absent(call.params.weight)) {
      return invalid_argument("{}: dweight without a weight; leave it absent", kOp);
    }
    TD_TRY(expect_view(kOp, "dweight", call.dweight, DType::kF32, {call.x.extent(2)}, Layout::kDense, stream.device()));
    scratch_bytes += qk_norm_rope_backward_cuda_scratch_bytes(call.x.extent(0), call.x.extent(1), shape.D, shape.half);
  }
  TD_TRY(expect_sums_scratch(kOp, scratch, scratch_bytes));
  return shape.D == 0 ? ok_status() : qk_norm_rope_backward_sm80(calls, shape, mode, scratch, stream);
}

#ifndef TANDEM_WITH_CUDA

Status qk_norm_rope_forward_sm80(std::span<const QkNormRopeCall>, const HeadShape&, device::Stream&) {
  return no_cuda_code("qk_norm_rope");
}
Status qk_norm_rope_backward_sm80(std::span<const QkNormRopeBackwardCall>, const HeadShape&, GradientMode,
                                  std::span<std::byte>, device::Stream&) {
  return no_cuda_code("qk_norm_rope backward");
}

#endif

}  // namespace tandem::kernels

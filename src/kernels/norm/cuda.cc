// Root-mean-square normalisation on CUDA: arguments are checked here, in builds without CUDA too.
#include <algorithm>

#include "kernels/common/validate.h"
#include "kernels/norm/norm.h"
#include "kernels/norm/paths.h"

namespace tandem::kernels {
namespace {

using tensor::DType;
using tensor::TensorView;

Status expect_rows(const char* op, const char* name, const TensorView& view, const TensorView& x, DType dtype,
                   device::Device device) {
  if (x.rank() == 3) {
    return expect_view(op, name, view, dtype, {x.extent(0), x.extent(1), x.extent(2)}, Layout::kLastAxisDense, device);
  }
  return expect_view(op, name, view, dtype, {x.extent(0), x.extent(1)}, Layout::kLastAxisDense, device);
}
Status expect_rows(const char* op, const char* name, const TensorView& view, const TensorView& x) {
  return expect_rows(op, name, view, x, x.dtype(), x.device());
}

// Checks what forward and backward share. `is_aligned` is of x and the weight alone.
Result<RmsNormShape> shape_of(const char* op, const TensorView& x, const TensorView& weight,
                              const device::Stream& stream) {
  TD_TRY(expect_cuda_stream(op, stream));
  if (x.rank() == 3) {
    TD_TRY(expect_half_view(op, "x", x, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, stream.device()));
  } else if (x.rank() == 2) {
    TD_TRY(expect_half_view(op, "x", x, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense, stream.device()));
  } else {
    return invalid_argument("{}: x is {}; expected [T,C] or [T,H,C]", op, x.shape().to_string());
  }
  const std::int64_t width = x.extent(x.rank() - 1), heads = x.rank() == 3 ? x.extent(1) : 1;
  const DType weight_dtype = weight.dtype() == DType::kF32 ? DType::kF32 : x.dtype();
  TD_TRY(expect_view(op, "weight", weight, weight_dtype, {width}, Layout::kDense, stream.device()));
  const std::int64_t rows = x.extent(0) * heads;
  if (width > kRmsNormWidthMax || rows > kHalfRowsMax) {
    return invalid_argument("{}: x is {}; at most {} rows of {} elements are supported", op, x.shape().to_string(),
                            kHalfRowsMax, kRmsNormWidthMax);
  }
  const bool is_aligned = width % kChunk == 0 && reinterpret_cast<std::uintptr_t>(weight.data()) % 16 == 0;
  return RmsNormShape{rows, heads, width, x.dtype(), is_aligned && HalfRows(x).is_aligned()};
}

Status rms_norm_f32(const TensorView& x, const TensorView& weight, float eps, float offset, const TensorView& y,
                    device::Stream& stream) {
  constexpr const char* kOp = "rms_norm";
  TD_TRY(expect_cuda_stream(kOp, stream));
  if (x.rank() != 2 && x.rank() != 3) {
    return invalid_argument("{}: x is {}; expected [T,C] or [T,H,C]", kOp, x.shape().to_string());
  }
  const bool has_heads = x.rank() == 3;
  const std::int64_t width = x.extent(x.rank() - 1), heads = has_heads ? x.extent(1) : 1;
  const DType y_dtype = y.dtype() == DType::kBf16 ? DType::kBf16 : DType::kF32;
  TD_TRY(expect_rows(kOp, "x", x, x, DType::kF32, stream.device()));
  TD_TRY(expect_rows(kOp, "y", y, x, y_dtype, stream.device()));
  TD_TRY(expect_view(kOp, "weight", weight, DType::kF32, {width}, Layout::kDense, stream.device()));
  if (x.count() == 0) return ok_status();
  RmsNormF32 call{x.extent(0) * heads, heads, width, x.as<const float>(), x.stride(0)};
  call.weight = weight.as<const float>();
  call.eps = eps;
  call.offset = offset;
  call.y = y.data();
  call.y_is_bf16 = y_dtype == DType::kBf16;
  call.y_stride = y.stride(0);
  if (has_heads) {
    call.x_head_stride = x.stride(1);
    call.y_head_stride = y.stride(1);
  }
  return rms_norm_forward_f32_sm80(call, stream);
}

Status rms_norm_backward_f32(const TensorView& x, const TensorView& weight, float eps, float offset,
                             const TensorView& dy, const TensorView& dx, const TensorView& dweight, GradientMode mode,
                             std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "rms_norm backward";
  TD_TRY(expect_cuda_stream(kOp, stream));
  if (x.rank() != 2 && x.rank() != 3) {
    return invalid_argument("{}: x is {}; expected [T,C] or [T,H,C]", kOp, x.shape().to_string());
  }
  const bool has_heads = x.rank() == 3;
  const std::int64_t width = x.extent(x.rank() - 1), heads = has_heads ? x.extent(1) : 1, rows = x.extent(0) * heads;
  TD_TRY(expect_rows(kOp, "x", x, x, DType::kF32, stream.device()));
  TD_TRY(expect_rows(kOp, "dy", dy, x, DType::kF32, stream.device()));
  TD_TRY(expect_view(kOp, "weight", weight, DType::kF32, {width}, Layout::kDense, stream.device()));
  if (!is_absent(dx)) TD_TRY(expect_rows(kOp, "dx", dx, x, DType::kF32, stream.device()));
  if (!is_absent(dweight)) {
    TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {width}, Layout::kDense, stream.device()));
    TD_TRY(expect_sums_scratch(kOp, scratch, rms_norm_backward_cuda_scratch_bytes(rows, width)));
  } else if (is_absent(dx)) {
    return ok_status();
  }
  if (width > kRmsNormWidthMax) {
    return invalid_argument("{}: x is {}; rows of at most {} elements are supported", kOp, x.shape().to_string(),
                            kRmsNormWidthMax);
  }
  if (width == 0) return ok_status();
  RmsNormBackwardF32 call;
  call.row.rows = rows;
  call.row.heads = heads;
  call.row.width = width;
  call.row.x = x.as<const float>();
  call.row.x_stride = x.stride(0);
  call.row.weight = weight.as<const float>();
  call.row.eps = eps;
  call.row.offset = offset;
  call.dy = dy.as<const float>();
  call.dy_stride = dy.stride(0);
  call.adds = mode == GradientMode::kAdd;
  if (!is_absent(dx)) {
    call.dx = dx.as<float>();
    call.dx_stride = dx.stride(0);
  }
  if (has_heads) {
    call.row.x_head_stride = x.stride(1);
    call.dy_head_stride = dy.stride(1);
    if (!is_absent(dx)) call.dx_head_stride = dx.stride(1);
  }
  if (!is_absent(dweight)) call.sums = reinterpret_cast<float*>(scratch.data());
  return rms_norm_backward_f32_sm80(call, is_absent(dweight) ? nullptr : dweight.as<float>(), stream);
}

}  // namespace

Status rms_norm_cuda(TensorView x, TensorView weight, float eps, float offset, TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "rms_norm";
  if (x.dtype() == DType::kF32) return rms_norm_f32(x, weight, eps, offset, y, stream);
  RmsNormShape shape = TD_TRY(shape_of(kOp, x, weight, stream));
  TD_TRY(expect_rows(kOp, "y", y, x));
  if (x.count() == 0) return ok_status();
  shape.is_aligned = shape.is_aligned && HalfRows(y).is_aligned();
  return rms_norm_forward_sm80(shape, HalfRows(x), {weight.data(), weight.dtype() == DType::kF32, eps, offset},
                               HalfRows(y), stream);
}

std::size_t rms_norm_backward_cuda_scratch_bytes(std::int64_t rows, std::int64_t width) {
  return std::max(RowPartition(rows, rms_norm_rows_at_once(width)).sums_bytes(width),
                  RowPartition(rows, 1).sums_bytes(width));
}

Status rms_norm_backward_cuda(TensorView x, TensorView weight, float eps, float offset, TensorView dy, TensorView dx,
                              TensorView dweight, GradientMode mode, std::span<std::byte> scratch,
                              device::Stream& stream) {
  constexpr const char* kOp = "rms_norm backward";
  if (x.dtype() == DType::kF32) {
    return rms_norm_backward_f32(x, weight, eps, offset, dy, dx, dweight, mode, scratch, stream);
  }
  RmsNormShape shape = TD_TRY(shape_of(kOp, x, weight, stream));
  TD_TRY(expect_rows(kOp, "dy", dy, x));
  if (!is_absent(dx)) TD_TRY(expect_rows(kOp, "dx", dx, x));
  if (!is_absent(dweight)) {
    TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {shape.width}, Layout::kDense, x.device()));
    TD_TRY(expect_sums_scratch(kOp, scratch, rms_norm_backward_cuda_scratch_bytes(shape.rows, shape.width)));
  } else if (is_absent(dx)) {
    return ok_status();
  }
  if (shape.width == 0) return ok_status();
  shape.is_aligned = shape.is_aligned && HalfRows(dy).is_aligned() && HalfRows(dx).is_aligned();
  const RmsNormGradients gradients{HalfRows(dy), HalfRows(dx), static_cast<float*>(dweight.data()),
                                   mode == GradientMode::kAdd};
  return rms_norm_backward_sm80(shape, HalfRows(x), {weight.data(), weight.dtype() == DType::kF32, eps, offset},
                                gradients, scratch, stream);
}

#ifndef TANDEM_WITH_CUDA

Status rms_norm_forward_f32_sm80(const RmsNormF32&, device::Stream&) { return no_cuda_code("rms_norm"); }
Status rms_norm_backward_f32_sm80(const RmsNormBackwardF32&, float*, device::Stream&) {
  return no_cuda_code("rms_norm backward");
}
Status rms_norm_forward_sm80(const RmsNormShape&, const HalfRows&, const RmsNormWeight&, const HalfRows&,
                             device::Stream&) {
  return no_cuda_code("rms_norm");
}
Status rms_norm_backward_sm80(const RmsNormShape&, const HalfRows&, const RmsNormWeight&, const RmsNormGradients&,
                              std::span<std::byte>, device::Stream&) {
  return no_cuda_code("rms_norm backward");
}

#endif

}  // namespace tandem::kernels

#include "kernels/norm/norm.h"

#include "kernels/common/row_blocks.h"
#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/norm.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/norm/norm_row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

void rms_norm_row(const float* x, const void* weight, tensor::DType weight_dtype, std::int64_t width, float eps,
                  float offset, float* y) {
  with_weight(weight, weight_dtype, [&](const auto* w) HWY_ATTR { rms_norm_row_of(x, w, width, eps, offset, y); });
}

void rms_norm_backward_row(const float* x, const void* weight, tensor::DType weight_dtype, const float* dy,
                           std::int64_t width, float eps, float offset, float* dx, float* dweight) {
  with_weight(weight, weight_dtype,
              [&](const auto* w) HWY_ATTR { rms_norm_backward_row_of(x, w, dy, width, eps, offset, dx, dweight); });
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(rms_norm_row);
HWY_EXPORT(rms_norm_backward_row);

namespace {

using tensor::DType;
using tensor::TensorView;

// The rows of [T,C] or [T,H,C], counted through the heads.
class Rows {
 public:
  explicit Rows(const TensorView& view)
      : data_(static_cast<float*>(view.data())),
        heads_(view.rank() == 3 ? view.extent(1) : 1),
        stride_(view.stride(0)),
        head_stride_(view.rank() == 3 ? view.stride(1) : 0) {}
  std::int64_t heads() const { return heads_; }
  float* operator[](std::int64_t row) const { return data_ + row / heads_ * stride_ + row % heads_ * head_stride_; }

 private:
  float* data_;
  std::int64_t heads_, stride_, head_stride_;
};

Status expect_rows(const char* op, const char* name, const TensorView& view, const TensorView& like) {
  if (like.rank() == 3) {
    return expect_view(op, name, view, DType::kF32, {like.extent(0), like.extent(1), like.extent(2)},
                       Layout::kLastAxisDense);
  }
  if (like.rank() == 2) {
    return expect_view(op, name, view, DType::kF32, {like.extent(0), like.extent(1)}, Layout::kLastAxisDense);
  }
  return invalid_argument("{}: {} is {}; expected [T,C] or [T,H,C]", op, name, view.shape().to_string());
}

}  // namespace

Status rms_norm_cpu(TensorView x, TensorView weight, float eps, float offset, TensorView y, device::Stream& stream) {
  TD_TRY(expect_rows("rms_norm", "x", x, x));
  TD_TRY(expect_rows("rms_norm", "y", y, x));
  const std::int64_t width = x.extent(x.rank() - 1);
  TD_TRY(expect_float_view("rms_norm", "weight", weight, {width}, Layout::kDense));
  if (x.count() == 0) return ok_status();

  const Rows from(x), to(y);
  for_row_ranges(stream, x.extent(0) * from.heads(), width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(rms_norm_row)(from[row], weight.data(), weight.dtype(), width, eps, offset, to[row]);
    }
  });
  return ok_status();
}

std::size_t rms_norm_backward_scratch_bytes(std::int64_t rows, std::int64_t width) {
  return RowBlocks(rows).sums_bytes(width);
}

Status rms_norm_backward_cpu(TensorView x, TensorView weight, float eps, float offset, TensorView dy, TensorView dx,
                             TensorView dweight, std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "rms_norm backward";
  TD_TRY(expect_rows(kOp, "x", x, x));
  TD_TRY(expect_rows(kOp, "dy", dy, x));
  if (!is_absent(dx)) TD_TRY(expect_rows(kOp, "dx", dx, x));
  const std::int64_t width = x.extent(x.rank() - 1);
  TD_TRY(expect_float_view(kOp, "weight", weight, {width}, Layout::kDense));
  if (!is_absent(dweight)) TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {width}, Layout::kDense));
  const Rows from(x), gradient(dy);
  const RowBlocks blocks(x.extent(0) * from.heads());
  if (!is_absent(dweight) && scratch.size() < blocks.sums_bytes(width)) {
    return invalid_argument("{}: {} bytes of scratch; rms_norm_backward_scratch_bytes() asks for {}", kOp,
                            scratch.size(), blocks.sums_bytes(width));
  }
  if (x.count() == 0) return ok_status();

  float* const sums = is_absent(dweight) ? nullptr : reinterpret_cast<float*>(scratch.data());
  blocks.for_each(stream, sums, width, [&](std::int64_t begin, std::int64_t end, float* block_sums) {
    for (std::int64_t row = begin; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(rms_norm_backward_row)
      (from[row], weight.data(), weight.dtype(), gradient[row], width, eps, offset,
       is_absent(dx) ? nullptr : Rows(dx)[row], block_sums);
    }
  });
  if (sums != nullptr) blocks.add_sums(sums, width, dweight.as<float>());
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

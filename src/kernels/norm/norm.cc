#include "kernels/norm/norm.h"

#include <cmath>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/norm.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"
#include "kernels/common/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

// Four running sums, vector i of the row into sum i % 4; then pairwise; then across lanes.
HWY_INLINE float sum_of_squares(const float* x, std::int64_t width) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    const auto x2 = hn::LoadU(d, x + i + 2 * lanes), x3 = hn::LoadU(d, x + i + 3 * lanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  for (; i < width; i += lanes) {
    const auto v = i + lanes <= width ? hn::LoadU(d, x + i) : load_part(d, x + i, width - i, 0.0f);
    sum0 = hn::MulAdd(v, v, sum0);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

template <class Weight>
void rms_norm_row_of(const float* x, const Weight* weight, std::int64_t width, float eps, float offset, float* y) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float mean = sum_of_squares(x, width) / static_cast<float>(width);
  const auto inverse = hn::Set(d, 1.0f / std::sqrt(mean + eps)), shift = hn::Set(d, offset);
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const auto factor = hn::Add(shift, load_wide(d, weight + i));
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), inverse), factor), d, y + i);
  }
  if (i < width) {
    const std::int64_t left = width - i;
    const auto factor = hn::Add(shift, load_wide_part(d, weight + i, left));
    store_part(d, hn::Mul(hn::Mul(load_part(d, x + i, left, 0.0f), inverse), factor), y + i, left);
  }
}

void rms_norm_row(const float* x, const void* weight, tensor::DType weight_dtype, std::int64_t width, float eps,
                  float offset, float* y) {
  switch (weight_dtype) {
    case tensor::DType::kBf16:
      return rms_norm_row_of(x, static_cast<const hwy::bfloat16_t*>(weight), width, eps, offset, y);
    case tensor::DType::kF16:
      return rms_norm_row_of(x, static_cast<const hwy::float16_t*>(weight), width, eps, offset, y);
    default: return rms_norm_row_of(x, static_cast<const float*>(weight), width, eps, offset, y);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(rms_norm_row);

Status rms_norm_cpu(tensor::TensorView x, tensor::TensorView weight, float eps, float offset, tensor::TensorView y,
                    device::Stream& stream) {
  using tensor::DType;
  const bool has_heads = x.rank() == 3;
  if (has_heads) {
    TD_TRY(expect_view("rms_norm", "x", x, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
    TD_TRY(
        expect_view("rms_norm", "y", y, DType::kF32, {x.extent(0), x.extent(1), x.extent(2)}, Layout::kLastAxisDense));
  } else {
    TD_TRY(expect_view("rms_norm", "x", x, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
    TD_TRY(expect_view("rms_norm", "y", y, DType::kF32, {x.extent(0), x.extent(1)}, Layout::kLastAxisDense));
  }
  const std::int64_t width = x.extent(x.rank() - 1);
  TD_TRY(expect_float_view("rms_norm", "weight", weight, {width}, Layout::kDense));
  if (x.count() == 0) return ok_status();

  const std::int64_t heads = has_heads ? x.extent(1) : 1;
  const std::int64_t x_head_stride = has_heads ? x.stride(1) : 0, y_head_stride = has_heads ? y.stride(1) : 0;
  for_row_ranges(stream, x.extent(0) * heads, width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t t = row / heads, h = row % heads;
      HWY_DYNAMIC_DISPATCH(rms_norm_row)
      (x.as<float>() + t * x.stride(0) + h * x_head_stride, weight.data(), weight.dtype(), width, eps, offset,
       y.as<float>() + t * y.stride(0) + h * y_head_stride);
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

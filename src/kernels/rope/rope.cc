#include "kernels/rope/rope.h"

#include <cmath>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/rope.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/rope/rope_head-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

void rope_head(const float* cos, const float* sin, std::int64_t half, float* low, float* high) {
  turn_head<false>(cos, sin, half, low, high);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(rope_head);

using tensor::DType;
using tensor::TensorView;

Status rope_table_cpu(TensorView positions, TensorView inv_freq, float attention_factor, TensorView cos, TensorView sin,
                      device::Stream& stream) {
  TD_TRY(expect_view("rope_table", "positions", positions, DType::kI32, {kAnyExtent}, Layout::kDense));
  TD_TRY(expect_view("rope_table", "inv_freq", inv_freq, DType::kF32, {kAnyExtent}, Layout::kDense));
  const std::int64_t tokens = positions.extent(0), half = inv_freq.extent(0);
  TD_TRY(expect_view("rope_table", "cos", cos, DType::kF32, {tokens, half}, Layout::kLastAxisDense));
  TD_TRY(expect_view("rope_table", "sin", sin, DType::kF32, {tokens, half}, Layout::kLastAxisDense));
  if (tokens == 0 || half == 0) return ok_status();

  constexpr std::int64_t kElementsPerAngle = 32;  // an angle costs about as much as this many plain elements
  for_row_ranges(stream, tokens, half * kElementsPerAngle, [&](std::int64_t begin, std::int64_t end) {
    const float* const frequency = inv_freq.as<float>();
    for (std::int64_t t = begin; t < end; ++t) {
      const float position = static_cast<float>(positions.as<std::int32_t>()[t]);
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = position * frequency[i];  // rounded to f32, then widened
        cos.as<float>()[t * cos.stride(0) + i] = static_cast<float>(attention_factor * std::cos(angle));
        sin.as<float>()[t * sin.stride(0) + i] = static_cast<float>(attention_factor * std::sin(angle));
      }
    }
  });
  return ok_status();
}

Status rope_cpu(TensorView x, TensorView cos, TensorView sin, device::Stream& stream) {
  TD_TRY(expect_view("rope", "x", x, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t tokens = x.extent(0), heads = x.extent(1), width = x.extent(2);
  TD_TRY(expect_view("rope", "cos", cos, DType::kF32, {tokens, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t half = cos.extent(1);
  TD_TRY(expect_view("rope", "sin", sin, DType::kF32, {tokens, half}, Layout::kLastAxisDense));
  if (2 * half > width) {
    return invalid_argument("rope: {} pairs do not fit in heads of {} elements; give a table of at most {} columns",
                            half, width, width / 2);
  }
  if (x.count() == 0 || half == 0) return ok_status();

  for_row_ranges(stream, tokens, heads * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* const cos_row = cos.as<float>() + t * cos.stride(0);
      const float* const sin_row = sin.as<float>() + t * sin.stride(0);
      for (std::int64_t h = 0; h < heads; ++h) {
        float* const head = x.as<float>() + t * x.stride(0) + h * x.stride(1);
        HWY_DYNAMIC_DISPATCH(rope_head)(cos_row, sin_row, half, head, head + half);
      }
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

#include "kernels/elementwise/elementwise.h"

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"
#include "kernels/elementwise/activation.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/elementwise.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

void add_scaled_row(const float* a, const float* b, float alpha, std::int64_t count, float* y) {
  const F32 d;
  const auto factor = hn::Set(d, alpha);
  transform_rows(a, b, count, y, [factor](auto x, auto z) HWY_ATTR { return hn::MulAdd(factor, z, x); });
}

void scale_row(const float* a, float alpha, std::int64_t count, float* y) {
  const F32 d;
  const auto factor = hn::Set(d, alpha);
  transform_row(a, count, y, [factor](auto x) HWY_ATTR { return hn::Mul(factor, x); });
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(add_scaled_row);
HWY_EXPORT(scale_row);

namespace {

using tensor::DType;
using tensor::TensorView;

float* row_of(const TensorView& view, std::int64_t row) { return view.as<float>() + row * view.stride(0); }

Status expect_like(const char* op, const char* argument, const TensorView& view, const TensorView& first) {
  return expect_view(op, argument, view, DType::kF32, {first.extent(0), first.extent(1)}, Layout::kLastAxisDense);
}

}  // namespace

Status add_scaled_cpu(TensorView a, TensorView b, float alpha, TensorView y, device::Stream& stream) {
  TD_TRY(expect_view("add_scaled", "a", a, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  TD_TRY(expect_like("add_scaled", "b", b, a));
  TD_TRY(expect_like("add_scaled", "y", y, a));
  const std::int64_t width = a.extent(1);
  for_row_ranges(stream, a.extent(0), width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(add_scaled_row)(row_of(a, t), row_of(b, t), alpha, width, row_of(y, t));
    }
  });
  return ok_status();
}

Status scale_cpu(TensorView a, float alpha, TensorView y, device::Stream& stream) {
  TD_TRY(expect_view("scale", "a", a, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  TD_TRY(expect_like("scale", "y", y, a));
  const std::int64_t width = a.extent(1);
  for_row_ranges(stream, a.extent(0), width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      HWY_DYNAMIC_DISPATCH(scale_row)(row_of(a, t), alpha, width, row_of(y, t));
    }
  });
  return ok_status();
}

Status gate_cpu(TensorView gate, TensorView up, Activation activation, TensorView y, device::Stream& stream) {
  TD_TRY(expect_view("gate", "gate", gate, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  TD_TRY(expect_like("gate", "up", up, gate));
  TD_TRY(expect_like("gate", "y", y, gate));
  const std::int64_t width = gate.extent(1);
  for_row_ranges(stream, gate.extent(0), width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      activate_gate_row(row_of(gate, t), row_of(up, t), width, activation, row_of(y, t));
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

#include "kernels/rope/qk_norm_rope.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/row_blocks.h"
#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/qk_norm_rope.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/norm/norm_row-inl.h"
#include "kernels/rope/rope_head-inl.h"

#ifndef TANDEM_KERNELS_ROPE_QK_NORM_ROPE_UNIT_
#define TANDEM_KERNELS_ROPE_QK_NORM_ROPE_UNIT_
namespace tandem::kernels {
namespace {

// What is normalised at once: one head, or a row of dense heads.
struct Unit {
  std::int64_t width, heads, D;
  const void* weight;  // null: no norm
  tensor::DType weight_dtype;
  float eps, offset;
  const float *cos, *sin;
  std::int64_t half;
};

}  // namespace
}  // namespace tandem::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

void norm_and_turn(const Unit& unit, const float* x, float* y) {
  if (unit.weight != nullptr) {
    with_weight(unit.weight, unit.weight_dtype,
                [&](const auto* weight) HWY_ATTR { rms_norm_row_of(x, weight, unit.width, unit.eps, unit.offset, y); });
  } else if (x != y) {
    std::memcpy(y, x, static_cast<std::size_t>(unit.width) * sizeof(float));
  }
  for (std::int64_t head = 0; head < unit.heads; ++head) {
    turn_head<false>(unit.cos, unit.sin, unit.half, y + head * unit.D, y + head * unit.D + unit.half);
  }
}

// dx and dweight may be null.
void turn_and_norm_back(const Unit& unit, const float* x, float* dy, float* dx, float* dweight) {
  for (std::int64_t head = 0; head < unit.heads; ++head) {
    turn_head<true>(unit.cos, unit.sin, unit.half, dy + head * unit.D, dy + head * unit.D + unit.half);
  }
  if (unit.weight != nullptr) {
    with_weight(unit.weight, unit.weight_dtype, [&](const auto* weight) HWY_ATTR {
      rms_norm_backward_row_of(x, weight, dy, unit.width, unit.eps, unit.offset, dx, dweight);
    });
  } else if (dx != nullptr) {
    transform_rows(dx, dy, unit.width, dx, [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(norm_and_turn);
HWY_EXPORT(turn_and_norm_back);

namespace {

using tensor::DType;
using tensor::TensorView;

// The units of x, counted through tokens, and where each lies in a tensor of x's shape.
class Units {
 public:
  Units(const TensorView& x, const QkNormRope& params)
      : heads_(x.extent(1)), D_(x.extent(2)), params_(params), whole_row_(is_whole_row(x, params)) {}

  static bool is_whole_row(const TensorView& x, const QkNormRope& params) {
    return !is_absent(params.weight) && params.weight.count() != x.extent(2);
  }
  std::int64_t per_token() const { return whole_row_ ? 1 : heads_; }
  std::int64_t width() const { return whole_row_ ? heads_ * D_ : D_; }
  Unit unit(std::int64_t index) const {
    const std::int64_t t = index / per_token();
    return {width(),
            whole_row_ ? heads_ : 1,
            D_,
            params_.weight.data(),
            params_.weight.dtype(),
            params_.eps,
            params_.offset,
            params_.cos.as<float>() + t * params_.cos.stride(0),
            params_.sin.as<float>() + t * params_.sin.stride(0),
            params_.cos.extent(1)};
  }
  float* at(const TensorView& view, std::int64_t index) const {
    return view.as<float>() + index / per_token() * view.stride(0) + index % per_token() * view.stride(1);
  }

 private:
  std::int64_t heads_, D_;
  const QkNormRope& params_;
  bool whole_row_;
};

Status expect_heads(const char* op, const char* name, const TensorView& view, const TensorView& x, bool whole_rows) {
  TD_TRY(expect_view(op, name, view, DType::kF32, {x.extent(0), x.extent(1), x.extent(2)}, Layout::kLastAxisDense));
  if (whole_rows && view.count() > 0 && !view.is_dense_from(1)) {
    return invalid_argument("{}: {} has gaps between its heads; whole rows are normalised where heads are dense", op,
                            name);
  }
  return ok_status();
}

Status expect_params(const char* op, const TensorView& x, const QkNormRope& params) {
  TD_TRY(expect_view(op, "x", x, DType::kF32, {kAnyExtent, kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t T = x.extent(0), H = x.extent(1), D = x.extent(2);
  if (!is_absent(params.weight)) {
    const std::int64_t width = params.weight.rank() == 1 && params.weight.extent(0) != D ? H * D : D;
    TD_TRY(expect_float_view(op, "weight", params.weight, {width}, Layout::kDense));
  }
  TD_TRY(expect_view(op, "cos", params.cos, DType::kF32, {T, kAnyExtent}, Layout::kLastAxisDense));
  const std::int64_t half = params.cos.extent(1);
  TD_TRY(expect_view(op, "sin", params.sin, DType::kF32, {T, half}, Layout::kLastAxisDense));
  if (2 * half > D) {
    return invalid_argument("{}: {} pairs do not fit in heads of {} elements; give a table of at most {} columns", op,
                            half, D, D / 2);
  }
  return expect_heads(op, "x", x, x, Units::is_whole_row(x, params));
}

}  // namespace

Status qk_norm_rope_cpu(TensorView x, const QkNormRope& params, TensorView y, device::Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope";
  TD_TRY(expect_params(kOp, x, params));
  const Units units(x, params);
  TD_TRY(expect_heads(kOp, "y", y, x, units.per_token() == 1));
  if (x.count() == 0) return ok_status();
  for_row_ranges(stream, x.extent(0) * units.per_token(), units.width(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(norm_and_turn)(units.unit(i), units.at(x, i), units.at(y, i));
    }
  });
  return ok_status();
}

std::size_t qk_norm_rope_backward_scratch_bytes(std::int64_t T, std::int64_t H, std::int64_t D) {
  return std::max(RowBlocks(T * H).sums_bytes(D), RowBlocks(T).sums_bytes(H * D));
}

Status qk_norm_rope_backward_cpu(TensorView x, const QkNormRope& params, TensorView dy, TensorView dx,
                                 TensorView dweight, std::span<std::byte> scratch, device::Stream& stream) {
  constexpr const char* kOp = "qk_norm_rope backward";
  TD_TRY(expect_params(kOp, x, params));
  const Units units(x, params);
  const bool whole_rows = Units::is_whole_row(x, params);
  TD_TRY(expect_heads(kOp, "dy", dy, x, whole_rows));
  if (!is_absent(dx)) TD_TRY(expect_heads(kOp, "dx", dx, x, whole_rows));
  if (!is_absent(dweight)) {
    if (is_absent(params.weight)) return invalid_argument("{}: dweight without a weight; leave it absent", kOp);
    TD_TRY(expect_view(kOp, "dweight", dweight, DType::kF32, {units.width()}, Layout::kDense));
  }
  const RowBlocks blocks(x.extent(0) * units.per_token());
  if (!is_absent(dweight) && scratch.size() < blocks.sums_bytes(units.width())) {
    return invalid_argument("{}: {} bytes of scratch; qk_norm_rope_backward_scratch_bytes() asks for enough", kOp,
                            scratch.size());
  }
  if (x.count() == 0) return ok_status();
  float* const sums = is_absent(dweight) ? nullptr : reinterpret_cast<float*>(scratch.data());
  blocks.for_each(stream, sums, units.width(), [&](std::int64_t begin, std::int64_t end, float* block_sums) {
    for (std::int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(turn_and_norm_back)
      (units.unit(i), units.at(x, i), units.at(dy, i), is_absent(dx) ? nullptr : units.at(dx, i), block_sums);
    }
  });
  if (sums != nullptr) blocks.add_sums(sums, units.width(), dweight.as<float>());
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

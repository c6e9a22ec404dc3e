#include <cstring>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"
#include "kernels/moe/moe.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/moe/combine.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

// The rows of one token: row c of the experts' output begins at expert_out + pair_of[c] * stride.
void combine_row(const float* expert_out, std::int64_t stride, const float* weights, const std::int32_t* pair_of,
                 std::int64_t top_k, float alpha, const float* residual, std::int64_t width, float* y) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, alpha);
  for (std::int64_t i = 0; i < width; i += lanes) {
    const std::int64_t valid = width - i < lanes ? width - i : lanes;
    const auto load = [=](const float* from)
                          HWY_ATTR { return valid == lanes ? hn::LoadU(d, from) : load_part(d, from, valid, 0.0f); };
    auto sum = hn::Zero(d);
    for (std::int64_t c = 0; c < top_k; ++c) {
      sum = hn::MulAdd(hn::Set(d, weights[c]), load(expert_out + pair_of[c] * stride + i), sum);
    }
    const auto result = residual != nullptr ? hn::MulAdd(factor, sum, load(residual + i)) : hn::Mul(factor, sum);
    if (valid == lanes) {
      hn::StoreU(result, d, y + i);
    } else {
      store_part(d, result, y + i, valid);
    }
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(combine_row);

using tensor::DType;
using tensor::TensorView;

Status moe_gather_cpu(TensorView x, TensorView tokens, TensorView y, device::Stream& stream) {
  TD_TRY(expect_view("moe_gather", "x", x, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  TD_TRY(expect_view("moe_gather", "tokens", tokens, DType::kI32, {kAnyExtent}, Layout::kDense));
  const std::int64_t pairs = tokens.extent(0), width = x.extent(1);
  TD_TRY(expect_view("moe_gather", "y", y, DType::kF32, {pairs, width}, Layout::kLastAxisDense));
  const std::int32_t* const token = tokens.as<std::int32_t>();
  for (std::int64_t p = 0; p < pairs; ++p) {
    if (token[p] < 0 || token[p] >= x.extent(0)) {
      return invalid_argument("moe_gather: pair {} names token {}; tokens are 0..{}", p, token[p], x.extent(0) - 1);
    }
  }
  if (width == 0) return ok_status();
  for_row_ranges(stream, pairs, width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      std::memcpy(y.as<float>() + p * y.stride(0), x.as<float>() + token[p] * x.stride(0),
                  static_cast<std::size_t>(width) * sizeof(float));
    }
  });
  return ok_status();
}

Status moe_combine_cpu(TensorView expert_out, TensorView weights, TensorView pair_of, float alpha, TensorView residual,
                       TensorView y, device::Stream& stream) {
  TD_TRY(expect_view("moe_combine", "expert_out", expert_out, DType::kF32, {kAnyExtent, kAnyExtent},
                     Layout::kLastAxisDense));
  TD_TRY(expect_view("moe_combine", "weights", weights, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kDense));
  const std::int64_t tokens = weights.extent(0), top_k = weights.extent(1), width = expert_out.extent(1);
  TD_TRY(expect_view("moe_combine", "pair_of", pair_of, DType::kI32, {tokens, top_k}, Layout::kDense));
  TD_TRY(expect_view("moe_combine", "y", y, DType::kF32, {tokens, width}, Layout::kLastAxisDense));
  const bool has_residual = !is_absent(residual);
  if (has_residual) {
    TD_TRY(expect_view("moe_combine", "residual", residual, DType::kF32, {tokens, width}, Layout::kLastAxisDense));
  }
  const std::int32_t* const pair = pair_of.as<std::int32_t>();
  for (std::int64_t i = 0; i < tokens * top_k; ++i) {
    if (pair[i] < 0 || pair[i] >= expert_out.extent(0)) {
      return invalid_argument("moe_combine: token {} names pair {}; pairs are 0..{}", i / top_k, pair[i],
                              expert_out.extent(0) - 1);
    }
  }
  for_row_ranges(stream, tokens, width * (top_k + 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* const residual_row = has_residual ? residual.as<float>() + t * residual.stride(0) : nullptr;
      HWY_DYNAMIC_DISPATCH(combine_row)
      (expert_out.as<float>(), expert_out.stride(0), weights.as<float>() + t * top_k, pair + t * top_k, top_k, alpha,
       residual_row, width, y.as<float>() + t * y.stride(0));
    }
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

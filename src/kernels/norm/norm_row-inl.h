// One row of root-mean-square normalisation, forward and backward, for the Highway kernels that contain it.
// Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_NORM_NORM_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_NORM_NORM_ROW_INL_H_
#undef TANDEM_KERNELS_NORM_NORM_ROW_INL_H_
#else
#define TANDEM_KERNELS_NORM_NORM_ROW_INL_H_
#endif

#include <cmath>
#include <cstdint>

#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"
#include "kernels/common/widen-inl.h"
#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

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

// sum_i dy[i] * (offset + weight[i]) * x[i]: four running sums as in sum_of_squares.
template <class Weight>
HWY_INLINE float weighted_dot(const float* x, const Weight* weight, const float* dy, std::int64_t width, float offset) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, offset);
  const auto term = [&](std::int64_t i) HWY_ATTR {
    return hn::Mul(hn::Mul(hn::LoadU(d, dy + i), hn::Add(shift, load_wide(d, weight + i))), hn::LoadU(d, x + i));
  };
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    sum0 = hn::Add(sum0, term(i));
    sum1 = hn::Add(sum1, term(i + lanes));
    sum2 = hn::Add(sum2, term(i + 2 * lanes));
    sum3 = hn::Add(sum3, term(i + 3 * lanes));
  }
  for (; i + lanes <= width; i += lanes) sum0 = hn::Add(sum0, term(i));
  if (i < width) {
    const std::int64_t left = width - i;
    const auto gain = hn::Add(shift, load_wide_part(d, weight + i, left));
    sum0 = hn::Add(sum0, hn::Mul(hn::Mul(load_part(d, dy + i, left, 0.0f), gain), load_part(d, x + i, left, 0.0f)));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

// With r = 1 / sqrt(mean(x^2) + eps) and g = dy * (offset + weight):
//   dx += r * (g - x * r^2 * mean(g x));   dweight += dy * x * r.   Either may be null: not wanted.
template <class Weight>
void rms_norm_backward_row_of(const float* x, const Weight* weight, const float* dy, std::int64_t width, float eps,
                              float offset, float* dx, float* dweight) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float mean = sum_of_squares(x, width) / static_cast<float>(width);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  const auto r = hn::Set(d, inverse), shift = hn::Set(d, offset);
  if (dx != nullptr) {
    const float dot = weighted_dot(x, weight, dy, width, offset);
    const auto pull = hn::Set(d, dot * inverse / static_cast<float>(width) * inverse);
    const auto step = [&](auto vx, auto vw, auto vdy, auto before) HWY_ATTR {
      return hn::MulAdd(r, hn::NegMulAdd(vx, pull, hn::Mul(vdy, hn::Add(shift, vw))), before);
    };
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      hn::StoreU(step(hn::LoadU(d, x + i), load_wide(d, weight + i), hn::LoadU(d, dy + i), hn::LoadU(d, dx + i)), d,
                 dx + i);
    }
    if (i < width) {
      const std::int64_t left = width - i;
      store_part(d,
                 step(load_part(d, x + i, left, 0.0f), load_wide_part(d, weight + i, left),
                      load_part(d, dy + i, left, 0.0f), load_part(d, dx + i, left, 0.0f)),
                 dx + i, left);
    }
  }
  if (dweight != nullptr) {
    const auto step = [&](auto vx, auto vdy, auto before) HWY_ATTR { return hn::MulAdd(hn::Mul(vx, r), vdy, before); };
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      hn::StoreU(step(hn::LoadU(d, x + i), hn::LoadU(d, dy + i), hn::LoadU(d, dweight + i)), d, dweight + i);
    }
    if (i < width) {
      const std::int64_t left = width - i;
      store_part(d,
                 step(load_part(d, x + i, left, 0.0f), load_part(d, dy + i, left, 0.0f),
                      load_part(d, dweight + i, left, 0.0f)),
                 dweight + i, left);
    }
  }
}

// Calls function(typed pointer) for a weight of dtype f32, bf16 or f16.
template <class Function>
HWY_INLINE void with_weight(const void* weight, tensor::DType dtype, const Function& function) {
  switch (dtype) {
    case tensor::DType::kBf16: return function(static_cast<const hwy::bfloat16_t*>(weight));
    case tensor::DType::kF16: return function(static_cast<const hwy::float16_t*>(weight));
    default: return function(static_cast<const float*>(weight));
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

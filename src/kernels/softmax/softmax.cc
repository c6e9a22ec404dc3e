#include "kernels/softmax/softmax.h"

#include <cmath>
#include <limits>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/common/validate.h"
#include "kernels/softmax/row_sum.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax/softmax.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/math-inl.h"
#include "kernels/common/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

float row_max(const float* x, std::int64_t count) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  auto max0 = hn::Set(d, kLowest), max1 = max0;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    max0 = hn::Max(max0, hn::LoadU(d, x + i));
    max1 = hn::Max(max1, hn::LoadU(d, x + i + lanes));
  }
  for (; i < count; i += lanes) {
    max0 = hn::Max(max0, i + lanes <= count ? hn::LoadU(d, x + i) : load_part(d, x + i, count - i, kLowest));
  }
  const float max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
  return max == kLowest ? 0.0f : max;
}

// Calls visit(e^(x[i..] - max), i, valid lanes) for each vector of the row, and returns the sum.
template <class Visit>
HWY_INLINE float sum_exp(const float* x, std::int64_t count, float max, const Visit& visit) {
  constexpr std::int64_t kBlock = 1024;  // bounds the length of each chain of additions
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto shift = hn::Set(d, max);
  auto total = hn::Zero(d);
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t end = begin + kBlock < count ? begin + kBlock : count;
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    std::int64_t i = begin;
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      const auto e0 = exp_of_nonpositive(d, hn::Sub(hn::LoadU(d, x + i), shift));
      const auto e1 = exp_of_nonpositive(d, hn::Sub(hn::LoadU(d, x + i + lanes), shift));
      visit(e0, i, lanes);
      visit(e1, i + lanes, lanes);
      sum0 = hn::Add(sum0, e0);
      sum1 = hn::Add(sum1, e1);
    }
    for (; i < end; i += lanes) {
      const std::int64_t valid = end - i < lanes ? end - i : lanes;
      const auto v =
          valid == lanes ? hn::LoadU(d, x + i) : load_part(d, x + i, valid, -std::numeric_limits<float>::infinity());
      const auto e = exp_of_nonpositive(d, hn::Sub(v, shift));
      visit(e, i, valid);
      sum0 = hn::Add(sum0, e);
    }
    total = hn::Add(total, hn::Add(sum0, sum1));
  }
  return hn::GetLane(hn::SumOfLanes(d, total));
}

void row_sum(const float* x, std::int64_t count, float* max, float* sum) {
  *max = row_max(x, count);
  *sum = sum_exp(x, count, *max, [](auto, std::int64_t, std::int64_t) HWY_ATTR {});
}

void softmax_row(const float* x, std::int64_t count, float* y) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float max = row_max(x, count);
  const float sum = sum_exp(x, count, max, [=](auto e, std::int64_t i, std::int64_t valid) HWY_ATTR {
    if (valid == lanes) {
      hn::StoreU(e, d, y + i);
    } else {
      store_part(d, e, y + i, valid);
    }
  });
  const auto inverse = hn::Set(d, sum == 0.0f ? 0.0f : 1.0f / sum);
  transform_row(y, count, y, [inverse](auto e) HWY_ATTR { return hn::Mul(e, inverse); });
}

void log_softmax_row(const float* x, std::int64_t count, float* y) {
  const F32 d;
  float max, sum;
  row_sum(x, count, &max, &sum);
  const auto shift = hn::Set(d, max), log_sum = hn::Set(d, sum == 0.0f ? 0.0f : std::log(sum));
  transform_row(x, count, y, [=](auto v) HWY_ATTR { return hn::Sub(hn::Sub(v, shift), log_sum); });
}

void softcap_row(const float* x, float cap, std::int64_t count, float* y) {
  const F32 d;
  const auto limit = hn::Set(d, cap);
  transform_row(x, count, y, [=](auto v) HWY_ATTR { return hn::Mul(limit, tanh(d, hn::Div(v, limit))); });
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(row_sum);
HWY_EXPORT(softmax_row);
HWY_EXPORT(log_softmax_row);
HWY_EXPORT(softcap_row);

namespace {

using tensor::DType;
using tensor::TensorView;

Status expect_rows(const char* op, const TensorView& x, const TensorView& y) {
  TD_TRY(expect_view(op, "x", x, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  return expect_view(op, "y", y, DType::kF32, {x.extent(0), x.extent(1)}, Layout::kLastAxisDense);
}

// Calls function(x row, y row) for each row.
template <class Function>
void for_rows(const TensorView& x, const TensorView& y, device::Stream& stream, const Function& function) {
  if (x.count() == 0) return;
  for_row_ranges(stream, x.extent(0), x.extent(1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      function(x.as<float>() + t * x.stride(0), y.as<float>() + t * y.stride(0));
    }
  });
}

}  // namespace

RowSum row_sum_exp(const float* x, std::int64_t count) {
  RowSum result;
  HWY_DYNAMIC_DISPATCH(row_sum)(x, count, &result.max, &result.sum_exp);
  return result;
}

Status softmax_cpu(TensorView x, TensorView y, device::Stream& stream) {
  TD_TRY(expect_rows("softmax", x, y));
  for_rows(x, y, stream, [&](const float* from, float* to) {
    HWY_DYNAMIC_DISPATCH(softmax_row)(from, x.extent(1), to);
  });
  return ok_status();
}

Status log_softmax_cpu(TensorView x, TensorView y, device::Stream& stream) {
  TD_TRY(expect_rows("log_softmax", x, y));
  for_rows(x, y, stream, [&](const float* from, float* to) {
    HWY_DYNAMIC_DISPATCH(log_softmax_row)(from, x.extent(1), to);
  });
  return ok_status();
}

Status log_sum_exp_cpu(TensorView x, TensorView lse_ln, device::Stream& stream) {
  TD_TRY(expect_view("log_sum_exp", "x", x, DType::kF32, {kAnyExtent, kAnyExtent}, Layout::kLastAxisDense));
  TD_TRY(expect_view("log_sum_exp", "lse_ln", lse_ln, DType::kF32, {x.extent(0)}, Layout::kDense));
  for_row_ranges(stream, x.extent(0), x.extent(1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const RowSum row = row_sum_exp(x.as<float>() + t * x.stride(0), x.extent(1));
      lse_ln.as<float>()[t] = row.max + std::log(row.sum_exp);
    }
  });
  return ok_status();
}

Status softcap_cpu(TensorView x, float cap, TensorView y, device::Stream& stream) {
  TD_TRY(expect_rows("softcap", x, y));
  if (!(cap > 0.0f) || !std::isfinite(cap)) return invalid_argument("softcap: cap is {}; give a positive number", cap);
  for_rows(x, y, stream, [&](const float* from, float* to) {
    HWY_DYNAMIC_DISPATCH(softcap_row)(from, cap, x.extent(1), to);
  });
  return ok_status();
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

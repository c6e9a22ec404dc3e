// One head's rotation, forward and back, for the Highway kernels that contain it.
// Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_ROPE_ROPE_HEAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ROPE_ROPE_HEAD_INL_H_
#undef TANDEM_KERNELS_ROPE_ROPE_HEAD_INL_H_
#else
#define TANDEM_KERNELS_ROPE_ROPE_HEAD_INL_H_
#endif

#include <cstdint>

#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Turns the pairs (low[i], high[i]) of one head, in place, by the table's angles; with kBack by their negatives, which
// is the transpose.
template <bool kBack>
HWY_INLINE void turn_head(const float* cos, const float* sin, std::int64_t half, float* low, float* high) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto turned_low = [](auto a, auto b, auto c, auto s) HWY_ATTR {
    return kBack ? hn::MulAdd(b, s, hn::Mul(a, c)) : hn::NegMulAdd(b, s, hn::Mul(a, c));
  };
  const auto turned_high = [](auto a, auto b, auto c, auto s) HWY_ATTR {
    return kBack ? hn::NegMulAdd(a, s, hn::Mul(b, c)) : hn::MulAdd(a, s, hn::Mul(b, c));
  };
  std::int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    const auto a = hn::LoadU(d, low + i), b = hn::LoadU(d, high + i);
    hn::StoreU(turned_low(a, b, c, s), d, low + i);
    hn::StoreU(turned_high(a, b, c, s), d, high + i);
  }
  if (i < half) {
    const std::int64_t left = half - i;
    const auto c = load_part(d, cos + i, left, 0.0f), s = load_part(d, sin + i, left, 0.0f);
    const auto a = load_part(d, low + i, left, 0.0f), b = load_part(d, high + i, left, 0.0f);
    store_part(d, turned_low(a, b, c, s), low + i, left);
    store_part(d, turned_high(a, b, c, s), high + i, left);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

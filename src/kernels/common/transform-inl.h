// Applies a vector function to rows, for Highway kernels. The tail of a row goes through a full vector as well, so an
// element's result does not depend on its place in the row. Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_COMMON_TRANSFORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_COMMON_TRANSFORM_INL_H_
#undef TANDEM_KERNELS_COMMON_TRANSFORM_INL_H_
#else
#define TANDEM_KERNELS_COMMON_TRANSFORM_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;

// The first `count` < Lanes floats of `from`, and `filler` after them. Reads nothing beyond.
HWY_INLINE hn::Vec<F32> load_part(F32 d, const float* from, std::int64_t count, float filler) {
  HWY_ALIGN float lanes[hn::MaxLanes(F32())];
  hn::Store(hn::Set(d, filler), d, lanes);
  std::memcpy(lanes, from, static_cast<std::size_t>(count) * sizeof(float));
  return hn::Load(d, lanes);
}

HWY_INLINE void store_part(F32 d, hn::Vec<F32> v, float* to, std::int64_t count) {
  HWY_ALIGN float lanes[hn::MaxLanes(F32())];
  hn::Store(v, d, lanes);
  std::memcpy(to, lanes, static_cast<std::size_t>(count) * sizeof(float));
}

// y[i] = function(x[i]); y may be x.
template <class Function>
HWY_INLINE void transform_row(const float* x, std::int64_t count, float* y, const Function& function) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(function(hn::LoadU(d, x + i)), d, y + i);
  if (i < count) store_part(d, function(load_part(d, x + i, count - i, 0.0f)), y + i, count - i);
}

// y[i] = function(a[i], b[i]); y may be a or b.
template <class Function>
HWY_INLINE void transform_rows(const float* a, const float* b, std::int64_t count, float* y, const Function& function) {
  const F32 d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(function(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, y + i);
  }
  if (i < count) {
    const std::int64_t left = count - i;
    store_part(d, function(load_part(d, a + i, left, 0.0f), load_part(d, b + i, left, 0.0f)), y + i, left);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

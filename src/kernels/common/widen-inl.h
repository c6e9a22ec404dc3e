// Loads of 16-bit floats as f32 vectors, exactly, for Highway kernels. Per-target header: included once per target.
#if defined(TANDEM_KERNELS_COMMON_WIDEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_COMMON_WIDEN_INL_H_
#undef TANDEM_KERNELS_COMMON_WIDEN_INL_H_
#else
#define TANDEM_KERNELS_COMMON_WIDEN_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE hn::Vec<F32> load_wide(F32 d, const float* from) { return hn::LoadU(d, from); }
HWY_INLINE hn::Vec<F32> load_wide(F32 d, const hwy::bfloat16_t* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, F32>(), from));
}
HWY_INLINE hn::Vec<F32> load_wide(F32 d, const hwy::float16_t* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, F32>(), from));
}

// The first `count` < Lanes elements, and zeros after them. Reads nothing beyond.
template <class T>
HWY_INLINE hn::Vec<F32> load_wide_part(F32 d, const T* from, std::int64_t count) {
  HWY_ALIGN T lanes[hn::MaxLanes(F32())] = {};
  std::copy_n(from, count, lanes);
  return load_wide(d, lanes);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

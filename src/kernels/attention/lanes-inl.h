// The vectors of CPU attention: at most 16 floats, a number known at compile time. Per-target header.
#if defined(TANDEM_KERNELS_ATTENTION_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ATTENTION_LANES_INL_H_
#undef TANDEM_KERNELS_ATTENTION_LANES_INL_H_
#else
#define TANDEM_KERNELS_ATTENTION_LANES_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_HAVE_SCALABLE
inline constexpr int kLanes = 4;  // what every machine with scalable vectors has
#else
inline constexpr int kLanes = HWY_LANES(float) < 16 ? HWY_LANES(float) : 16;
#endif
using Floats = hn::CappedTag<float, kLanes>;
using Words = hn::RebindToUnsigned<Floats>;
// Half a vector at most: head dimensions are multiples of 8, not always of 16.
using FewFloats = hn::CappedTag<float, (kLanes < 8 ? kLanes : 8)>;
using FewWords = hn::RebindToUnsigned<FewFloats>;

// The bf16 nearest to each lane, ties to even, as the low half of a 32-bit lane. NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> bf16_bits(D, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v), upper = hn::ShiftRight<16>(bits);
  const auto tie = hn::And(upper, hn::Set(du, 1u));
  const auto nearest = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), tie));
  return hn::IfThenElse(hn::RebindMask(du, hn::Eq(v, v)), nearest, hn::Or(upper, hn::Set(du, 0x40u)));
}

// The same, widened back to f32.
template <class D>
HWY_INLINE hn::Vec<D> rounded_to_bf16(D d, hn::Vec<D> v) {
  return hn::BitCast(d, hn::ShiftLeft<16>(bf16_bits(d, v)));
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

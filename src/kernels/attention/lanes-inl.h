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

// The bf16 that is the e4m3 in the low byte of each lane, as the low half of the lane. NaN stays NaN.
template <class DU>
HWY_INLINE hn::Vec<DU> bf16_bits_of_f8(DU du, hn::Vec<DU> bytes) {
  const hn::RebindToFloat<DU> d;
  const auto magnitude = hn::And(bytes, hn::Set(du, 0x7fu));
  // Its bits as those of an f32 mean 2^-120 times as much, whether normal or not.
  const auto wide = hn::Mul(hn::BitCast(d, hn::ShiftLeft<20>(magnitude)), hn::Set(d, 0x1p120f));
  const auto is_nan = hn::Eq(magnitude, hn::Set(du, 0x7fu));
  const auto bits = hn::IfThenElse(is_nan, hn::Set(du, 0x7fc0u), hn::ShiftRight<16>(hn::BitCast(du, wide)));
  return hn::Or(bits, hn::ShiftLeft<8>(hn::And(bytes, hn::Set(du, 0x80u))));
}

// The f16 in the low half of each lane, widened to f32, exactly.
template <class DU>
HWY_INLINE hn::Vec<DU> widened_f16(DU du, hn::Vec<DU> halves) {
  const hn::RebindToFloat<DU> d;
  const auto magnitude = hn::ShiftLeft<13>(hn::And(halves, hn::Set(du, 0x7fffu)));
  // The exponent's bias goes from 15 to 127; infinity and NaN go up as far again. A subnormal is made a number of twice
  // the smallest normal's range, from which that is then taken away.
  const auto normal = hn::Add(magnitude, hn::Set(du, 112u << 23));
  const auto beyond = hn::Add(normal, hn::Set(du, 112u << 23));
  const auto least = hn::Set(du, 113u << 23);
  const auto subnormal = hn::BitCast(du, hn::Sub(hn::BitCast(d, hn::Add(magnitude, least)), hn::BitCast(d, least)));
  auto wide = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x400u << 13)), subnormal, normal);
  wide = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x7c00u << 13)), wide, beyond);
  return hn::Or(wide, hn::ShiftLeft<16>(hn::And(halves, hn::Set(du, 0x8000u))));
}

// The f16 nearest to each lane, ties to even, as the low half of a 32-bit lane. NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> f16_bits(D d, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v), magnitude = hn::And(bits, hn::Set(du, 0x7fffffffu));
  const auto tie = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto rebiased = hn::Sub(hn::Add(magnitude, hn::Add(tie, hn::Set(du, 0xfffu))), hn::Set(du, 112u << 23));
  const auto normal = hn::Min(hn::ShiftRight<13>(rebiased), hn::Set(du, 0x7c00u));
  // Added to 0.5, a number below 2^-14 leaves its multiple of 2^-24, rounded, in the sum's low bits.
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal = hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(du, half));
  auto narrow = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 113u << 23)), subnormal, normal);
  narrow = hn::IfThenElse(hn::RebindMask(du, hn::Eq(v, v)), narrow, hn::Set(du, 0x7e00u));
  return hn::Or(narrow, hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u)));
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

// Vector exp, sigmoid and tanh in f32, accurate to about 1 ulp, for Highway kernels.
//
// NaN stays NaN. Each lane's result depends on that lane only. Per-target header: included once for each target.
// The polynomials are minimax fits of this project's own (relative error below 4e-9, under f32 rounding).
#if defined(TANDEM_KERNELS_COMMON_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_COMMON_MATH_INL_H_
#undef TANDEM_KERNELS_COMMON_MATH_INL_H_
#else
#define TANDEM_KERNELS_COMMON_MATH_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 1.5 * 2^23: added to |t| < 2^22, it leaves the nearest integer to t in the low bits of the sum.
inline constexpr float kRoundingShift = 12582912.0f;

// 2^t for t <= 0; exactly 0 below -126 (no subnormals), and for -infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_of_nonpositive(D d, V t) {
  const hn::RebindToSigned<D> di;
  const V shift = hn::Set(d, kRoundingShift);
  const V shifted = hn::Add(t, shift);
  const V r = hn::Sub(t, hn::Sub(shifted, shift));
  V p = hn::Set(d, 1.53533612e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.33988745e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 9.61843736e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.55033247e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 2.40226479e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 6.93147203e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const V scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  return hn::IfThenZeroElse(hn::Lt(t, hn::Set(d, -126.0f)), hn::IfThenElse(hn::Eq(t, t), scaled, t));
}

// e^x for x <= 0; exactly 0 below -87.3 (no subnormals), and for -infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_of_nonpositive(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V shift = hn::Set(d, kRoundingShift);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift);
  const V n = hn::Sub(shifted, shift);
  // ln 2 in two parts; n * the first is exact.
  const V r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  V p = hn::Set(d, 1.38146018e-3f);
  p = hn::MulAdd(p, r, hn::Set(d, 8.36871522e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.16683879e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.66665206e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.99999934e-1f));
  p = hn::MulAdd(hn::Mul(p, r), r, r);
  p = hn::Add(p, hn::Set(d, 1.0f));
  const V scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3f)), hn::IfThenElse(hn::Eq(x, x), scaled, x));
}

// 1 / (1 + e^-x), to full relative accuracy on both sides.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = exp_of_nonpositive(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V magnitude = hn::Abs(x);
  // |x| < 0.625: odd polynomial, since 1 - e^-2|x| would cancel.
  const V square = hn::Mul(x, x);
  V p = hn::Set(d, 2.14296208e-3f);
  p = hn::MulAdd(p, square, hn::Set(d, -8.17739854e-3f));
  p = hn::MulAdd(p, square, hn::Set(d, 2.17007034e-2f));
  p = hn::MulAdd(p, square, hn::Set(d, -5.39467631e-2f));
  p = hn::MulAdd(p, square, hn::Set(d, 1.33332060e-1f));
  p = hn::MulAdd(p, square, hn::Set(d, -3.33333308e-1f));
  const V small = hn::MulAdd(hn::Mul(p, square), x, x);
  const V e = exp_of_nonpositive(d, hn::Mul(magnitude, hn::Set(d, -2.0f)));
  const V large = hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), x);
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.625f)), small, large);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

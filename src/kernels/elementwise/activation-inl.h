// The activations of gated feed-forward layers, on vectors, for Highway kernels:
//   SiLU       x / (1 + e^-x)
//   GELU tanh  x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), which is x / (1 + e^-2u) of tanh's argument u
//   GELU erf   x/2 (1 + erf(x / sqrt 2))
// Errors are a few ulp on both tails; NaN stays NaN. Source of GELU: Hendrycks and Gimpel, arXiv:1606.08415.
// Per-target header: included once for each target.
#if defined(TANDEM_KERNELS_ELEMENTWISE_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_ELEMENTWISE_ACTIVATION_INL_H_
#undef TANDEM_KERNELS_ELEMENTWISE_ACTIVATION_INL_H_
#else
#define TANDEM_KERNELS_ELEMENTWISE_ACTIVATION_INL_H_
#endif

#include <hwy/highway.h>
#include "kernels/common/math-inl.h"
#include "kernels/linear/linear.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The probability that a standard normal variable exceeds `a` >= 0: e^(-a^2/2) R(a), R by a polynomial in 1/(1 + 0.3
// a).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V normal_tail(D d, V a) {
  const V t = hn::Div(hn::Set(d, 1.0f), hn::MulAdd(a, hn::Set(d, 0.3f), hn::Set(d, 1.0f)));
  V p = hn::Set(d, -2.06282418e-2f);
  p = hn::MulAdd(p, t, hn::Set(d, 1.12462660e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, -2.28280106e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.91877477e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, -7.95046758e-2f));
  p = hn::MulAdd(p, t, hn::Set(d, 9.62026956e-2f));
  p = hn::MulAdd(p, t, hn::Set(d, 7.83729317e-2f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.10239208e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.19571333e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.19686716e-1f));
  // The rounding error of a^2, which e^ would magnify, is recovered exactly from the halves of a.
  const V square = hn::Mul(a, a);
  const V high = hn::And(a, hn::BitCast(d, hn::Set(hn::RebindToUnsigned<D>(), 0xfffff000u)));
  const V low = hn::Sub(a, high);
  const V error = hn::MulAdd(low, low, hn::MulAdd(hn::Add(high, high), low, hn::Sub(hn::Mul(high, high), square)));
  const V half = hn::Set(d, 0.5f);
  const V e = exp_of_nonpositive(d, hn::Neg(hn::Mul(square, half)));
  return hn::Mul(hn::Mul(e, hn::NegMulAdd(error, half, hn::Set(d, 1.0f))), hn::Mul(p, t));
}

template <Activation kActivation, class D, class V = hn::Vec<D>>
HWY_INLINE V apply_activation(D d, V x) {
  // Beyond this, the factor that multiplies x is 0 in f32; x is held there so that -infinity gives 0, not NaN.
  const auto bounded = hn::IfThenElse(hn::Lt(x, hn::Set(d, -1e4f)), hn::Set(d, -1e4f), x);
  if constexpr (kActivation == Activation::kSilu) {
    return hn::Mul(bounded, sigmoid(d, bounded));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    const V cubic = hn::MulAdd(hn::Mul(bounded, bounded), hn::Set(d, 0.044715f), hn::Set(d, 1.0f));
    const V doubled = hn::Mul(hn::Mul(bounded, hn::Set(d, 1.59576912f)), cubic);  // 2 sqrt(2/pi)
    return hn::Mul(bounded, sigmoid(d, doubled));
  } else {
    const V magnitude = hn::Abs(bounded);
    const V held = hn::IfThenElse(hn::Lt(hn::Set(d, 20.0f), magnitude), hn::Set(d, 20.0f), magnitude);
    const V tail = normal_tail(d, held);
    const V share = hn::IfThenElse(hn::Lt(bounded, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
    return hn::Mul(bounded, share);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

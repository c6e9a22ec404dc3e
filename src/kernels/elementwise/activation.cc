#include "kernels/elementwise/activation.h"

#include "kernels/common/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise/activation.cc"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/highway.h>
#include "kernels/common/transform-inl.h"
#include "kernels/elementwise/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

template <Activation kActivation>
void gate_row_of(const float* gate, const float* up, std::int64_t count, float* y) {
  const F32 d;
  transform_rows(gate, up, count, y,
                 [d](auto g, auto u) HWY_ATTR { return hn::Mul(apply_activation<kActivation>(d, g), u); });
}

void gate_row(const float* gate, const float* up, std::int64_t count, Activation activation, float* y) {
  switch (activation) {
    case Activation::kSilu: return gate_row_of<Activation::kSilu>(gate, up, count, y);
    case Activation::kGeluTanh: return gate_row_of<Activation::kGeluTanh>(gate, up, count, y);
    case Activation::kGeluErf: return gate_row_of<Activation::kGeluErf>(gate, up, count, y);
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(gate_row);

void activate_gate_row(const float* gate, const float* up, std::int64_t count, Activation activation, float* y) {
  HWY_DYNAMIC_DISPATCH(gate_row)(gate, up, count, activation, y);
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE

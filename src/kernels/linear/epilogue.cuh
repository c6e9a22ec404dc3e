// What follows a product's sum, in the one order that all paths share. Roundings are spelled out, so that no compiler
// option changes a bit.
#pragma once

#include <cuda_bf16.h>

#include "kernels/linear/paths.h"

namespace tandem::kernels {

// alpha * (sum + bias) + residual
__device__ __forceinline__ float finish_sum(float sum, float bias, bool has_bias, float alpha, float residual,
                                            bool has_residual) {
  if (has_bias) sum = __fadd_rn(sum, bias);
  if (alpha != 1.0f) sum = __fmul_rn(sum, alpha);
  return has_residual ? __fadd_rn(sum, residual) : sum;
}

// The formulas of kernels/elementwise/activation-inl.h. Below -1e4 the factor of x is 0 in f32; x is held there so that
// -infinity gives 0, not NaN.
template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  const float held = x < -1e4f ? -1e4f : x;
  if constexpr (kActivation == Activation::kSilu) {
    return __fdiv_rn(held, __fadd_rn(1.0f, __expf(-held)));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    const float cubic = __fmaf_rn(__fmul_rn(held, held), 0.044715f, 1.0f);
    const float doubled = __fmul_rn(__fmul_rn(held, 1.59576912f), cubic);  // 2 sqrt(2/pi)
    return __fdiv_rn(held, __fadd_rn(1.0f, __expf(-doubled)));
  } else {
    // erfc keeps its precision where 1 + erf would cancel.
    return __fmul_rn(__fmul_rn(0.5f, held), erfcf(__fmul_rn(held, -0.7071067812f)));
  }
}

// act(gate) * up
template <Activation kActivation>
__device__ __forceinline__ float finish_pair(float gate, float up) {
  return __fmul_rn(activate<kActivation>(gate), up);
}

__device__ __forceinline__ float activate_any(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu: return activate<Activation::kSilu>(x);
    case Activation::kGeluTanh: return activate<Activation::kGeluTanh>(x);
    default: return activate<Activation::kGeluErf>(x);
  }
}
__device__ __forceinline__ float finish_pair_any(Activation activation, float gate, float up) {
  return __fmul_rn(activate_any(activation, gate), up);
}

}  // namespace tandem::kernels

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

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::kSilu) {
    return __fdiv_rn(x, __fadd_rn(1.0f, __expf(-x)));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    const float inner = __fmul_rn(0.7978845608f, __fmaf_rn(__fmul_rn(0.044715f, __fmul_rn(x, x)), x, x));
    // tanh(u) = 1 - 2 / (e^2u + 1)
    const float tanh_inner = __fsub_rn(1.0f, __fdiv_rn(2.0f, __fadd_rn(__expf(__fmul_rn(2.0f, inner)), 1.0f)));
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, tanh_inner));
  } else {
    return __fmul_rn(__fmul_rn(0.5f, x), __fadd_rn(1.0f, erff(__fmul_rn(x, 0.7071067812f))));
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

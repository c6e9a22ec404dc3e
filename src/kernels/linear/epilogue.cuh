// What follows a product's sum, in the one order that all paths share. Roundings are spelled out, so that no compiler
// option changes a bit.
#pragma once

#include <cuda_bf16.h>

#include "kernels/linear/paths.h"

namespace tandem::kernels {

// What follows the sums of a call, and where they go, as kernels are given it.
struct LinearOutput {
  const float* bias = nullptr;
  float alpha = 1.0f;
  const float* residual = nullptr;
  std::int64_t residual_stride = 0;
  Activation activation = Activation::kSilu;
  void* y = nullptr;
  bool y_is_bf16 = false;
  std::int64_t y_stride = 0;
};
inline LinearOutput output_of(const LinearCall& call) {
  return {call.bias,       call.alpha, call.residual,  call.residual_stride,
          call.activation, call.y,     call.y_is_bf16, call.y_stride};
}

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

// x / over, rounded to nearest, where none of them, the inverse and the remainders leaves the range of normal numbers.
__device__ __forceinline__ float divide_plainly(float x, float over) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(over));
  inverse = __fmaf_rn(inverse, __fmaf_rn(-over, inverse, 1.0f), inverse);
  float quotient = __fmul_rn(x, inverse);
  quotient = __fmaf_rn(__fmaf_rn(-over, quotient, x), inverse, quotient);
  return __fmaf_rn(__fmaf_rn(-over, quotient, x), inverse, quotient);
}

// finish_pair() of kCount pairs; with kOneRow of those of one of a thread's two rows: every other two of the sums from
// here on. Division as the compiler has it tests each quotient for a slow path by itself; here a group is tested at
// once, so that its steps overlap.
template <Activation kActivation, int kCount, bool kOneRow = false>
__device__ __forceinline__ void finish_pairs(float* gate, const float* up) {
  constexpr auto at = [](int i) { return kOneRow ? i / 2 * 4 + i % 2 : i; };
  if constexpr (kActivation == Activation::kSilu) {
    float quotient[kCount];
    bool is_plain = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float x = gate[at(i)], over = __fadd_rn(1.0f, __expf(-x));
      is_plain = is_plain && fabsf(x) >= 0x1p-100f && fabsf(x) <= 0x1p100f && over <= 0x1p120f;
      quotient[i] = divide_plainly(x, over);
    }
    if (is_plain) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) gate[at(i)] = __fmul_rn(quotient[i], up[at(i)]);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) gate[at(i)] = finish_pair<kActivation>(gate[at(i)], up[at(i)]);
}

}  // namespace tandem::kernels

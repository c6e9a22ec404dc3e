// Loads that end in bf16, for the microkernels that multiply bf16. Rounds to nearest even; subnormals become zero.
// Internal to kernels/linear.
#pragma once

#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // of g++ 12's own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstddef>

#include "kernels/linear/target.h"
#include "tensor/dtype.h"

TD_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace tandem::kernels::linear {

TD_INLINE __m512i narrow(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// 32 weights.
template <tensor::DType kWeight>
TD_INLINE __m512i load_weights(const std::byte* weights) {
  if constexpr (kWeight == tensor::DType::kBf16) {
    return _mm512_loadu_si512(weights);
  } else if constexpr (kWeight == tensor::DType::kF16) {
    return narrow(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights))),
                  _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights) + 1)));
  } else {
    return narrow(_mm512_loadu_ps(weights), _mm512_loadu_ps(weights + 64));
  }
}

// The first min(count, 32) floats, then zeros.
TD_INLINE __m512i load_floats(const float* from, std::int64_t count) {
  const __mmask32 mask = count >= 32 ? ~0u : (1u << count) - 1u;
  return narrow(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from),
                _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16));
}

}  // namespace tandem::kernels::linear
TD_TARGET_END
#endif

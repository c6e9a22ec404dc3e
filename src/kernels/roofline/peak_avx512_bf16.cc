// VDPBF16PS with its operands in registers. 24 chains: its latency of 6 cycles, times up to two a cycle, and some.
#include "kernels/roofline/peak_loop.h"

#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // of g++ 12's own _mm512_undefined_ps()
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels/linear/target.h"

TD_TARGET_BEGIN("avx512f,avx512bf16")
namespace tandem::kernels::roofline {
namespace {

constexpr int kChains = 24;

void multiply_add(std::int64_t iterations) {
  volatile int opaque = 0x3f003f00;  // the compiler must not know the operands
  const __m512bh a = (__m512bh)_mm512_set1_epi32(opaque), b = (__m512bh)_mm512_set1_epi32(opaque);
  __m512 sums[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_castsi512_ps(_mm512_set1_epi32(opaque));  // or it merges chains
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) opaque = static_cast<int>(_mm512_cvtss_f32(sums[i]));
}

}  // namespace

PeakLoop peak_avx512_bf16() { return {2.0 * kChains * 32, multiply_add}; }

}  // namespace tandem::kernels::roofline
TD_TARGET_END

#else
namespace tandem::kernels::roofline {
PeakLoop peak_avx512_bf16() { return {}; }
}  // namespace tandem::kernels::roofline
#endif

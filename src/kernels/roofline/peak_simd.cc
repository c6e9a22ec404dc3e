// Multiply-adds of f32 vectors in registers: enough independent chains to cover latency times issue width.
#include "kernels/roofline/peak_loop.h"

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/roofline/peak_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::roofline::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int kChains = 12;

void multiply_add(std::int64_t iterations) {
  const hn::ScalableTag<float> floats;
  volatile float opaque = 0.5f;  // the compiler must not know the operands
  const auto a = hn::Set(floats, opaque), b = hn::Set(floats, opaque);
  hn::Vec<decltype(floats)> sums[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sums[i] = hn::Set(floats, opaque);
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(a, b, sums[i]);
  }
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) opaque = hn::GetLane(sums[i]);
}

PeakLoop peak() { return {2.0 * kChains * (HWY_MAX_BYTES / 4), multiply_add}; }

}  // namespace tandem::kernels::roofline::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels::roofline {
namespace {
HWY_EXPORT(peak);
}  // namespace

PeakLoop peak_portable() { return HWY_DYNAMIC_DISPATCH(peak)(); }

PeakLoop peak_avx2() {
#if HWY_TARGETS & HWY_AVX2
  return N_AVX2::peak();
#else
  return {};
#endif
}

PeakLoop peak_avx512() {
#if HWY_TARGETS & HWY_AVX3
  return N_AVX3::peak();
#else
  return {};
#endif
}

}  // namespace tandem::kernels::roofline
#endif  // HWY_ONCE
